"""A trained model to its adapter folder, and back: what was saved must be what was trained."""

from __future__ import annotations

import numpy as np
from peft import PeftModel

from textlora import adapter, bases, device, engine, model, predict, runs
from textlora.adapter import AdapterSettings
from textlora.errors import GateError
from textlora.prepare import Prepared
from textlora.runs import Run

CHECKED_TEXTS = 64  # on which a reloaded adapter must give the logits of the one in memory


def save_adapter(run: Run, prepared: Prepared, trained: PeftModel, temperature: float | None) -> None:
    """Weights, PEFT's config, our settings and the tokenizer, all that loading it takes but the base.

    `temperature` is in the weights already; it is written down for who wants to know.
    """
    config = prepared.config
    settings = AdapterSettings(
        form="stock" if config.head == "full" else "textlora",
        base=bases.find(config.base).hub_id,
        base_sha256=prepared.base_sha256,
        base_revision=config.base_revision,
        base_weights=config.base_weights if config.base_weights.startswith("random:") else "",
        labels=prepared.labels,
        head=config.head,
        head_rank=prepared.plan.head_rank,
        bag_of_tokens=prepared.plan.bag_of_tokens > 0,
        memory=prepared.plan.memory_rows,
        temperature=temperature,
        pooling=prepared.plan.pooling,
        cleaning=config.cleaning,
        max_length=config.max_length,
        long_text=config.long_text,
        text_columns=prepared.data.text_columns,
        label_column=prepared.data.label_column,
        budget=config.budget,
        trainable_parameters=prepared.plan.trainable,
    )
    adapter.save_weights(trained, run.adapter)
    settings.write(run.adapter)
    with runs.storing(run.adapter):
        prepared.tokenizer.save_pretrained(run.adapter)


def distrust(run: Run, prepared: Prepared, trained: PeftModel) -> None:
    """Load what was saved into a fresh model: it must give the same logits and hold the planned number of parameters.

    Raises GateError. A head that was not saved is a fault often reported of LoRA classifiers (peft issues 310, 577).
    """
    loaded = model.load(
        run.adapter,
        base_weights=prepared.config.base_weights,
        tokenizer=prepared.config.tokenizer,
        dtype=prepared.dtype,
        quantize=prepared.config.quantize,
    )
    if engine.swapped_in(trained):
        engine.swap_in(loaded.model)
    sample = prepared.validation.take(range(min(CHECKED_TEXTS, prepared.validation.texts)))
    before, after = (predict.logits(network, sample, prepared.pad_id) for network in (trained, loaded.model))
    difference = float(np.abs(before - after).max())
    allowed = 0.0 if device.pick_device().type == "cpu" else 1e-3  # a GPU may pick another kernel
    if not difference <= allowed:
        raise GateError(f"the saved adapter gives other logits after loading, by up to {difference:.3g}", "report this")
    saved = sum(tensor.numel() for tensor in adapter.read_weights(run.adapter).values())
    if saved != prepared.plan.trainable:
        raise GateError(f"planned {prepared.plan.trainable:,} parameters, the file holds {saved:,}", "report this")
