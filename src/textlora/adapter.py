"""An adapter's folder: PEFT's two files, textlora.json beside them, and the tensors that they hold.

Nothing here knows a network but by PEFT's names of what is trained in it: model.py builds those.
"""

from __future__ import annotations

from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from textlora import bases, runs
from textlora.errors import DamagedError, UsageError
from textlora.longtext import TRUNCATE

WEIGHTS = "adapter_model.safetensors"
PEFT_CONFIG = "adapter_config.json"


@dataclass(frozen=True, kw_only=True)
class AdapterSettings:
    """adapter/textlora.json: what prediction needs and PEFT's adapter_config.json has no field for."""

    form: str  # stock | textlora
    base: str  # hub id
    base_sha256: str | None  # of the base's model.safetensors; None: unknown (a foreign adapter)
    base_revision: str = ""  # the commit of its repository; "": the files were no repository's
    base_weights: str = ""  # random:SEED, if the base was never a real one
    labels: tuple[str, ...]
    head: str
    head_rank: int | None = None  # of a low-rank head
    bag_of_tokens: bool = False
    memory: int = 0  # training texts in it
    temperature: float | None = None  # by which the head's logits were divided: done, in the weights; None: not at all
    pooling: str
    cleaning: tuple[str, ...] = ()
    max_length: int
    long_text: str = TRUNCATE
    text_columns: tuple[str, ...] = ()
    label_column: str = ""
    budget: int | None = None
    trainable_parameters: int | None = None

    @classmethod
    def read(cls, folder: Path) -> AdapterSettings:
        """From a folder's textlora.json. Raises DamagedError if a field without a default is missing."""
        values = runs.read_json(folder / runs.ADAPTER_SETTINGS)
        try:
            known = {f.name: values[f.name] for f in fields(cls) if f.name in values or f.default is MISSING}
        except (KeyError, TypeError) as error:
            raise DamagedError(f"{folder / runs.ADAPTER_SETTINGS} lacks {error}", "copy the adapter again") from None
        plain: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in known.items()}
        return cls(**plain)

    def write(self, folder: Path) -> None:
        runs.write_json(folder / runs.ADAPTER_SETTINGS, asdict(self))


# ------------------------------------------------------------------------------------------------------------ weights


def adapter_tensors(model: PeftModel) -> dict[str, Tensor]:
    """What the adapter file holds, by PEFT's names; the tensors share the model's memory.

    With bias=all PEFT 0.21 lists the head's biases three times: once as they should be, once by their inner name, and
    once more from the untrained copy that it keeps. Only the first are parameters of ours.
    """
    listed = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: t for name, t in listed.items() if not {"original_module", "modules_to_save"} & set(name.split("."))}


def set_adapter_tensors(model: PeftModel, tensors: dict[str, Tensor]) -> None:
    """Copy `tensors` into `model`, in place. A missing, surplus or misshapen one is a DamagedError."""
    own = adapter_tensors(model)
    missing, surplus = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    if missing or surplus:
        what = f"lacks {missing[0]}" if missing else f"holds {surplus[0]}, which this model has no place for"
        raise DamagedError(f"the adapter file {what}", "it belongs to another model, or was cut; copy it again")
    for name, tensor in tensors.items():
        if own[name].shape != tensor.shape:
            shape, expected = list(tensor.shape), list(own[name].shape)
            raise DamagedError(f"{name} has shape {shape}, this base needs {expected}", "it was made for another base")
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)


def check_memory(settings: AdapterSettings, tensors: dict[str, Tensor]) -> None:
    """Raises DamagedError if a memory's texts aren't as many as `settings` says, or don't each have a label.

    Looked at before a model is built: what a file claims would be allocated.
    """
    codes, counts = (tensors.get(f"base_model.model.memory.{name}") for name in ("codes", "counts"))
    rows = 0 if codes is None else len(codes)
    labelled = rows if counts is None else int(counts.sum())
    if not rows == labelled == settings.memory or (counts is not None and (counts < 0).any()):
        what = f"{settings.memory} remembered texts by its settings, {rows} in its file, {labelled} with a label"
        raise DamagedError(f"the adapter has {what}", "copy the adapter again")


def save_weights(model: PeftModel, folder: Path) -> None:
    """PEFT's two files: adapter_model.safetensors and adapter_config.json."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in adapter_tensors(model).items()}
    with runs.storing(folder / WEIGHTS):
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    lora = model.peft_config["default"]
    was_training = lora.inference_mode
    lora.inference_mode = True
    lora.save_pretrained(str(folder))
    lora.inference_mode = was_training


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of a folder's adapter file. Raises DamagedError if there is none or it is damaged."""
    path = folder / WEIGHTS
    if not path.is_file():
        pickled = any((folder / name).is_file() for name in ("adapter_model.bin", "adapter_model.pt"))
        why = " (a pickled one is never read)" if pickled else ""
        raise DamagedError(f"{folder} has no {WEIGHTS}{why}", "copy the adapter again, or save it as safetensors")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise DamagedError(f"{path} is damaged: {error}", "copy it again") from error


# ----------------------------------------------------------------------------------------------------------- settings


def read_lora_config(folder: Path) -> LoraConfig:
    """PEFT's config from its JSON, fields of newer versions left out. Raises DamagedError if it is no LoRA's."""
    values = runs.read_json(folder / PEFT_CONFIG)
    if not isinstance(values, dict):
        raise DamagedError(f"{folder / PEFT_CONFIG} is no adapter's config", "copy the adapter again")
    if values.get("peft_type") != "LORA":
        raise UsageError(f"{folder} holds a {values.get('peft_type')} adapter", "textlora reads LoRA adapters")
    known = {f.name for f in fields(LoraConfig) if f.init}
    given = {
        key: value for key, value in values.items() if key in known and key not in ("auto_mapping", "inference_mode")
    }
    try:
        return LoraConfig(**given, inference_mode=False)
    except (TypeError, ValueError) as error:
        raise DamagedError(f"{folder / PEFT_CONFIG} is damaged: {error}", "copy the adapter again") from error


def read_settings(folder: Path, lora: LoraConfig, tensors: dict[str, Tensor], weights: str) -> AdapterSettings:
    """textlora.json, or what can be known of a foreign PEFT adapter: labels are numbers, the head is the base's own."""
    if (folder / runs.ADAPTER_SETTINGS).is_file():
        return AdapterSettings.read(folder)
    if lora.task_type != "SEQ_CLS":
        raise UsageError(
            f"{folder} is a {lora.task_type} adapter without {runs.ADAPTER_SETTINGS}",
            f"name a classifier's; of one that textlora trained {runs.ADAPTER_SETTINGS} is a part: copy it too",
        )
    outputs = [tensor for name, tensor in tensors.items() if name.endswith((".classifier.bias", ".out_proj.bias"))]
    if not outputs:
        raise DamagedError(f"{folder / WEIGHTS} holds no classification head", "it was saved without one: train again")
    base = bases.find(lora.base_model_name_or_path or "")
    return AdapterSettings(
        form="stock",
        base=base.hub_id,
        base_sha256=None,
        labels=tuple(str(i) for i in range(len(outputs[0]))),
        head="full",
        pooling="cls",
        max_length=bases.shapes(base, weights).longest_text,
    )
