"""Pickles that may come from anyone: their columns of texts and numbers, read by a process that can run nothing.

`pickle.load` runs whatever a file says. `pickle_child.py` records it instead (see there), in a process with limits on
memory and time, and answers in JSON. docs/decisions/0008-pickles.md has the threats and the reasons.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from textlora.errors import DamagedError, DataError, ResourceError

CHILD = Path(__file__).with_name("pickle_child.py")
MAX_BYTES = 1 << 30  # of a file
# Limits. Measured on a busy core: 120,000 texts (26 MB) take 1 to 3 s, a million rows of one word each, in dictionaries
# (16 MB), 15 s; the memory is 5 to 27 bytes for each of the file.
FREE_MEMORY, MEMORY_A_BYTE = 1 << 30, 32
FREE_SECONDS, BYTES_A_SECOND = 60, 1 << 18
ADVICE = "write the texts as CSV or Parquet and use that file"

Column = list[Any] | str  # its cells, or what it holds instead of texts and numbers


@dataclass(frozen=True)
class Table:
    """What a pickle holds: columns of equal length, and label names where a `datasets.Dataset` says them."""

    columns: dict[str, Column]
    label_names: dict[str, list[str]]


def columns(path: Path) -> tuple[str, ...]:
    """Column names of a pickled table; `text` for a list, an array or a series.

    Raises DamagedError for a file that is refused or broken, DataError for one that holds no table.
    """
    return tuple(_table(path).columns)


def cells(path: Path, names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """Cells of columns `names` of each row: strings, numbers, truth values and None."""
    found = _table(path).columns
    for name in names:
        if isinstance(found[name], str):
            raise DataError(f"{path.name}: column {name!r} holds {found[name]}, expected strings or numbers", ADVICE)
    return zip(*(found[name] for name in names), strict=True)


def label_names(path: Path, column: str) -> tuple[str, ...]:
    """Label names that a pickled `datasets.Dataset` has for a column (ClassLabel), else ()."""
    return tuple(_table(path).label_names.get(column, ()))


def _table(path: Path) -> Table:
    try:
        state = path.stat()
    except OSError as error:
        raise ResourceError(f"{path} can't be read: {error.strerror}", "check the path and its permissions") from None
    return _read(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=1)  # columns and cells ask one after the other; the size and time of the file tell a new one
def _read(path: Path, size: int, _: int) -> Table:
    if size > MAX_BYTES:
        raise DataError(f"{path.name} has {size:,} bytes; pickles are read up to {MAX_BYTES:,}", ADVICE)
    answer = _answer(path, FREE_MEMORY + MEMORY_A_BYTE * size, FREE_SECONDS + size // BYTES_A_SECOND)
    if refused := answer.get("refused"):
        kind = DataError if refused["code"] == DataError.code else DamagedError
        raise kind(f"{path.name} {refused['what']}", refused["fix"])
    return Table(answer["columns"], answer["label_names"])


def _answer(path: Path, memory: int, seconds: int) -> dict[str, Any]:
    """The child's answer; `memory` in bytes."""
    command = [sys.executable, "-I", "-S", str(CHILD), str(memory), str(seconds)]
    try:
        with path.open("rb") as file:
            done = subprocess.run(command, stdin=file, capture_output=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        raise DamagedError(f"{path.name} takes more than {seconds} seconds to read, as no data does", ADVICE) from None
    except OSError as error:
        raise ResourceError(f"{path} can't be read: {error.strerror}", "check its permissions") from None
    try:
        return json.loads(done.stdout)
    except ValueError:
        reason = f"ended the process that reads it (exit status {done.returncode})"
        raise DamagedError(f"{path.name} {reason}: it needs more memory or time than data does", ADVICE) from None
