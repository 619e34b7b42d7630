"""What the frozen blocks below the lowest adapter make of each text: computed once, kept on disk while training.

Every batch then begins at the lowest adapted block. The file holds one tensor, the hidden states of all tokens without
padding, in safetensors' format; it is read where it lies (memory-mapped) and goes when training ends.

T tokens of all rows, B rows of a batch, S width, D hidden.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from textlora import device, engine, runs
from textlora.engine.prefix import Prefix
from textlora.predict import BATCH_TOKENS
from textlora.prepare import Prepared, Say
from textlora.tokens import Collator, Tokens, sorted_batches
from textlora.trainer import batches_of

FOLDER = "prefix"  # in a run's or a search's folder
NAME, DIGEST = "hidden_states", "sha256"
PASSES = 2  # over the training rows, from which on it pays
DISK_SHARE = 0.5  # of what is free, at most
TYPES = {torch.bfloat16: "BF16", torch.float32: "F32"}  # safetensors' names


@dataclass(frozen=True)
class Kept:
    """Hidden states by their row's token ids."""

    hidden_TD: Tensor
    starts: dict[bytes, int]  # of a row's token ids: where its hidden states begin

    def __call__(self, ids_BS: Tensor, mask_BS: Tensor) -> Tensor | None:
        """(B, S, D), or None if any row isn't there. Padding gets its row's first: finite, and read by nobody."""
        places = np.arange(ids_BS.shape[1])
        real_BS = places < mask_BS.sum(1).numpy()[:, None]
        if not np.array_equal(mask_BS.numpy() != 0, real_BS):
            return None
        rows = zip(ids_BS.numpy().astype(np.int32), real_BS, strict=True)
        starts = [self.starts.get(ids[real].tobytes(), -1) for ids, real in rows]
        if -1 in starts:
            return None
        index_BS = np.array(starts)[:, None] + np.where(real_BS, places, 0)
        return self.hidden_TD.index_select(0, torch.from_numpy(index_BS.ravel())).view(*ids_BS.shape, -1)


@contextmanager
def left_out(
    prepared: Prepared, folder: Path, say: Say, left: Callable[[], float] = lambda: inf, shared: bool = False
) -> Iterator[None]:
    """Within, the model of `prepared`, if on the engine, begins at its lowest adapted block where that pays.

    What the blocks below make of the rows is read from `folder`, or computed and written there first, given that
    seconds are `left`; the folder goes at the end, unless it is `shared` and so the caller's.
    """
    found = engine.frozen_prefix(prepared.network)
    try:
        kept = None if found is None else _kept(found, prepared, folder, say, left)
        if found is None or kept is None:
            yield
        else:
            with found.left_out(kept):
                yield
    finally:
        if not shared:
            shutil.rmtree(folder, ignore_errors=True)


def _kept(found: Prefix, prepared: Prepared, folder: Path, say: Say, left: Callable[[], float]) -> Kept | None:
    splits = (prepared.learned.tokens, prepared.validation)
    rows = [row for split in splits for row in split]
    lengths = np.concatenate([split.lengths for split in splits])
    order = list(sorted_batches(lengths, BATCH_TOKENS))
    header = _header(found, prepared, splits)
    path = folder / f"{hashlib.sha256(json.dumps(header).encode()).hexdigest()[:16]}.safetensors"
    hidden_TD = _read(path, header)
    if hidden_TD is None and _pays(prepared) and _has_room(found, folder, header, say):
        batches = ([rows[row] for row in batch] for batch in order)
        if _write(path, header, _run(found, batches, Collator(prepared.pad_id)), say, left):
            hidden_TD = _read(path, header)
    if hidden_TD is None:
        return None
    sequence = np.concatenate(order)
    starts = np.cumsum(lengths[sequence]) - lengths[sequence]
    return Kept(hidden_TD, {rows[row].tobytes(): int(start) for row, start in zip(sequence, starts, strict=True)})


