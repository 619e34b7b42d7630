"""Rows in groups, and how many of each group are right: by length, by a column of the data, by source agency."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textlora import metrics
from textlora.data import Split, readers, sources
from textlora.errors import UsageError, closest

LENGTH, AGENCY = "length", "agency"
MOST = 20  # values of a column that get a group of their own; the rest are one
REST = "(others)"
# News agencies as news texts name them: "LONDON (Reuters) - ...", "AP - ...".
PATTERN = re.compile(r"\((AP|Reuters|AFP)\)|\b(AP|Reuters|AFP)\s*[-\u2013\u2014]")


def groups(by: str, rows: Split, lengths: NDArray[np.integer], source: str, revision: str = "") -> list[str]:
    """The group of each row. `lengths` (N,) are the tokens that are read of each.

    `by` is length (quartiles), agency, or a column of the files of `source`. Raises UsageError for any other word.
    """
    if by == LENGTH:
        return _quartiles(lengths)
    if by == AGENCY:
        return [_agency(text) for text in rows.texts]
    return _column(by, rows, source, revision)


def table(by: str, names: Sequence[str], correct_N: NDArray[np.bool_]) -> dict[str, Any]:
    """{"by", "rows": [{"slice", "n", "accuracy", "accuracy_ci" (Wilson)}]}"""
    sizes = Counter(names)  # quartiles come in their order, other groups the largest first
    order = dict.fromkeys(sorted(sizes, key=_first_number)) if by == LENGTH else dict(sizes.most_common())
    right = Counter(name for name, hit in zip(names, correct_N, strict=True) if hit)
    return {
        "by": by,
        "rows": [
            {
                "slice": name,
                "n": sizes[name],
                "accuracy": right[name] / sizes[name],
                "accuracy_ci": list(metrics.wilson(right[name], sizes[name])),
            }
            for name in order
        ],
    }


def _quartiles(lengths: NDArray[np.integer]) -> list[str]:
    """Four groups of about equally many rows; fewer where many are equally long."""
    edges = np.unique(np.quantile(lengths, [0.25, 0.5, 0.75], method="lower"))
    group = np.searchsorted(edges, lengths)
    spans = {g: (int(lengths[group == g].min()), int(lengths[group == g].max())) for g in np.unique(group).tolist()}
    return ["{} to {} tokens".format(*spans[g]) for g in group.tolist()]


def _first_number(name: str) -> int:
    return int(name.split()[0])


def _agency(text: str) -> str:
    found = PATTERN.search(text)
    return found[1] or found[2] if found else "none"


def _column(by: str, rows: Split, source: str, revision: str) -> list[str]:
    """Each row's cell of the column, found by the row's id; rare ones together."""
    wanted, cell_of = set(rows.row_ids), dict[str, str]()
    for file in {file: None for each in sources.find(source, revision).files.values() for file in each}:
        if by not in readers.columns(file):
            continue
        for row_id, cells in readers.numbered(readers.cells(file, (by,)), file):
            if row_id in wanted:
                cell_of[row_id] = " ".join(str(cells[0]).split()) or "(empty)"
    if len(cell_of) < len(wanted):
        present = readers.columns(sources.find(source, revision).first())
        raise UsageError(f"--slice {by}: {source} has no such column", closest(by, (LENGTH, AGENCY, *present)))
    names = [cell_of[row_id] for row_id in rows.row_ids]
    often = {name for name, _ in Counter(names).most_common(MOST)}
    return [name if name in often else REST for name in names]
