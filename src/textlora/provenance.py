"""What a run began with, written down before it trains and held against what a resumed one would go on with."""

from __future__ import annotations

from typing import Any

import torch

from textlora import device, runs
from textlora.errors import UsageError
from textlora.prepare import Prepared
from textlora.runs import Run

SOURCES = ("data", "data_revision", "base_weights", "base_revision")  # may be named anew: what they hold is compared


def write_settings(run: Run, prepared: Prepared) -> None:
    """config.toml, plan.json and environment.json."""
    run.write_config(prepared.config)
    run.write("plan.json", prepared.plan.to_dict())
    run.write("environment.json", _environment(prepared))


def check_same(run: Run, prepared: Prepared) -> None:
    """Raises UsageError if what a resumed run would train on, or its settings, aren't what it began with."""
    before, now = runs.read_json(run.folder / "environment.json"), _environment(prepared)
    for what, key in (("data", "data"), ("base", "base_sha256"), ("precision", "precision")):
        was, is_now = (e[key]["fingerprints"] if key == "data" else e[key] for e in (before, now))
        if was != is_now:
            raise UsageError(f"the {what} isn't what {run.folder} began with", "bring that back, or start a new run")
    kept, given = run.config().to_dict(), prepared.config.to_dict()
    other = [name for name in kept if name not in SOURCES and kept[name] != given[name]]
    if other:
        values = f"{given[other[0]]!r}, where {run.folder} began with {kept[other[0]]!r}"
        raise UsageError(f"{other[0]} is {values}", "a resumed run keeps its settings: bring them back, or start anew")


def _environment(prepared: Prepared) -> dict[str, Any]:
    rows = prepared.data
    splits = {split.name: split for split in (rows.train, rows.validation, rows.test) if split is not None}
    return {
        "versions": runs.versions(),
        "machine": runs.machine()
        | {"device": device.pick_device().type, "isa": torch.backends.cpu.get_cpu_capability()},
        "threads": torch.get_num_threads(),
        "precision": str(prepared.dtype).removeprefix("torch."),
        "seeds": {"seed": prepared.config.seed, "split_seed": prepared.config.split_seed},
        "base_sha256": prepared.base_sha256,
        "base_revision": prepared.config.base_revision or None,  # commits on the hub; None: the files came otherwise
        "data_revision": prepared.config.data_revision or None,
        "data": {
            "name": rows.name,
            "rows": {name: len(split) for name, split in splits.items()},
            "fingerprints": {name: split.fingerprint for name, split in splits.items()},
            "counts": rows.counts,
            "label_shares": _label_shares(prepared),
            "notes": list(rows.notes),
        },
    }


def _label_shares(prepared: Prepared) -> list[float]:
    """The labels' shares that the classifier assumes (C,): as told, else each label's part of the training loss."""
    if prepared.label_shares is not None:
        return prepared.label_shares.tolist()
    counts = torch.bincount(torch.as_tensor(prepared.data.train.labels), minlength=len(prepared.labels)).double()
    weighted = counts if prepared.label_weights is None else counts * prepared.label_weights
    return (weighted / weighted.sum()).tolist()
