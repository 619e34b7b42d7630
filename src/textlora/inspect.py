"""What is in an adapter folder: counted from its config and the header of its safetensors file, nothing unpickled.

Any PEFT LoRA adapter will do, ours or another's. Only JSON is read, no tensor, and torch isn't imported.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from textlora import bases, runs
from textlora.bases import PICKLES
from textlora.budget import Adapted, pattern_key
from textlora.counts import base_parameters
from textlora.errors import DamagedError, UsageError
from textlora.header import AGAIN, Shape, damaged, read_header
from textlora.shapes import PREFIXES

WEIGHTS = "adapter_model.safetensors"
PEFT_CONFIG = "adapter_config.json"
PEFT_PREFIX = "base_model.model."
# Modules that are a head in any family: PEFT's SEQ_CLS saves the last two unasked, DistilBERT's has the first too.
HEADS = ("pre_classifier", "classifier", "score")
BAG, MEMORY = "bag_of_tokens", "memory"
# How the last linear of a head ends: RoBERTa's own, a low-rank one's (a row of layers), all others'.
OUTPUTS = ("out_proj.bias", "classifier.3.bias", "classifier.1.bias", "classifier.bias", "score.bias", "score.weight")
# With bias=all PEFT 0.21 writes the head's biases three times: the untrained copy's, the trained one's by its inner
# name, and the trained one's by its name. The first two are nobody's parameters.
COPY = re.compile(r"\.(original_module|modules_to_save)\.")
LORA = re.compile(r"(?P<module>.+)\.(?P<part>lora_.+)")

# What we read of the two JSON files, both of which may come from anywhere; a key may be missing or null.
CONFIG_TYPES = {
    "base_model_name_or_path": str,
    "task_type": str,
    "r": int,
    "lora_alpha": (int, float),
    "rank_pattern": dict,
    "alpha_pattern": dict,
    "modules_to_save": list,
    "target_modules": (list, str),
    "use_dora": bool,
    "use_rslora": bool,
}
SETTINGS_TYPES = {
    "form": str,
    "base": str,
    "base_sha256": str,
    "labels": list,
    "head": str,
    "head_rank": int,
    "pooling": str,
    "budget": int,
}


@dataclass(frozen=True)
class Contents:
    """Shapes of an adapter file's tensors by group; names as in the model, without PEFT's prefix."""

    adapters: dict[str, Shape]
    biases: dict[str, Shape]
    bag_of_tokens: dict[str, Shape]
    memory: dict[str, Shape]
    head: dict[str, Shape]  # the rest: every other tensor that was saved is one that was trained


def inspect_adapter(folder: Path) -> dict[str, Any]:
    """The contract's keys for the adapter in `folder` (an adapter folder, or a run that has one); None: not known.

    Also `format`: stock (PEFT's SEQ_CLS), textlora (our head, see textlora.json), else PEFT's task type.

    Raises UsageError if there is no LoRA adapter in the folder, DamagedError for pickled weights or a file that isn't
    what it claims to be.
    """
    adapter = runs.adapter_folder(_existing(Path(folder)))
    config = _object(adapter / PEFT_CONFIG, CONFIG_TYPES)
    if config.get("peft_type") != "LORA":
        raise UsageError(f"{adapter} holds a {config.get('peft_type')} adapter", "textlora reads LoRA adapters")
    settings_file = adapter / runs.ADAPTER_SETTINGS
    settings = _object(settings_file, SETTINGS_TYPES) if settings_file.is_file() else {}
    contents = _contents(read_header(_weights(adapter)), config)
    modules = _modules(contents.adapters, config)

    said = _said(config, settings)
    labels = said["labels"]
    return {
        **said,
        "num_labels": len(labels) if labels else _num_labels(contents.head),
        **_counted(contents, said["base"], said["format"], said["budget"]),
        "largest_r": None,  # a question to a plan, not to a file
        "modules": modules,
    }


def _said(config: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """What the two JSON files say; a stock adapter's head and pooling follow from its form."""
    form = settings.get("form") or ("stock" if config.get("task_type") == "SEQ_CLS" else config.get("task_type"))
    asked = config.get("target_modules") or ()
    return {
        "base": settings.get("base") or config.get("base_model_name_or_path"),
        "base_sha256": settings.get("base_sha256"),
        "format": form,
        "labels": settings.get("labels"),
        "head_kind": settings.get("head") or ("full" if form == "stock" else None),
        "head_rank": settings.get("head_rank"),
        "pooling": settings.get("pooling") or ("cls" if form == "stock" else None),
        "budget": settings.get("budget"),
        "r": config.get("r"),
        "lora_alpha": config.get("lora_alpha"),
        "use_dora": bool(config.get("use_dora")),
        "use_rslora": bool(config.get("use_rslora")),
        "target_modules": [asked] if isinstance(asked, str) else sorted(asked, key=_by_layer),
    }


def _counted(contents: Contents, base: str | None, form: str | None, budget: int | None) -> dict[str, Any]:
    """Numbers in the file by group; total and percent if the base is one of ours."""
    groups = (contents.adapters, contents.head, contents.bag_of_tokens, contents.memory, contents.biases)
    adapters, head, bag, memory, biases = map(_numel, groups)
    trainable = adapters + head + bag + memory + biases
    frozen = _frozen(base, form, biases)
    total = None if frozen is None else frozen + trainable
    return {
        "total": total,
        "trainable": trainable,
        "trainable_percent": round(100 * trainable / total, 2) if total else None,
        "adapters": adapters,
        "head": head,
        "bag_of_tokens": bag,
        "memory": memory,
        "biases": biases,
        "fits": None if budget is None else trainable <= budget,
    }


# -------------------------------------------------------------------------------------------------------- the folder


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}", "name an adapter folder or a run")
    return folder