def _pays(prepared: Prepared) -> bool:
    """Under a time limit nobody knows how many passes there will be."""
    config = prepared.config
    tokens = prepared.learned.tokens
    texts = config.max_steps * batches_of(config, tokens, 1)[1]
    passes = texts / tokens.texts if config.max_steps > 0 else config.num_train_epochs
    return not config.time_limit and passes >= PASSES


def _has_room(found: Prefix, folder: Path, header: dict[str, Any], say: Say) -> bool:
    """Says what is kept, or why nothing is."""
    size, free = header[NAME]["data_offsets"][1], shutil.disk_usage(folder.parent).free
    what = f"the lowest {found.depth} of {len(found.blocks)} blocks are frozen: their output"
    if size > DISK_SHARE * free:
        say(f"{what} is computed in every pass, since to keep it takes {_mb(size)} on a disk with {_mb(free)} free")
        return False
    say(f"{what} is computed once and kept while training ({_mb(size)} on disk)")
    return True


def _mb(size: int) -> str:
    return f"{max(1, round(size / 1e6)):,} MB"


def _run(found: Prefix, batches: Iterator[Sequence[np.ndarray]], collator: Collator) -> Iterator[memoryview]:
    """The hidden states of each batch's tokens, as bytes."""
    for rows in batches:
        batch = collator.pad(rows)
        yield found.run(batch)[batch["attention_mask"].bool()].view(torch.uint8).numpy().data


# ------------------------------------------------------------------------------------------------------------ the file


def _header(found: Prefix, prepared: Prepared, splits: Sequence[Tokens]) -> dict[str, Any]:
    """safetensors' header, without the content's digest: it names everything that the content depends on."""
    digest = hashlib.sha256()
    for split in splits:
        digest.update(split.offsets.tobytes() + split.ids.tobytes())
    base: Any = found.network.config
    tokens, width = sum(len(split.ids) for split in splits), base.hidden_size
    made_of = {
        "base_sha256": prepared.base_sha256,
        "blocks": str(found.depth),
        "tokens_sha256": digest.hexdigest(),
        "isa": device.cpu_isa(),  # and versions: they round in their own ways
        **{name: version for name, version in runs.versions().items() if name in ("textlora", "torch", "transformers")},
    }
    tensor = {
        "dtype": TYPES[prepared.dtype],
        "shape": [tokens, width],
        "data_offsets": [0, tokens * width * prepared.dtype.itemsize],
    }
    return {"__metadata__": made_of, NAME: tensor}


def _bytes(header: dict[str, Any], digest: str) -> bytes:
    told = json.dumps(header | {"__metadata__": header["__metadata__"] | {DIGEST: digest}}).encode()
    told += b" " * (-(8 + len(told)) % 64)
    return len(told).to_bytes(8, "little") + told


def _write(
    path: Path, header: dict[str, Any], parts: Iterator[memoryview], say: Say, left: Callable[[], float]
) -> bool:
    """Whether the file is there now: whole, or not at all if the disk or the time doesn't allow it."""
    digest, name = hashlib.sha256(), ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".")
        with os.fdopen(handle, "wb") as file:
            file.write(_bytes(header, "0" * 64))
            for part in parts:
                if left() <= 0:
                    return False
                file.write(part)
                digest.update(part)
            file.seek(0)
            file.write(_bytes(header, digest.hexdigest()))
        Path(name).replace(path)
    except OSError as error:
        say(f"the frozen blocks' output can't be kept ({error.strerror}): it is computed in every pass")
        return False
    finally:
        if name:
            Path(name).unlink(missing_ok=True)
    return True


def _read(path: Path, header: dict[str, Any]) -> Tensor | None:
    """The tensor (T, D), where it lies; None unless the file is there, made for this and undamaged."""
    try:
        with safe_open(path, framework="pt") as file:
            told, hidden_TD = file.metadata(), file.get_tensor(NAME)
    except (OSError, SafetensorError):
        return None
    digest = hashlib.sha256(hidden_TD.view(torch.uint8).numpy()).hexdigest()
    same = told == header["__metadata__"] | {DIGEST: digest} and list(hidden_TD.shape) == header[NAME]["shape"]
    return hidden_TD if same else None
