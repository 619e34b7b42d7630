"""Label cells to label ids. Order: given names, else whole numbers ascending, else sorted.

Whole numbers with given names count from 0 (0..C-1) or from 1 (1..C); what could be either is an error, not a guess.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from textlora.data.delimited import Fault, raise_
from textlora.data.readers import place
from textlora.errors import DataError

_FLOAT = re.compile(r"[+-]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][+-]?\d+)?|[+-]?(nan|inf|infinity)", re.I | re.ASCII)
_WHOLE = re.compile(r"0|-?[1-9]\d{0,17}", re.ASCII)

_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+", re.ASCII)
_LIST = re.compile(r"\[.*\]|\{.*\}", re.DOTALL)

SEPARATORS_OF_LABELS = "|,;"
LISTED_SHARE = 0.8  # of the labels with such a mark: must be made of others' parts before they are taken for lists
MANY = 20  # more different labels than this, and a label of its own for every second row, is no class label
CLASS_WORDS = "expected a class name or a whole number"


def label_cells(cells: Sequence[Any], row_ids: Sequence[str], fault: Fault = raise_) -> list[str]:
    """Each label as a string, outer blanks gone; "" where `fault` was told of an empty, float or list label."""
    checked = []
    real = _are_real(cells)
    for cell, row_id in zip(cells, row_ids, strict=True):
        wrong = _label_fault(cell, row_id, real)
        if wrong:
            fault(wrong)
        checked.append("" if wrong else str(cell).strip())
    return checked


def _label_fault(cell: object, row_id: str, real: bool) -> DataError | None:
    """What is wrong with a label, with its row."""
    if isinstance(cell, list | tuple | dict | np.ndarray):
        return DataError(
            f"{place(row_id)}: the label is {_short(cell)}, but a text has exactly one class here",
            "multi-label data isn't a task textlora does; keep one label a row",
        )
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        return DataError(f"{place(row_id)}: the label is empty, {CLASS_WORDS}", "fill it in or remove the row")
    if _is_float(cell):
        return _float_fault(cell, row_id, real)
    if not isinstance(cell, str | int):
        return DataError(
            f"{place(row_id)}: the label {_short(cell)} is a {type(cell).__name__}, {CLASS_WORDS}", "correct it"
        )
    return None


def found_names(labels: Sequence[str], column: str) -> tuple[str, ...]:
    """The label names of a training split: whole numbers ascending, else sorted by code point.

    Raises DataError where cells hold several labels, where labels differ in case or blanks only, and where nearly every
    row has a label of its own.
    """
    distinct = set(labels)
    _check_single(distinct, column)
    _check_alike(distinct, column)
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

    `complete`: numbers must reach the last name, as a training split's do; of the file's own names (which a run gives
    back when it looks for its rows) the last may have none. Raises DataError where numbers fit `names`
    neither from 0 nor from 1, or both.
    """
    by_name = {name: i for i, name in enumerate(names)}
    distinct = set(labels)
    if distinct <= by_name.keys() or not _all_whole(distinct) or _all_whole(names):
        return by_name
    meant = own_names if own_names and set(own_names) <= set(names) else names
    first = _first_number(sorted(map(int, distinct)), meant, complete and tuple(names) != tuple(own_names))
    return {str(first + i): by_name[name] for i, name in enumerate(meant)}


def encode(labels: Sequence[str], code: dict[str, int], row_ids: Sequence[str]) -> np.ndarray:
    """Ids of `labels`: (N,) int64. Raises DataError for a label that `code` hasn't, with its row."""
    for label, row_id in zip(labels, row_ids, strict=True):
        if label not in code:
            known = ", ".join(list(code)[:MANY]) + (", ..." if len(code) > MANY else "")
            alike = next((name for name in code if folded(name) == folded(label)), None)
            fix = f"write it as {alike!r}" if alike else "correct it, or name another column with --label-column"
            raise DataError(f"{place(row_id)}: label {label!r} is unknown, expected one of {known}", fix)
    return np.fromiter((code[label] for label in labels), dtype=np.int64, count=len(labels))


def _check_single(distinct: set[str], column: str) -> None:
    """Raises DataError where labels are plainly lists: `a|b` beside `a` and `b`, or `["a", "b"]`."""
    listed = sorted(label for label in distinct if _LIST.fullmatch(label))
    if listed and 2 * len(listed) > len(distinct):
        raise _several(column, listed[0])
    for mark in SEPARATORS_OF_LABELS:
        parts = {label: {part.strip() for part in label.split(mark)} for label in distinct}
        within = Counter(part for some in parts.values() for part in some)
        joined = sorted(label for label, some in parts.items() if len(some) > 1 and "" not in some)
        # A part that no other label has is a word of one class's name: "Arts, crafts and sewing".
        plain = [label for label in joined if all(within[part] > 1 for part in parts[label])]
        if plain and len(plain) >= LISTED_SHARE * len(joined):
            raise _several(column, plain[0])


def _several(column: str, example: str) -> DataError:
    return DataError(
        f"column {column!r} holds several labels in a cell ({_short(example)}): multi-label data isn't a task textlora"
        " does",
        "keep one label a row; if it is the name of one class, write it in another way",
    )


def _check_alike(distinct: set[str], column: str) -> None:
    """Raises DataError for labels that a person would take for one."""
    alike: dict[str, str] = {}
    for label in sorted(distinct):
        other = alike.setdefault(folded(label), label)
        if other != label:
            raise DataError(
                f"column {column!r} has the labels {other!r} and {label!r}, which differ in case, blanks or invisible"
                " characters only",
                "write them alike; if they are two classes, give both with --label-names",
            )


def folded(label: str) -> str:
    """A label as a person reads it: case, inner blanks and invisible characters don't count."""
    visible = (c for c in unicodedata.normalize("NFKC", label).casefold() if unicodedata.category(c) != "Cf")
    return " ".join("".join(visible).split())


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
    if isinstance(cell, str):
        return (_FLOAT.fullmatch(cell.strip()) or _DECIMAL_COMMA.fullmatch(cell.strip())) is not None
    return isinstance(cell, float)


def _are_real(cells: Sequence[Any]) -> bool:
    """Whether the floats among the labels measure something rather than number classes."""
    values = {float(str(c).replace(",", ".")) for c in cells if _is_float(c)}
    return len(values) > MANY or any(math.isfinite(v) and v != int(v) for v in values)


def _float_fault(cell: object, row_id: str, real: bool) -> DataError:
    if isinstance(cell, str) and "," in cell:
        return DataError(
            f"{place(row_id)}: the label {cell} is a real number or several labels:"
            " neither regression nor multi-label data is a task textlora does",
            "give one class a row, or name another column with --label-column",
        )
    if real:
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
