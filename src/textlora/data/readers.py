"""Files to rows: CSV, TSV, JSON lines, Parquet, Arrow and pickles, one row at a time, each fault named by file and row.

A row number counts data rows from 1 (a header isn't one), so `train.csv:7` is the seventh text of train.csv. The
text formats may be compressed (lines.py); CSV's separators are recognised (delimited.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from textlora.data import arrow, delimited, unpickle
from textlora.data.arrow import SAVED
from textlora.data.delimited import Fault, raise_
from textlora.data.lines import check_size, compression, encoding
from textlora.data.lines import ending as ending
from textlora.data.lines import lines as lines
from textlora.data.lines import stem as stem
from textlora.errors import DataError, UsageError

Cells = tuple[Any, ...]


@dataclass(frozen=True)
class Format:
    """How one kind of file is read; `cells` yields the wanted columns' cells of every row, in order."""

    columns: Callable[[Path], tuple[str, ...]]
    cells: Callable[..., Iterator[Cells]]  # (path, names), and `fault` where it is text
    is_text: bool = False  # lines that may be compressed, and that can be read on behind a row that is wrong


def columns(path: Path) -> tuple[str, ...]:
    """Column names of a data file. Raises DataError for a missing or empty file, UsageError for an unknown kind."""
    return _format(path).columns(path)


def cells(path: Path, names: Sequence[str], fault: Fault = raise_) -> Iterator[Cells]:
    """The cells of columns `names` of each row, as the file holds them (strings in CSV, any JSON value in JSONL).

    A row that can't be read is told to `fault`; if that doesn't raise, the row is ().
    """
    found = _format(path)
    return found.cells(path, names, fault) if found.is_text else found.cells(path, names)


def is_data_file(path: Path) -> bool:
    """Whether the ending is one that `cells` reads."""
    found = FORMATS.get(ending(path))
    return found is not None and (found.is_text or not compression(path))


def class_label_names(path: Path, column: str) -> tuple[str, ...]:
    """Label names that the `datasets` library stored in a file (a ClassLabel column), else ()."""
    return unpickle.label_names(path, column) if ending(path) in PICKLES else arrow.class_label_names(path, column)


def notes(path: Path) -> tuple[str, ...]:
    """What was recognised in a file and could have been otherwise, in lines for people."""
    kind = ending(path)
    if kind != ".txt" and not _format(path).is_text:
        return ()
    separator = delimited.note(path) if kind in (".csv", ".tsv") else ""
    return tuple(note for note in (encoding(path).note, separator) if note)


# ---------------------------------------------------------------------------------------------------------- JSON lines


def _json_columns(path: Path) -> tuple[str, ...]:
    first = next(_objects(path), None)
    if first is None:
        raise DataError(f"{path.name} is empty: expected one JSON object a line", "give a file with rows")
    return tuple(first[1])


def _json_cells(path: Path, names: Sequence[str], fault: Fault = raise_) -> Iterator[Cells]:
    try:
        for row, (place, item) in enumerate(_objects(path), 1):
            missing = next((name for name in names if name not in item), None)
            if missing is not None:
                fault(
                    DataError(
                        f"{path.name}: row {row} ({place}) has no {missing!r}, only {', '.join(item) or 'nothing'}",
                        "give every row the same keys",
                    )
                )
            yield () if missing is not None else tuple(item[name] for name in names)
    except DataError as error:
        fault(error)


def _objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place in words, object) of each JSON line, or of each item where the file is one JSON list."""
    for place, item in _json_list(path) if _starts_a_list(path) else _json_lines(path):
        if not isinstance(item, dict):
            raise DataError(f"{path.name}: {place} is no JSON object", 'write rows as {"text": ..., "label": ...}')
        yield place, item


def _json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(lines(path), 1):
        if line.strip():
            yield f"line {number}", _parsed(line, f"{path.name}: line {number}")


def _json_list(path: Path) -> Iterator[tuple[str, Any]]:
    items = _parsed("".join(lines(path)), path.name)
    return ((f"item {number}", item) for number, item in enumerate(items, 1))


def _starts_a_list(path: Path) -> bool:
    """Whether a .json file is one list; .jsonl is always lines."""
    if ending(path) != ".json":
        return False
    return next((line.lstrip()[0] for line in lines(path) if line.strip()), "") == "["


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = f"{error.msg} at its character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else error
        raise DataError(f"{where} is not valid JSON: {reason}", "write one JSON object a line") from None


# -------------------------------------------------------------------------------------------------------------- common

PICKLES = (".pkl", ".pickle")


def _pickle_columns(path: Path) -> tuple[str, ...]:
    check_size(path)
    return arrow.distinct(unpickle.columns(path), path)


FORMATS = {
    ".csv": Format(delimited.columns, delimited.cells, is_text=True),
    ".tsv": Format(delimited.columns, delimited.cells, is_text=True),
    ".jsonl": Format(_json_columns, _json_cells, is_text=True),
    ".ndjson": Format(_json_columns, _json_cells, is_text=True),
    ".json": Format(_json_columns, _json_cells, is_text=True),
    ".parquet": Format(arrow.parquet_columns, arrow.parquet_cells),
    ".arrow": Format(arrow.arrow_columns, arrow.arrow_cells),
    ".feather": Format(arrow.arrow_columns, arrow.arrow_cells),
    **dict.fromkeys(PICKLES, Format(_pickle_columns, unpickle.cells)),
}

TEXT_KINDS = tuple(kind for kind, found in FORMATS.items() if found.is_text)

# Kinds of file that people try -> what to do. The text says it better than a list of endings.
OTHERS = {
    ".xlsx": "save the sheet in Excel as `CSV UTF-8`",
    ".xlsm": "save the sheet in Excel as `CSV UTF-8`",
    ".xls": "save the sheet in Excel as `CSV UTF-8`",
    ".ods": "save the sheet as CSV, encoding UTF-8",
    ".zip": "unpack it and give the file or the folder",
    ".tar": "unpack it and give the file or the folder",
    ".7z": "unpack it and give the file or the folder",
    ".bz2": "unpack it, or compress it with gzip or zstd",
    ".xz": "unpack it, or compress it with gzip or zstd",
    ".docx": "put the texts into a table and save it as CSV",
    ".pdf": "put the texts into a table and save it as CSV",
    ".db": "export the table as CSV",
    ".sqlite": "export the table as CSV",
}


def _format(path: Path) -> Format:
    if not is_data_file(path):
        known = f"known: {', '.join(FORMATS)}, text also with .gz or .zst"
        raise UsageError(f"{path.name} ends on no kind of file that is read here", OTHERS.get(ending(path), known))
    return FORMATS[ending(path)]


def numbered(rows: Iterable[Cells], path: Path) -> Iterator[tuple[str, Cells]]:
    """(row id, cells): the id is `<file name>:<data row from 1>`; all saved data sets call their files alike."""
    name = f"{path.parent.name}/{path.name}" if (path.parent / SAVED).is_file() else path.name
    return ((f"{name}:{row}", row_cells) for row, row_cells in enumerate(rows, 1))


def place(row_id: str) -> str:
    """A row id in words: `train.csv: row 7`, which nobody takes for a line number."""
    file, _, row = row_id.rpartition(":")
    return f"{file}: row {row}"
