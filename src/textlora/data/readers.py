"""Files to rows: CSV, TSV, JSON lines, Parquet, Arrow and pickles, one row at a time, each fault named by file and row.

A row number counts data rows from 1 (a header isn't one), so `train.csv:7` is the seventh text of train.csv.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from textlora.data import unpickle
from textlora.errors import DamagedError, DataError, ResourceError, UsageError

# AG's corpus as its authors published it: no header line, class from 1 to 4, title, description (arXiv 1509.01626).
AG_COLUMNS = ("class index", "title", "description")
AG_CLASSES = ("1", "2", "3", "4")

FIELD_LIMIT = 1 << 20  # characters; a longer CSV field is taken for an unclosed quote that swallowed its neighbours
BATCH_ROWS = 8192  # Parquet rows decoded at a time

Cells = tuple[Any, ...]


@dataclass(frozen=True)
class Format:
    """How one kind of file is read; `cells` yields the wanted columns' cells of every row, in order."""

    columns: Callable[[Path], tuple[str, ...]]
    cells: Callable[[Path, Sequence[str]], Iterator[Cells]]


def columns(path: Path) -> tuple[str, ...]:
    """Column names of a data file. Raises DataError for a missing or empty file, UsageError for an unknown kind."""
    return _format(path).columns(path)


def cells(path: Path, names: Sequence[str]) -> Iterator[Cells]:
    """The cells of columns `names` of each row, as the file holds them (strings in CSV, any JSON value in JSONL)."""
    return _format(path).cells(path, names)


def is_data_file(path: Path) -> bool:
    """Whether the ending is one that `cells` reads."""
    return path.suffix.lower() in FORMATS


def lines(path: Path) -> Iterator[str]:
    """Lines of a UTF-8 file (a byte order mark is skipped), ends kept. Raises DataError for NUL and broken UTF-8."""
    with _opened(path) as handle:
        try:
            for number, line in enumerate(handle, 1):
                if "\0" in line:
                    raise DataError(
                        f"{path.name}: line {number} holds a NUL byte, which no text has",
                        "remove it, or save the file as UTF-8",
                    )
                yield line
        except UnicodeDecodeError:
            raise DataError(
                f"{path.name} is not UTF-8: {_first_bad_byte(path)}", "save the file as UTF-8 and try again"
            ) from None


def class_label_names(path: Path, column: str) -> tuple[str, ...]:
    """Label names that the `datasets` library stored in a file (a ClassLabel column), else ()."""
    if path.suffix.lower() in PICKLES:
        return unpickle.label_names(path, column)
    schemas = {".parquet": lambda: _parquet(path).schema_arrow, ".arrow": lambda: _arrow(path).schema}
    if path.suffix.lower() not in schemas:
        return ()
    stored = (schemas[path.suffix.lower()]().metadata or {}).get(b"huggingface", b"{}")
    try:
        names = json.loads(stored)["info"]["features"][column]["names"]
    except (ValueError, LookupError, TypeError):
        return ()  # no such record, or another library's
    return tuple(map(str, names)) if isinstance(names, list) else ()


# --------------------------------------------------------------------------------------------------------- CSV and TSV


def _csv_columns(path: Path) -> tuple[str, ...]:
    first = next((record for _, record in _records(path) if record), None)
    if first is None:
        raise DataError(f"{path.name} is empty: expected a header line and rows", "give a file with rows")
    header = tuple(name.strip() for name in first)
    if _is_ag_layout(header):
        return AG_COLUMNS
    return _distinct(header, path)


def _csv_cells(path: Path, names: Sequence[str]) -> Iterator[Cells]:
    header = _csv_columns(path)
    places = [header.index(name) for name in names]
    records = _records(path)
    if header != AG_COLUMNS:
        next(record for _, record in records if record)
    if len(header) > 1:  # a blank line is no row there; where it would be an empty text, it stays and is refused as one
        records = ((line, record) for line, record in records if record)
    for row, (line, record) in enumerate(((line, record or [""]) for line, record in records), 1):
        if len(record) != len(header):
            raise DataError(
                f"{path.name}: row {row} (line {line}) has {len(record)} cells, expected {len(header)}"
                f" ({', '.join(header)})",
                "quote texts that hold the separator, a line break or a quote",
            )
        if header == AG_COLUMNS and record[0].strip() not in AG_CLASSES:
            raise DataError(
                f"{path.name} has no header line and three columns, as AG's corpus has, but row {row} has class"
                f" {record[0]!r} (expected 1 to 4)",
                "add a header line such as text,label",
            )
        yield tuple(record[place] for place in places)