def _object(path: Path, types: Mapping[str, Any]) -> dict[str, Any]:
    """The object in a JSON file, the keys in `types` of these types."""
    values = runs.read_json(path)
    if not isinstance(values, dict):
        raise damaged(path, "it holds no JSON object")
    for key, expected in types.items():
        value = values.get(key)
        is_wrong = value is not None and not isinstance(value, expected)
        if is_wrong or (isinstance(value, list) and not all(isinstance(item, str) for item in value)):
            raise damaged(path, f"{key} is {str(value)[:120]}")
    return values


def _weights(adapter: Path) -> Path:
    if (adapter / WEIGHTS).is_file():
        return adapter / WEIGHTS
    pickles = sorted(path.name for pattern in PICKLES for path in adapter.glob(pattern))
    if pickles:
        raise DamagedError(
            f"{adapter} has only {', '.join(pickles)}: pickles, never unpickled", f"save it as {WEIGHTS}"
        )
    raise DamagedError(f"{adapter} has no {WEIGHTS}", AGAIN)


# ----------------------------------------------------------------------------------------------------------- groups


def _contents(header: Mapping[str, Shape], config: Mapping[str, Any]) -> Contents:
    """The header's tensors by group, PEFT's copies of the head left out."""
    heads = (*HEADS, *(config.get("modules_to_save") or ()))
    groups: dict[str, dict[str, Shape]] = {"adapters": {}, "biases": {}, BAG: {}, MEMORY: {}, "head": {}}
    for name, shape in header.items():
        if not COPY.search(name):
            bare = name.removeprefix(PEFT_PREFIX)
            groups[_group(bare, heads)][bare] = shape
    return Contents(**groups)


def _group(name: str, heads: Iterable[str]) -> str:
    if LORA.match(name):
        return "adapters"
    if name == f"{BAG}.weight":
        return BAG
    if name.startswith(f"{MEMORY}."):
        return MEMORY
    in_head = any(f".{head}." in f".{name}" for head in heads)
    return "biases" if name.endswith(".bias") and not in_head else "head"


def _numel(group: Mapping[str, Shape]) -> int:
    return sum(prod(shape) for shape in group.values())


def _modules(adapters: Mapping[str, Shape], config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The adapted linears, layer by layer. `parameters` also has what DoRA and lora_bias add to the pair."""
    parts: dict[str, dict[str, Shape]] = {}
    for name, shape in adapters.items():
        module, part = LORA.fullmatch(name).groups()  # type: ignore[union-attr]  # _group matched it
        parts.setdefault(module, {})[part] = shape
    return [
        {**_adapted(module, parts[module], config).to_dict(), "parameters": _numel(parts[module])}
        for module in sorted(parts, key=_by_layer)
    ]


def _adapted(name: str, tensors: Mapping[str, Shape], config: Mapping[str, Any]) -> Adapted:
    """From the shapes of the pair A [r, in] and B [out, r], which must agree with the config's rank."""
    a, b = tensors.get("lora_A.weight"), tensors.get("lora_B.weight")
    if a is None and b is None:
        raise UsageError(f"{name} has an adapter of {', '.join(tensors)}", "textlora reads LoRA on linear modules")
    if a is None or b is None or len(a) != 2 or len(b) != 2 or a[0] != b[1]:
        raise DamagedError(f"the adapter of {name} is no pair of A [r, in] and B [out, r]: {dict(tensors)}", AGAIN)
    r = _patterned(config, "r", "rank_pattern", name)
    if r != a[0]:
        raise DamagedError(f"the adapter of {name} has rank {a[0]}, {PEFT_CONFIG} says {r}", AGAIN)
    alpha = _patterned(config, "lora_alpha", "alpha_pattern", name)
    return Adapted(_bare(name), in_features=a[1], out_features=b[0], r=a[0], lora_alpha=alpha)


def _patterned(config: Mapping[str, Any], default: str, pattern: str, name: str) -> int:
    """The config's `default` for a module, or what the first matching key of `pattern` says."""
    values = config.get(pattern) or {}
    try:
        key = pattern_key(values, name)
    except re.error as error:
        raise DamagedError(f"{PEFT_CONFIG}: {pattern} is damaged: {error}", AGAIN) from None
    value = config.get(default) if key is None else values[key]
    if not isinstance(value, int | float):
        raise DamagedError(f"{PEFT_CONFIG} gives {name} the {default} {value!r}", AGAIN)
    return value  # type: ignore[return-value]  # PEFT allows alpha 0.5, we only show it


def _bare(name: str) -> str:
    """Without the model's prefix, as a plan names modules."""
    return next((name.removeprefix(prefix) for prefix in PREFIXES.values() if name.startswith(prefix)), name)


def _by_layer(name: str) -> list[tuple[int, str]]:
    """Sort key in which layer 10 comes behind layer 9."""
    return [(int(part) if part.isdecimal() else -1, part) for part in name.split(".")]


def _frozen(base: str | None, form: str | None, biases: int) -> int | None:
    """Untrained numbers of the base; None for a base that isn't ours and for a task whose model we don't build."""
    head = {"stock": "full", "textlora": "linear"}.get(form or "")
    try:
        shapes = bases.find(base or "").shapes
    except UsageError:
        return None
    return base_parameters(shapes, head) - biases if head and shapes else None


def _num_labels(head: Mapping[str, Shape]) -> int | None:
    """From the bias of the head's last linear."""
    for ending in OUTPUTS:
        for name, shape in head.items():
            if f".{name}".endswith(f".{ending}") and shape:
                return shape[0]
    return None
