"""Label cells to label ids. Order: given names, else whole numbers ascending, else sorted.

Whole numbers with given names count from 0 (0..C-1) or from 1 (1..C); what could be either is an error, not a guess.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from textlora.data.readers import place
from textlora.errors import DataError

_FLOAT = re.compile(r"[+-]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][+-]?\d+)?|[+-]?(nan|inf|infinity)", re.I | re.ASCII)
_WHOLE = re.compile(r"0|-?[1-9]\d{0,17}", re.ASCII)

MANY = 20  # more different labels than this, and a label of its own for every second row, is no class label
CLASS_WORDS = "expected a class name or a whole number"


def label_cells(cells: Sequence[Any], row_ids: Sequence[str]) -> list[str]:
    """Each label as a string, outer blanks gone. Raises DataError, with its row, for an empty, float or list label."""
    checked = []
    for cell, row_id in zip(cells, row_ids, strict=True):
        if isinstance(cell, list | tuple | dict | np.ndarray):
            raise DataError(
                f"{place(row_id)}: the label is {_short(cell)}, but a text has exactly one class here",
                "multi-label data isn't a task textlora does; keep one label a row",
            )
        if cell is None or (isinstance(cell, str) and not cell.strip()):
            raise DataError(f"{place(row_id)}: the label is empty, {CLASS_WORDS}", "fill it in or remove the row")
        if _is_float(cell):
            raise _float_fault(cells, cell, row_id)
        if not isinstance(cell, str | int):
            raise DataError(
                f"{place(row_id)}: the label {_short(cell)} is a {type(cell).__name__}, {CLASS_WORDS}", "correct it"
            )
        checked.append(str(cell).strip())
    return checked


def found_names(labels: Sequence[str], column: str) -> tuple[str, ...]:
    """The label names of a training split: whole numbers ascending, else sorted by code point.

    Raises DataError where nearly every row has a label of its own.
    """
    distinct = set(labels)
    if len(distinct) > MANY and 2 * len(distinct) > len(labels):
        raise DataError(
            f"column {column!r} has {len(distinct):,} different values in {len(labels):,} rows: these are no classes",
            "name the label column with --label-column",
        )
    return tuple(sorted(distinct, key=int) if _all_whole(distinct) else sorted(distinct))


def coding(
    labels: Sequence[str], names: Sequence[str], own_names: Sequence[str] = (), *, complete: bool = False
) -> dict[str, int]:
    """Label string -> id in `names`. `own_names` are those the file brings: what its numbers stand for.

    `complete`: numbers must reach the last name, as a training split's do. Raises DataError where numbers fit `names`
    neither from 0 nor from 1, or both.
    """
    by_name = {name: i for i, name in enumerate(names)}
    distinct = set(labels)
    if distinct <= by_name.keys() or not _all_whole(distinct) or _all_whole(names):
        return by_name
    meant = own_names if own_names and set(own_names) <= set(names) else names
    first = _first_number(sorted(map(int, distinct)), meant, complete)
    return {str(first + i): by_name[name] for i, name in enumerate(meant)}


def encode(labels: Sequence[str], code: dict[str, int], row_ids: Sequence[str]) -> np.ndarray:
    """Ids of `labels`: (N,) int64. Raises DataError for a label that `code` hasn't, with its row."""
    for label, row_id in zip(labels, row_ids, strict=True):
        if label not in code:
            known = ", ".join(list(code)[:MANY]) + (", ..." if len(code) > MANY else "")
            raise DataError(
                f"{place(row_id)}: label {label!r} is unknown, expected one of {known}",
                "correct it, or name another column with --label-column",
            )
    return np.fromiter((code[label] for label in labels), dtype=np.int64, count=len(labels))


def _first_number(numbers: list[int], names: Sequence[str], complete: bool) -> int:
    """0 or 1: the number of the first name. `numbers` ascending."""
    low, high, count = numbers[0], numbers[-1], len(names)
    if low == 0 and (high == count - 1 or (high < count and not complete)):
        return 0
    if low >= 1 and high == count:
        return 1
    span = f"labels run from {low} to {high}, but there are {count} label names ({', '.join(names[:MANY])})"
    if low >= 1 and high < count:
        raise DataError(f"{span}: they may count from 0 or from 1", "write the labels' names instead of numbers")
    raise DataError(f"{span}, for 0 to {count - 1} or 1 to {count}", "give one name for each label")


def _is_float(cell: object) -> bool:
    return isinstance(cell, float) or (isinstance(cell, str) and _FLOAT.fullmatch(cell.strip()) is not None)


def _float_fault(cells: Sequence[Any], cell: object, row_id: str) -> DataError:
    values = {float(str(c)) for c in cells if _is_float(c)}
    if len(values) > MANY or any(math.isfinite(v) and v != int(v) for v in values):
        return DataError(
            f"{place(row_id)}: the label {cell} is a real number:"
            " predicting numbers (regression) isn't a task textlora does",
            "give classes, or name another column with --label-column",
        )
    return DataError(
        f"{place(row_id)}: the label {cell} is a float, {CLASS_WORDS}", "write 1, not 1.0, and fill empty labels"
    )


def _all_whole(labels: Sequence[str] | set[str]) -> bool:
    return all(_WHOLE.fullmatch(label) for label in labels)


def _short(cell: object) -> str:
    words = repr(cell)
    return words if len(words) <= 60 else words[:57] + "..."
