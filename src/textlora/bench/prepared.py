"""What the sides of `bench predict` read: a small adapter trained here, the same merged, and the same as ONNX."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from safetensors.numpy import save_file
from torch import nn
from transformers import AutoModelForSequenceClassification

from textlora import data
from textlora.bench.pace import Ask
from textlora.bench.task import Task
from textlora.tokens import Collator, load_tokenizer
from textlora.train import train

RUN, MERGED, REFERENCE = "run", "merged", "reference.safetensors"
ONNX, ONNX_INT8 = "model.onnx", "model-int8.onnx"
STEPS = 60  # enough for answers that aren't a coin's
BATCH = 32
INPUTS = ("input_ids", "attention_mask")
Arrays = dict[str, np.ndarray]  # INPUTS, each (B, T) int64


def adapter(ask: Ask, folder: str) -> dict[str, Any]:
    """Train an adapter of the peers' form, merge it with PEFT in fp32, and keep what that model answers."""
    task = Task.read(folder)
    _, labels = task.rows()
    rows = data.from_texts(task.texts(), labels, task.labels)
    run = train(task.config(max_steps=STEPS, learning_rate=5e-4), rows=rows, out=Path(folder) / RUN)
    merged = _merged(task, run.adapter)
    merged.save_pretrained(Path(folder) / MERGED)
    load_tokenizer(task.tokenizer_folder).save_pretrained(Path(folder) / MERGED)
    network = merged.eval()
    with torch.inference_mode():
        answers = ByLength(task, lambda batch: network(**tensors(batch)).logits.numpy())(task.texts())
    save_file({"logits": answers}, Path(folder) / REFERENCE)
    return {"validation_accuracy": run.summary()["best_validation_accuracy"]}


def _merged(task: Task, adapter: Path) -> Any:
    base = AutoModelForSequenceClassification.from_pretrained(
        task.base_folder,
        num_labels=len(task.labels),
        ignore_mismatched_sizes=True,
        id2label=dict(enumerate(task.labels)),
        label2id={label: i for i, label in enumerate(task.labels)},
        dtype=torch.float32,
        trust_remote_code=False,
    )
    return PeftModel.from_pretrained(base, str(adapter)).merge_and_unload()  # type: ignore[operator]


def tensors(batch: Arrays) -> dict[str, torch.Tensor]:
    """A batch's arrays as torch takes them, in the same memory."""
    return {name: torch.from_numpy(array) for name, array in batch.items()}


class ByLength:
    """Texts to logits as peers are best run: batches of 32 by length; one text alone without detours."""

    def __init__(self, task: Task, network: Callable[[Arrays], np.ndarray]) -> None:
        self.network, self.max_length = network, task.max_length
        self.tokenizer = load_tokenizer(task.tokenizer_folder)
        self.collator = Collator(self.tokenizer.pad_token_id)  # type: ignore[arg-type]

    def __call__(self, texts: list[str]) -> np.ndarray:
        """Logits (B, C) in the order of `texts`; `network` makes them from a batch's arrays."""
        found = [(rows, self.network(batch)) for rows, batch in self.batches(texts)]
        answers = np.empty((len(texts), found[0][1].shape[1]), np.float32)
        answers[np.concatenate([rows for rows, _ in found])] = np.concatenate([logits for _, logits in found])
        return answers

    def batches(self, texts: list[str]) -> Iterator[tuple[np.ndarray, Arrays]]:
        """Row numbers and padded inputs."""
        ids = self.tokenizer(texts, truncation=True, max_length=self.max_length)["input_ids"]
        order = np.argsort([len(row) for row in ids], kind="stable")  # type: ignore[arg-type]
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            padded = self.collator.pad([np.asarray(ids[i]) for i in rows])  # type: ignore[index]
            yield rows, {name: padded[name].numpy() for name in INPUTS}


class _Logits(nn.Module):
    """A classifier as two arrays in, one out."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.network(input_ids=input_ids, attention_mask=attention_mask).logits


def export(ask: Ask, folder: str) -> dict[str, Any]:
    """The merged model as ONNX, in fp32 and with its weights in int8 (dynamic quantisation)."""
    import onnxruntime.quantization as ort  # type: ignore[import-not-found] - an extra; missing, it is this side's reason

    network = AutoModelForSequenceClassification.from_pretrained(
        Path(folder) / MERGED, dtype=torch.float32, trust_remote_code=False
    ).eval()
    ids = torch.ones(2, 16, dtype=torch.int64)
    sizes = {0: torch.export.Dim("texts"), 1: torch.export.Dim("tokens", max=Task.read(folder).max_length)}
    target = Path(folder) / ONNX
    torch.onnx.export(
        _Logits(network),
        (ids, torch.ones_like(ids)),
        str(target),
        input_names=list(INPUTS),
        output_names=["logits"],
        dynamic_shapes=(sizes, sizes),
        dynamo=True,
    )
    ort.quantize_dynamic(str(target), str(Path(folder) / ONNX_INT8), weight_type=ort.QuantType.QInt8)
    return {"files": [ONNX, ONNX_INT8]}
