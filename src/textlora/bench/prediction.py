"""`textlora bench predict`: rounds of ours, Hugging Face's pipeline, ONNX Runtime and OpenVINO on one classifier."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from textlora.bench import figures
from textlora.bench.options import Options
from textlora.bench.task import Task, make
from textlora.bench.workers import Failed, Sides
from textlora.errors import GateError

BLOCK = 512  # texts in a call of many
BLOCKS = {"hf_pipeline": 64}  # one by one inside, and slow
EXPORTED = ("onnx_fp32", "onnx_int8", "openvino_bf16", "openvino_int8")
PACKAGES = ("onnxruntime", "openvino", "nncf")
PEERS = ("hf_pipeline", "hf_batched", *EXPORTED)


def measure(options: Options, say: Callable[[str], None]) -> dict[str, Any]:
    """The result of one benchmark of prediction, as `bench.bench` returns it."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        task = make(options, Path(folder))
        with Sides(Path(folder), options.environment, say) as sides:
            trained = _trained(sides, task)
            names = ["ours", *(_exported(sides, task) if options.peers else ())]
            for name in names:
                job = {"side": "answer", "folder": task.folder, "how": name, "block": BLOCKS.get(name, BLOCK)}
                sides.start(name, job)
            sides.rounds(options.rounds, options.seconds)
            found, failed = _figures(sides, task), sides.failed
    if "ours" not in found:
        raise GateError(f"ours doesn't predict: {failed.get('ours')}", "report this")
    return _result(options, task, found, failed) | trained | {"seconds": round(time.monotonic() - began, 1)}


def _trained(sides: Sides, task: Task) -> dict[str, Any]:
    try:
        return sides.once("a small adapter: training", {"side": "adapter", "folder": task.folder})
    except Failed as reason:
        raise GateError(f"ours doesn't train: {reason}", "report this") from None


def _exported(sides: Sides, task: Task) -> list[str]:
    """The peers that can be measured; without an export, those that need none."""
    try:
        sides.once("ONNX: exporting", {"side": "export", "folder": task.folder})
    except Failed as reason:
        sides.failed |= dict.fromkeys(EXPORTED, str(reason))
    return [name for name in PEERS if name not in sides.failed]


def _figures(sides: Sides, task: Task) -> dict[str, dict[str, Any]]:
    workers = dict(sides.workers)
    said = sides.finish()
    return {
        name: figures.rates(workers[name].rounds, task.tokens_per_text, by_length=False)
        | {"startup_seconds": sides.startup[name]}
        | said[name]
        for name in said
    }


def _result(options: Options, task: Task, found: dict[str, dict[str, Any]], failed: dict[str, str]) -> dict[str, Any]:
    about = {key: found["ours"][key] for key in ("isa", "threads", "precision")}
    sides = {name: {key: value for key, value in side.items() if key not in about} for name, side in found.items()}
    ours = sides.pop("ours")
    alone = {name: round(ours["p50_ms"] / peer["p50_ms"], 2) for name, peer in sides.items()}
    return {
        "what": "predict",
        **about,
        **task.about(options, PACKAGES),
        "ours": ours,
        "peers": sides,
        "not_measured": failed,
        "ratio_to_peers": figures.ratios(ours["samples_per_second"], sides, "samples_per_second"),
        "p50_to_peers": alone,
    }
