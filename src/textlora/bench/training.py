"""`textlora bench train`: rounds of ours, of Trainer + PEFT run in four ways, and of the limit."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from textlora import bases
from textlora.bench import figures
from textlora.bench.options import Options
from textlora.bench.task import Task, make
from textlora.bench.workers import Failed, Sides
from textlora.errors import GateError

BY_LENGTH = ("ours", "plain", "limit", "trainer_expert")  # whose batches hold texts of one length
SMALL = 512  # hidden sizes below: the first seed's batch of 32 texts; above: 16
PADDED = "hf_max512_fp32"
# What a peer has freed stays its own (glibc). A virtual machine may hand it back to its host else, and after a pause or
# at a longer text a step takes up to ten times as long: seen here, 181 texts a second in one round and 33 in the next.
KEEPS_MEMORY = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)}


def measure(options: Options, say: Callable[[str], None]) -> dict[str, Any]:
    """The result of one benchmark of training, as `bench.bench` returns it."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        task = make(options, Path(folder))
        with Sides(Path(folder), options.environment, say) as sides:
            found = {} if not options.peers else _padded(sides, task)
            tuned = _start_ours(sides, task)
            sides.rounds(options.rounds, options.seconds)
            tried = _beside_peers(sides, task, options, found) if options.peers else []
            found |= _sides(sides, task)
            failed = sides.failed
    if "ours" not in found or "limit" not in found:
        raise GateError(f"nothing to compare with: {failed}", "report this")
    found["ours"]["tried"] = tuned["tokens_per_second"]
    if "trainer_expert" in found:
        found["trainer_expert"]["tried"] = tried
    return _result(options, task, found, failed) | {"seconds": round(time.monotonic() - began, 1)}


def _start_ours(sides: Sides, task: Task) -> dict[str, Any]:
    """Ours with the fastest batches; the same without the engine, and the limit, of the same batches."""
    try:
        tuned = sides.once("ours: choosing batch_tokens", {"side": "best_batch_tokens", "folder": task.folder})
    except Failed as reason:
        raise GateError(f"ours doesn't train: {reason}", "report this") from None
    job = {"side": "ours", "folder": task.folder, "batch_tokens": tuned["best"]}
    sides.start("ours", job)
    sides.start("plain", job | {"engine": "plain"})
    sides.start("limit", job | {"side": "limit"})
    return tuned


def _padded(sides: Sides, task: Task) -> dict[str, dict[str, Any]]:
    """Every text padded to 512: two steps, alone, since it needs most of the memory.

    Of 16 texts, as the second seed has them; of 8 for a large base, so that it takes no minutes.
    """
    how = {"batch": 16 if _small(task) else 8, "max_length_padding": True, "warm_up": 0, "least": 2}
    sides.start(PADDED, {"side": "peer", "folder": task.folder, "how": how}, KEEPS_MEMORY)
    sides.rounds(1, seconds=0)
    return _sides(sides, task)


def _beside_peers(sides: Sides, task: Task, options: Options, found: dict[str, Any]) -> list[dict[str, Any]]:
    """Ours and each peer that pads to the longest text of a batch, in turns; returns what the expert tried.

    One peer after the other: each holds some 5 GB, and where memory gets short all of them crawl.
    """
    longest = {"batch": 32 if _small(task) else 16}
    ways, tried = {"hf_longest_fp32": longest, "hf_longest_bf16": longest | {"bf16": True}}, []
    try:
        chosen = sides.once("trainer_expert: choosing", {"side": "best_expert", "folder": task.folder}, KEEPS_MEMORY)
        ways["trainer_expert"], tried = chosen["best"], chosen["tried"]
    except Failed as reason:
        sides.failed["trainer_expert"] = str(reason)
    for name, how in ways.items():
        sides.start(name, {"side": "peer", "folder": task.folder, "how": how}, KEEPS_MEMORY)
        sides.rounds(options.rounds, options.seconds, ("ours", name))
        found |= _sides(sides, task, (name,))
    return tried


def _small(task: Task) -> bool:
    return bases.shapes(bases.find(task.base), task.base_folder).hidden_size < SMALL


def _sides(sides: Sides, task: Task, names: Collection[str] = ()) -> dict[str, dict[str, Any]]:
    """The figures of every side that is running, or of `names`, which ends it."""
    workers = dict(sides.workers)
    said = sides.finish(names)
    return {
        name: figures.rates(workers[name].rounds, task.tokens_per_text, name in BY_LENGTH)
        | {"startup_seconds": sides.startup[name]}
        | said[name]
        for name in said
    }


def _result(options: Options, task: Task, found: dict[str, dict[str, Any]], failed: dict[str, str]) -> dict[str, Any]:
    ours, limit, plain = found.pop("ours"), found.pop("limit"), found.pop("plain", {})
    rate = ours["samples_per_second"]
    about = {key: ours[key] for key in ("isa", "threads", "precision")}
    return {
        "what": "train",
        **about,
        **task.about(options),
        "ours": ours,
        "peers": found,
        "not_measured": failed,
        "ratio_to_peers": figures.ratios(rate, found, "samples_per_second"),
        "memory_to_peers": figures.ratios(ours["training_rss_bytes"], found, "training_rss_bytes"),
        "plain": plain,
        "ratio_to_plain": figures.ratios(rate, {"plain": plain}, "samples_per_second").get("plain"),
        "limit": limit,
        "limit_share": figures.share(rate, limit["samples_per_second"]),
    }