def _records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(number of its first line, cells) of each record; a blank line has no cells."""
    csv.field_size_limit(max(csv.field_size_limit(), FIELD_LIMIT))  # one for the whole process; only ever raised here
    reader = csv.reader(lines(path), strict=True, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
    count, start = 0, 1
    try:
        for record in reader:
            yield start, record
            count += bool(record)
            start = reader.line_num + 1
    except csv.Error as error:
        raise _csv_fault(path, count, start, str(error)) from None


def _csv_fault(path: Path, records: int, line: int, error: str) -> DataError:
    row = records + (records > 0 and _csv_columns(path) == AG_COLUMNS)  # there the first record is a row
    where = f"{path.name}: row {row} (line {line})" if records else f"{path.name}: the header line"
    return DataError(
        f"{where} opens a quote that isn't closed properly ({error})",
        'write a quote inside a text as "" and quote the whole text',
    )


def _is_ag_layout(first: Sequence[str]) -> bool:
    return len(first) == len(AG_COLUMNS) and first[0].isascii() and first[0].isdigit()


def _distinct(header: tuple[str, ...], path: Path) -> tuple[str, ...]:
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        raise DataError(f"{path.name}: the header names {repeated[0]!r} twice", "rename or remove one of the columns")
    return header


# ---------------------------------------------------------------------------------------------------------- JSON lines


def _json_columns(path: Path) -> tuple[str, ...]:
    first = next(_objects(path), None)
    if first is None:
        raise DataError(f"{path.name} is empty: expected one JSON object a line", "give a file with rows")
    return tuple(first[1])


def _json_cells(path: Path, names: Sequence[str]) -> Iterator[Cells]:
    for row, (place, item) in enumerate(_objects(path), 1):
        for name in names:
            if name not in item:
                raise DataError(
                    f"{path.name}: row {row} ({place}) has no {name!r}, only {', '.join(item) or 'nothing'}",
                    "give every row the same keys",
                )
        yield tuple(item[name] for name in names)


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
    if path.suffix.lower() != ".json":
        return False
    return next((line.lstrip()[0] for line in lines(path) if line.strip()), "") == "["


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = f"{error.msg} at its character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else error
        raise DataError(f"{where} is not valid JSON: {reason}", "write one JSON object a line") from None


# ------------------------------------------------------------------------------------------------------------- Parquet


def _parquet_columns(path: Path) -> tuple[str, ...]:
    return _distinct(tuple(_parquet(path).schema_arrow.names), path)


def _parquet_cells(path: Path, names: Sequence[str]) -> Iterator[Cells]:
    file = _parquet(path)
    try:
        for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=list(names)):
            yield from zip(*(batch.column(name).to_pylist() for name in names), strict=True)
    except (OSError, ValueError) as error:  # pyarrow's ArrowInvalid is a ValueError
        raise _damaged(path, error) from None


def _parquet(path: Path) -> Any:
    _check_size(path)
    try:
        import pyarrow.parquet
    except ImportError:
        raise ResourceError("reading Parquet needs pyarrow, which isn't installed", "pip install pyarrow") from None
    try:
        return pyarrow.parquet.ParquetFile(path)
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from None


# --------------------------------------------------------------------------------------------------------------- Arrow


def _arrow_columns(path: Path) -> tuple[str, ...]:
    return _distinct(tuple(_arrow(path).schema.names), path)


def _arrow_cells(path: Path, names: Sequence[str]) -> Iterator[Cells]:
    try:
        for batch in _arrow(path):
            yield from zip(*(batch.column(name).to_pylist() for name in names), strict=True)
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from None


def _arrow(path: Path) -> Any:
    """A reader of the record batches of an Arrow stream, as `datasets` caches it; mapped, not read into memory."""
    _check_size(path)
    import pyarrow

    try:
        return pyarrow.ipc.open_stream(pyarrow.memory_map(str(path)))
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> DamagedError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return DamagedError(
        f"{path.name} is no readable {path.suffix[1:].capitalize()} file: {reason.rstrip('.')}",
        "fetch or write it again",
    )


# ------------------------------------------------------------------------------------------------------------- pickles

PICKLES = (".pkl", ".pickle")


def _pickle_columns(path: Path) -> tuple[str, ...]:
    _check_size(path)
    return _distinct(unpickle.columns(path), path)


# -------------------------------------------------------------------------------------------------------------- common

FORMATS = {
    ".csv": Format(_csv_columns, _csv_cells),
    ".tsv": Format(_csv_columns, _csv_cells),
    ".jsonl": Format(_json_columns, _json_cells),
    ".json": Format(_json_columns, _json_cells),
    ".parquet": Format(_parquet_columns, _parquet_cells),
    ".arrow": Format(_arrow_columns, _arrow_cells),
    **dict.fromkeys(PICKLES, Format(_pickle_columns, unpickle.cells)),
}


def _format(path: Path) -> Format:
    if not is_data_file(path):
        raise UsageError(f"{path.name} ends on no kind of file that is read here", f"known: {', '.join(FORMATS)}")
    return FORMATS[path.suffix.lower()]


def _opened(path: Path) -> TextIO:
    _check_size(path)
    try:
        # newline="": the csv module sees line breaks inside quotes as they are
        return path.open(encoding="utf-8-sig", newline="")
    except OSError as error:
        raise ResourceError(f"{path} can't be opened: {error.strerror}", "check the path and its permissions") from None


def _check_size(path: Path) -> None:
    if not path.is_file():
        raise DataError(f"there is no file {path}", "check the path")
    if path.stat().st_size == 0:
        raise DataError(f"{path.name} is empty: expected rows of text", "give a file with rows")


def _first_bad_byte(path: Path) -> str:
    """Offset, value and line of the first byte that can't be decoded."""
    offset = 0
    with path.open("rb") as handle:
        for number, line in enumerate(handle, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                return f"byte 0x{line[error.start]:02x} at offset {offset + error.start} (line {number})"
            offset += len(line)
    return "it ends inside a character"


def numbered(rows: Iterable[Cells], path: Path) -> Iterator[tuple[str, Cells]]:
    """(row id, cells): the id is `<file name>:<data row from 1>`."""
    return ((f"{path.name}:{row}", row_cells) for row, row_cells in enumerate(rows, 1))


def place(row_id: str) -> str:
    """A row id in words: `train.csv: row 7`, which nobody takes for a line number."""
    file, _, row = row_id.rpartition(":")
    return f"{file}: row {row}"
