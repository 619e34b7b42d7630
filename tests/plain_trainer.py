"""The reference: Hugging Face's Trainer on a plain PEFT model, with nothing of textlora but rows and first weights."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

from textlora import adapter
from textlora.config import Config
from textlora.prepare import Prepared, prepare
from textlora.train import train


def quiet(_: str) -> None:
    pass


def plain_peft(prepared: Prepared) -> PeftModel:
    """A plain PEFT model with the base and the initial adapter of `prepared`."""
    config = prepared.config
    initial = {name: tensor.clone() for name, tensor in adapter.adapter_tensors(prepared.network).items()}
    base = copy.deepcopy(prepared.network).unload()
    lora = LoraConfig(
        task_type="SEQ_CLS", r=config.lora_r, lora_alpha=config.lora_alpha, target_modules=list(config.target_modules)
    )
    network = get_peft_model(base, lora)
    adapter.set_adapter_tensors(network, initial)
    return network


def plain_losses(prepared: Prepared, folder: Path) -> list[float]:
    config = prepared.config
    rows = [
        {"input_ids": prepared.train[i].tolist(), "attention_mask": [1] * len(prepared.train[i]), "labels": int(label)}
        for i, label in enumerate(prepared.data.train.labels)
    ]
    trainer = Trainer(
        plain_peft(prepared),
        TrainingArguments(
            str(folder),
            per_device_train_batch_size=config.per_device_train_batch_size,
            gradient_accumulation_steps=config.gradient_accumulation_steps,
            max_steps=config.max_steps,
            learning_rate=config.learning_rate,
            lr_scheduler_type=config.lr_scheduler_type,
            warmup_steps=config.warmup_ratio,
            weight_decay=config.weight_decay,
            optim="adamw_torch",
            seed=config.seed,
            logging_steps=1,
            save_strategy="no",
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=rows,  # type: ignore[arg-type]
        data_collator=DataCollatorWithPadding(prepared.tokenizer),
    )
    # Left alone, transformers 5.23 sums the mean losses of accumulated batches for sequence classifiers (docs/log.md).
    trainer.loss_is_scaled_for_ga = False
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def assert_first_losses_equal_the_plain_trainers(config: Config, tmp_path: Path) -> None:
    """All losses of a short run equal the plain Trainer's to 1e-4, and something was learnt, so that this says much."""
    theirs = plain_losses(prepare(config, quiet), tmp_path / "plain")
    run = train(config, out=tmp_path / "run", say=quiet)
    ours = [record["loss"] for record in run.metrics() if record["split"] == "train"]
    assert len(ours) == len(theirs) == config.max_steps
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)
    assert ours[0] != pytest.approx(ours[-1], abs=1e-3)
