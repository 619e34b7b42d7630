"""A competition's sample submission: how a file of predictions must look to be accepted there.

Header, ids with their order, and the way labels are written are taken over from the sample; what can't be decided is an
error. B rows, C labels.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from textlora import data, runs
from textlora.data import readers
from textlora.errors import DataError, UsageError

ID_NAMES = ("id", "index", "row", "row id", "rowid", "test id")  # a column of such a name holds ids, wherever it stands
SHOWN = 4  # labels or rows named in a message

Writer = Callable[[int, list[dict[str, Any]]], int]


@dataclass(frozen=True)
class Submission:
    """What a sample says: names of its two columns, which of them is the id's, the ids, how each label is written."""

    name: str
    header: tuple[str, str]
    id_place: int
    ids: tuple[str, ...]
    written: tuple[str, ...]  # by label id: (C,)
    line_end: str = "\n"

    @classmethod
    def read(cls, path: str | Path, labels: Sequence[str]) -> Submission:
        """The sample in `path`, for a classifier of `labels`.

        Raises UsageError for a file that isn't .csv, DataError for one that isn't two columns of ids and labels.
        """
        file = Path(path)
        if file.suffix.lower() != ".csv":
            raise UsageError(f"{file.name} is no .csv file", "give --sample-submission the competition's CSV")
        header = _two_columns(file)
        place = _id_place(header)
        rows = [tuple(map(str, cells)) for cells in readers.cells(file, header)]
        if not rows:
            raise DataError(f"{file.name} has columns but no rows", "give the whole sample submission")
        ids = tuple(cells[place] for cells in rows)
        _check_ids(ids, file.name)
        written = writing([cells[1 - place] for cells in rows], labels, file.name)
        return cls(file.name, header, place, ids, written, _line_end(file))

    def line(self, labels: Sequence[str]) -> str:
        """One line for people."""
        shown = ", ".join(f"{name} as {cell}" for name, cell in zip(labels, self.written, strict=True))
        if len(labels) > SHOWN:
            shown = f"{labels[0]} as {self.written[0]} to {labels[-1]} as {self.written[-1]}"
        return f"as {self.name} has it: {','.join(self.header)}, {len(self.ids):,} ids, {shown}"

    def order(self, source: str | Path, text_column: Sequence[str] = (), usual: Sequence[str] = ()) -> list[int]:
        """For each id of the sample the row of `source` that it belongs to.

        By id where `source` has a column named as the sample's id, else by place. Raises DataError if they don't fit.
        """
        count = sum(map(len, data.read_texts(source, text_column=text_column, usual=usual)))
        if count != len(self.ids):
            raise DataError(
                f"{Path(source).name} has {count:,} rows, {self.name} {len(self.ids):,}",
                "give the sample submission of just these rows",
            )
        found = _ids_in(Path(source), self.header[self.id_place])
        if found is None:
            return list(range(count))
        row_of = {one: row for row, one in enumerate(found)}
        missing = [one for one in self.ids if one not in row_of]
        if missing:
            column = repr(self.header[self.id_place])
            raise DataError(
                f"{Path(source).name} has no row with {column} {missing[0]!r}, which {self.name} lists",
                f"give the sample of just these rows; if their order is the same, rename the column {column}",
            )
        return [row_of[one] for one in self.ids]

    @contextmanager
    def writer(self, path: Path, order: Sequence[int]) -> Iterator[Writer]:
        """Collects predictions row by row of the input; the file is written when all are there, whole or not at all."""
        predicted: list[int] = []

        def write(first: int, results: list[dict[str, Any]]) -> int:
            predicted.extend(result["label_id"] for result in results)
            return len(results)

        yield write
        with runs.replacing(path, newline="") as file:
            out = csv.writer(file, lineterminator=self.line_end)
            out.writerow(self.header)
            for one, row in zip(self.ids, order, strict=True):
                cells = (one, self.written[predicted[row]])
                out.writerow(cells if self.id_place == 0 else cells[::-1])


def writing(cells: Sequence[str], labels: Sequence[str], file: str) -> tuple[str, ...]:
    """How `labels` are written where `cells` are labels: by name, as 0..C-1 or as 1..C.

    Names come first: a classifier whose labels are called 1 to 4 was trained on such numbers. Raises DataError where
    neither fits or both kinds of number do.
    """
    seen, count = set(cells), len(labels)
    if seen <= set(labels):
        return tuple(labels)
    ways = [tuple(map(str, range(base, base + count))) for base in (0, 1)]
    fitting = [way for way in ways if seen <= set(way)]
    if len(fitting) == 1:
        return fitting[0]
    shown = ", ".join(map(repr, sorted(seen)[:SHOWN])) + (", ..." if len(seen) > SHOWN else "")
    if fitting:
        raise DataError(
            f"the labels in {file} ({shown}) may count from 0 or from 1: that can't be decided",
            f"write a 0 or a {count} into one row of a copy of the sample, as the competition counts",
        )
    odd = sorted(cell for cell in seen if not any(cell in way for way in (*ways, labels)))
    raise DataError(
        f"the labels in {file} ({', '.join(map(repr, odd[:SHOWN])) or shown}) are not of this classifier",
        f"expected names ({', '.join(labels[:SHOWN])}{', ...' * (count > SHOWN)}), 0 to {count - 1} or 1 to {count}",
    )


def _two_columns(file: Path) -> tuple[str, str]:
    columns = readers.columns(file)
    with file.open(encoding="utf-8-sig", newline="") as handle:
        by_comma = next((record for record in csv.reader(handle) if record), [])
    if len(columns) != 2 or len(by_comma) != 2:
        raise DataError(
            f"{file.name} has the columns {', '.join(map(repr, columns))}: expected two, an id and a label",
            "give the competition's sample submission",
        )
    return columns[0], columns[1]


def _id_place(header: tuple[str, str]) -> int:
    """The first column, unless only the second is called an id."""
    first, second = map(_is_id, header)
    return 1 if second and not first else 0


def _is_id(column: str) -> bool:
    return column.casefold().replace("_", " ").strip() in ID_NAMES


def _check_ids(ids: Sequence[str], file: str) -> None:
    blank = next((row for row, one in enumerate(ids, 1) if not one.strip()), 0)
    if blank:
        raise DataError(f"{file}: row {blank} has no id", "give the whole sample submission")
    one, times = Counter(ids).most_common(1)[0]
    if times > 1:
        raise DataError(f"{file} lists the id {one!r} {times} times", "each id may be there once")


def _line_end(file: Path) -> str:
    with file.open("rb") as handle:
        return "\r\n" if handle.readline().endswith(b"\r\n") else "\n"


def ids_notes(source: str | Path) -> list[str]:
    """A line for people where a file has ids of its own, which answers without a sample don't."""
    columns = readers.columns(Path(source)) if readers.is_data_file(Path(source)) else ()
    own = next((name for name in columns if _is_id(name)), None)
    taken = "--sample-submission takes a sample's ids over"
    return [f"id counts rows from 0: the file's own column {own!r} isn't it ({taken})"] if own else []


def _ids_in(source: Path, column: str) -> list[str] | None:
    """The cells of the input's own id column, if it has one. Raises DataError if an id is there twice."""
    if not readers.is_data_file(source) or column not in readers.columns(source):
        return None
    ids = [str(cell) for (cell,) in readers.cells(source, (column,))]
    _check_ids(ids, source.name)
    return ids
