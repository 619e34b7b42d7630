"""The header of a safetensors file, read without any tensor and trusted in nothing.

The format (github.com/huggingface/safetensors): 8 bytes, little-endian, the header's length; the header, JSON, with
type, shape and place of each tensor; the tensors, without gaps.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

from textlora.errors import DamagedError

Shape = tuple[int, ...]
AGAIN = "copy the adapter again: its files are cut, or not of one adapter"
MAX_HEADER = 100_000_000  # bytes; safetensors' own limit
ITEM_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64"), 8),
}


def read_header(path: Path) -> dict[str, Shape]:
    """Shape by tensor name from the header of a safetensors file; no tensor is read.

    Raises DamagedError unless every part of the format holds.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, MAX_HEADER):
            raise damaged(path, f"its header should have {length:,} bytes, the file has {size:,}")
        text = file.read(length)
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"its header is no JSON: {error}") from None
    if not isinstance(header, dict):
        raise damaged(path, "its header is no JSON object")
    header.pop("__metadata__", None)
    return _checked_shapes(path, header, size - 8 - length)


def _checked_shapes(path: Path, header: Mapping[str, Any], data_bytes: int) -> dict[str, Shape]:
    """Shapes of the header's entries, whose tensors must fill the rest of the file exactly, one behind the other."""
    spans: list[Shape] = []
    shapes: dict[str, Shape] = {}
    for name, entry in header.items():
        dtype, shape, span = _entry(path, name, entry)
        if span[1] - span[0] != prod(shape) * ITEM_BYTES[dtype]:
            raise damaged(path, f"{name} is {dtype} of shape {list(shape)}, its data has {span[1] - span[0]:,} bytes")
        spans.append(span)
        shapes[name] = shape

    end = 0
    for start, stop in sorted(spans):
        if start != end:
            raise damaged(path, f"a tensor starts at byte {start:,}, expected {end:,}")
        end = stop
    if end != data_bytes:
        raise damaged(path, f"its tensors need {end:,} bytes, it holds {data_bytes:,}")
    return shapes


def _entry(path: Path, name: str, entry: object) -> tuple[str, Shape, Shape]:
    """Type, shape and (start, stop) of a tensor."""
    fields = entry if isinstance(entry, dict) else {}
    dtype, shape, span = fields.get("dtype"), _sizes(fields.get("shape")), _sizes(fields.get("data_offsets"))
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES or shape is None or span is None or len(span) != 2:
        raise damaged(path, f"the header's entry of {name} is {str(entry)[:120]}")
    return dtype, shape, span


def _sizes(value: object) -> Shape | None:
    is_sizes = isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)
    return tuple(value) if is_sizes else None  # type: ignore[arg-type]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose names are unique: of two tensors of one name, one would go uncounted."""
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a name comes twice")
    return values


def damaged(path: Path, why: str) -> DamagedError:
    """The error for a file that isn't what it claims to be."""
    return DamagedError(f"{path} is damaged: {why}", AGAIN)
