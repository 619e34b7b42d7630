"""Rows of CSV and TSV: the separator recognised from the header and the first rows, faults named by row and line."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from textlora.data.arrow import distinct
from textlora.data.lines import cached, ending, lines
from textlora.errors import DataError, TextLoraError

# AG's corpus as its authors published it: no header line, class from 1 to 4, title, description (arXiv 1509.01626).
AG_COLUMNS = ("class index", "title", "description")
AG_CLASSES = ("1", "2", "3", "4")

FIELD_LIMIT = 1 << 20  # characters; a longer CSV field is taken for an unclosed quote that swallowed its neighbours
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
SAMPLE = 20  # rows that must have as many cells as the header

_SEP_LINE = re.compile(r'\s*"?sep=(?P<separator>[^\w\r\n"])"?\s*', re.IGNORECASE)  # Excel's, over the header

Fault = Callable[[TextLoraError], None]


def raise_(fault: TextLoraError) -> None:
    """What readers do with a fault unless they are told to go on."""
    raise fault


@dataclass(frozen=True)
class Layout:
    """What separates cells, how many lines come before the header, column names, and whether there is no header."""

    separator: str
    skipped: int
    header: tuple[str, ...]
    headless: bool

    @property
    def words(self) -> str:
        """`semicolons`"""
        return SEPARATORS.get(self.separator, f"{self.separator!r}")


def layout(path: Path) -> Layout:
    """Raises DataError for an empty file or a header that can't be one."""
    return cached(_layout, path)


def columns(path: Path) -> tuple[str, ...]:
    """Column names; AG's where its file has none."""
    return layout(path).header


def note(path: Path) -> str:
    """What was recognised, where it isn't what the file's ending says."""
    found = layout(path)
    return "" if found.separator == _usual(path) else f"{path.name}: cells are separated by {found.words}"


def cells(path: Path, names: Sequence[str], fault: Fault = raise_) -> Iterator[tuple[Any, ...]]:
    """The cells of columns `names` of each row; () for a row that `fault` was told of and that didn't raise."""
    found = layout(path)
    places = [found.header.index(name) for name in names]
    records = _records(path, found)
    try:
        if not found.headless:
            next(record for _, record in records if record)
        if len(found.header) > 1:  # a blank line is no row there; where it would be an empty text, it stays
            records = ((line, record) for line, record in records if record)
        for row, (line, record) in enumerate(((line, record or [""]) for line, record in records), 1):
            wrong = _row_fault(path, found, row, line, record)
            if wrong:
                fault(wrong)
            yield () if wrong else tuple(record[place] for place in places)
    except DataError as error:
        fault(error)


def _row_fault(path: Path, found: Layout, row: int, line: int, record: Sequence[str]) -> DataError | None:
    if len(record) != len(found.header):
        by = "" if found.separator == _usual(path) else f" separated by {found.words}"
        return DataError(
            f"{path.name}: row {row} (line {line}) has {len(record)} cells{by}, expected {len(found.header)}"
            f" ({', '.join(found.header)})",
            "quote texts that hold the separator, a line break or a quote",
        )
    if found.headless and record[0].strip() not in AG_CLASSES:
        return DataError(
            f"{path.name} has no header line and three columns, as AG's corpus has, but row {row} has class"
            f" {record[0]!r} (expected 1 to 4)",
            "add a header line such as text,label",
        )
    return None


# -------------------------------------------------------------------------------------------------------------- layout


def _layout(path: Path) -> Layout:
    first = next(lines(path), "")
    said = _SEP_LINE.fullmatch(first)
    skipped = 1 if said else 0
    separator = said["separator"] if said else _separator(path)
    header = next((record for _, record in _records(path, Layout(separator, skipped, (), False)) if record), None)
    if header is None:
        raise DataError(f"{path.name} is empty: expected a header line and rows", "give a file with rows")
    names = tuple(name.strip() for name in header)
    if _is_ag_layout(names):
        return Layout(separator, skipped, AG_COLUMNS, headless=True)
    return Layout(separator, skipped, distinct(names, path), headless=False)


def _separator(path: Path) -> str:
    """What divides the header; where that could be several, what gives the first rows as many cells.

    A file's own (by its ending) wins where it fits: a text's semicolons divide nothing in a file of commas.
    """
    usual = _usual(path)
    widths = {mark: _widths(path, mark) for mark in (usual, *(m for m in SEPARATORS if m != usual))}
    dividing = {mark: counts for mark, counts in widths.items() if counts and counts[0] > 1}
    even = [mark for mark, counts in dividing.items() if len(set(counts)) == 1]
    fitting = even or list(dividing)
    if not fitting or usual in fitting:
        return usual
    return max(fitting, key=lambda mark: dividing[mark][0])


def _widths(path: Path, separator: str) -> list[int]:
    """Cells of the header and of the first rows; up to a fault."""
    widths: list[int] = []
    try:
        for _, record in islice((r for r in _records(path, Layout(separator, 0, (), False)) if r[1]), SAMPLE + 1):
            widths.append(len(record))
    except DataError:
        return [*widths, 0] if widths else []  # a quote in the wrong place: it doesn't divide these rows evenly
    return widths


def _usual(path: Path) -> str:
    return "\t" if ending(path) == ".tsv" else ","


def _is_ag_layout(first: Sequence[str]) -> bool:
    return len(first) == len(AG_COLUMNS) and first[0].isascii() and first[0].isdigit()


# ------------------------------------------------------------------------------------------------------------- records


def _records(path: Path, found: Layout) -> Iterator[tuple[int, list[str]]]:
    """(number of its first line, cells) of each record from the header on; a blank line has no cells."""
    csv.field_size_limit(max(csv.field_size_limit(), FIELD_LIMIT))  # one for the whole process; only ever raised here
    reader = csv.reader(islice(lines(path), found.skipped, None), strict=True, delimiter=found.separator)
    count, start = 0, 1 + found.skipped
    try:
        for record in reader:
            yield start, record
            count += bool(record)
            start = reader.line_num + 1 + found.skipped
    except csv.Error as error:
        row = count + (count > 0 and found.headless)  # without a header the first record is a row
        raise _csv_fault(path, row, start, str(error)) from None


def _csv_fault(path: Path, row: int, line: int, error: str) -> DataError:
    where = f"{path.name}: row {row} (line {line})" if row else f"{path.name}: the header line"
    if "field larger than" in error:
        return DataError(
            f"{where} has a cell of more than {FIELD_LIMIT:,} characters: it opens a quote that isn't closed,"
            " or it is no text to classify",
            'write a quote inside a text as "", or shorten the text',
        )
    return DataError(
        f"{where} opens a quote that isn't closed properly ({error})",
        'write a quote inside a text as "" and quote the whole text',
    )
