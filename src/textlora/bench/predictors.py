"""The sides of `bench predict`: raw texts in, logits out, tokenisation included; many texts at once, and one alone."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file
from transformers import AutoModelForSequenceClassification, pipeline

from textlora import device, predict
from textlora.bench.figures import percentile
from textlora.bench.pace import Ask, Pace
from textlora.bench.prepared import MERGED, ONNX, ONNX_INT8, REFERENCE, RUN, Arrays, ByLength, tensors
from textlora.bench.task import Task
from textlora.tokens import load_tokenizer

Answer = Callable[[list[str]], np.ndarray]  # texts to logits (B, C)
ALONE_SECONDS, ALONE_LEAST = 2.0, 30  # of texts one by one, after each round
CALIBRATION = 300  # texts


def answer(ask: Ask, folder: str, how: str, block: int) -> dict[str, Any]:
    """Rounds of side `how` on `block` texts a call; after each, texts one by one; at the end, how it answered."""
    task = Task.read(folder)
    texts, lengths = task.texts(), task.rows()[0].lengths
    answers = SIDES[how](task)
    one_by_one = cycle(texts)
    alone: list[float] = []

    def ask_after_some_alone(report: dict[str, Any] | None) -> float | None:
        if report is not None:
            alone.extend(_alone(answers, one_by_one))
        return ask(report)

    pace = Pace(ask_after_some_alone, warm_up=1)
    go_on, rows = pace.begin(), cycle(range(len(texts)))
    while go_on:
        some = list(islice(rows, block))
        answers([texts[i] for i in some])
        go_on = pace.done(len(some), int(lengths[some].sum()))
    return {
        "p50_ms": round(percentile(alone, 50) * 1000, 3),
        "p99_ms": round(percentile(alone, 99) * 1000, 3),
        "flips": _flips(task, answers(texts)),
        "isa": device.cpu_isa(),
        "precision": str(device.compute_dtype("auto")).removeprefix("torch."),
        "threads": torch.get_num_threads(),
    }


def _alone(answers: Answer, texts: Iterator[str]) -> list[float]:
    """Seconds of each of some calls with one text."""
    began, taken = time.perf_counter(), []
    while len(taken) < ALONE_LEAST or time.perf_counter() - began < ALONE_SECONDS:
        start = time.perf_counter()
        answers([next(texts)])
        taken.append(time.perf_counter() - start)
    return taken


def _flips(task: Task, logits: np.ndarray) -> dict[str, Any]:
    """Texts with another label than PEFT's own merged model in fp32 gives, and how sure that one was of its own."""
    reference = load_file(Path(task.folder) / REFERENCE)["logits"]
    odds = np.exp(reference - reference.max(1, keepdims=True))
    ordered = np.sort(odds / odds.sum(1, keepdims=True), axis=1)
    flipped = logits.argmax(1) != reference.argmax(1)
    margins = (ordered[:, -1] - ordered[:, -2])[flipped]
    return {"count": int(flipped.sum()), "of": len(flipped), "margins": [round(float(m), 5) for m in margins[:20]]}


# -------------------------------------------------------------------------------------------------------------- sides


def _ours(task: Task) -> Answer:
    return predict.load(Path(task.folder) / RUN, base_weights=task.base_folder).predict_logits


def _merged(task: Task, dtype: torch.dtype) -> Any:
    return AutoModelForSequenceClassification.from_pretrained(
        Path(task.folder) / MERGED, dtype=dtype, trust_remote_code=False
    ).eval()


def _pipeline(task: Task) -> Answer:
    """As most people call it: a list of texts, everything else left as it is."""
    tokenizer: Any = load_tokenizer(task.tokenizer_folder)
    answers: Any = pipeline(
        "text-classification",
        model=_merged(task, torch.float32),
        tokenizer=tokenizer,
        device="cpu",
        top_k=None,
        function_to_apply="none",
    )

    def logits(texts: list[str]) -> np.ndarray:
        rows = answers(texts, truncation=True, max_length=task.max_length)
        scores = [{one["label"]: one["score"] for one in row} for row in rows]
        return np.array([[row[label] for label in task.labels] for row in scores], np.float32)

    return logits


def _batched(task: Task) -> Answer:
    """As an expert runs it: bf16 where the CPU has it, batches of 32 by length."""
    network = _merged(task, device.compute_dtype("auto"))

    def run(batch: Arrays) -> np.ndarray:
        with torch.inference_mode():
            return network(**tensors(batch)).logits.float().numpy()

    return ByLength(task, run)


def _onnx(task: Task, file: str) -> Answer:
    import onnxruntime  # type: ignore[import-not-found] - an extra

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(Path(task.folder) / file, options, providers=["CPUExecutionProvider"])
    return ByLength(task, lambda batch: np.asarray(session.run(["logits"], batch)[0]))


def _openvino(task: Task, precision: str, int8: bool = False) -> Answer:
    os.environ.setdefault("OPENVINO_TELEMETRY_OPT_OUT", "1")
    import openvino  # type: ignore[import-not-found] - an extra

    core = openvino.Core()
    network: Any = core.read_model(Path(task.folder) / ONNX)
    if int8:
        network = _quantised(task, network)
    hints = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": precision}
    compiled = core.compile_model(network, "CPU", hints | {"PERFORMANCE_HINT": "LATENCY"})
    return ByLength(task, lambda batch: compiled(batch)[0])


def _quantised(task: Task, network: Any) -> Any:
    """Weights and activations in int8, calibrated on the first texts."""
    import nncf  # type: ignore[import-not-found] - an extra

    by_length = ByLength(task, lambda batch: batch["input_ids"])
    inputs = [batch for _, batch in by_length.batches(task.texts()[:CALIBRATION])]
    return nncf.quantize(network, nncf.Dataset(inputs), model_type=nncf.ModelType.TRANSFORMER)


SIDES: dict[str, Callable[[Task], Answer]] = {
    "ours": _ours,
    "hf_pipeline": _pipeline,
    "hf_batched": _batched,
    "onnx_fp32": lambda task: _onnx(task, ONNX),
    "onnx_int8": lambda task: _onnx(task, ONNX_INT8),
    "openvino_bf16": lambda task: _openvino(task, "bf16"),
    "openvino_int8": lambda task: _openvino(task, "bf16", int8=True),
}
