"""Training state without pickle: nested values as JSON, their tensors as safetensors, sealed by a manifest.

The Trainer would write optimizer.pt, scheduler.pt, rng_state.pth and training_args.bin; loading those runs whatever a
tampered file says (CVE-2026-1839, CVE-2025-32434). Here nothing is ever executed.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from textlora import runs
from textlora.errors import DamagedError

PREFIX = "checkpoint-"  # the Trainer's


def write_state(folder: Path, name: str, value: Any) -> None:
    """`value` (dicts, lists, numbers, strings, tensors) as <name>.json and <name>.safetensors."""
    tensors: dict[str, torch.Tensor] = {}
    packed = _pack(value, tensors)
    with runs.storing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / f"{name}.safetensors")
    runs.write_json(folder / f"{name}.json", packed)


def read_state(folder: Path, name: str) -> Any:
    """The value that `write_state` wrote; tuples come back as lists. Raises DamagedError."""
    try:
        tensors = load_file(folder / f"{name}.safetensors")
        return _unpack(runs.read_json(folder / f"{name}.json"), tensors)
    except DamagedError:
        raise
    except (SafetensorError, FileNotFoundError, KeyError, TypeError, ValueError) as error:
        raise DamagedError(f"{folder / name} is damaged: {error}", "train again without --resume") from error


def _pack(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().contiguous().clone()  # clone: safetensors refuses shared memory
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[key, _pack(item, tensors)] for key, item in value.items()]}  # keys may be integers
    if isinstance(value, list | tuple):
        return {"list": [_pack(item, tensors) for item in value]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a training state can't hold a {type(value).__name__}")


def _unpack(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensors[value["tensor"]]
    if "dict" in value:
        return {key: _unpack(item, tensors) for key, item in value["dict"]}
    return [_unpack(item, tensors) for item in value["list"]]


def rng_state() -> dict[str, Any]:
    """States of the generators that training draws from: Python's, NumPy's, torch's."""
    version, numbers, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state()
    state = {
        "python": [version, list(numbers), gauss],
        "numpy": [keys.tolist(), int(position), int(has_gauss), float(cached)],  # type: ignore[union-attr]
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    if torch.backends.mps.is_available():
        state["mps"] = torch.mps.get_rng_state()
    return state


def set_rng_state(state: dict[str, Any]) -> None:
    """Put the generators where `rng_state` found them."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state(("MT19937", np.asarray(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
    if "mps" in state and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"])


def seal(folder: Path) -> None:
    """Write the manifest, last: a checkpoint without one was never finished."""
    runs.write_json(folder / runs.MANIFEST, {"sha256": runs.hashes(folder)})


def newest_good(checkpoints: Path) -> Path | None:
    """The checkpoint of the most steps that is complete and undamaged; None if there is none."""
    folders = [p for p in checkpoints.glob(f"{PREFIX}*") if p.name.removeprefix(PREFIX).isdigit()]
    for folder in sorted(folders, key=lambda p: int(p.name.removeprefix(PREFIX)), reverse=True):
        if is_good(folder):
            return folder
    return None


def is_good(folder: Path) -> bool:
    """Whether every file of a checkpoint is what its manifest says."""
    if not (folder / runs.MANIFEST).is_file():
        return False
    try:
        runs.verify(folder)
    except DamagedError:
        return False
    return True
