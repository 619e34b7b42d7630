"""Columns that Arrow reads: Parquet, Arrow's own files, and what `save_to_disk` of `datasets` writes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from textlora.data.lines import check_size
from textlora.errors import DamagedError, DataError, ResourceError

BATCH_ROWS = 8192  # rows decoded at a time
SAVED, SAVED_SPLITS, SAVED_INFO = "state.json", "dataset_dict.json", "dataset_info.json"  # the datasets library's


def parquet_columns(path: Path) -> tuple[str, ...]:
    """Column names of a Parquet file. Raises DamagedError for what is none."""
    return distinct(tuple(_parquet(path).schema_arrow.names), path)


def parquet_cells(path: Path, names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """The cells of columns `names` of each row, some thousand rows in memory at a time."""
    file = _parquet(path)
    try:
        yield from _rows(file.iter_batches(batch_size=BATCH_ROWS, columns=list(names)), names)
    except (OSError, ValueError) as error:  # pyarrow's ArrowInvalid is a ValueError
        raise _damaged(path, error, "Parquet") from None


def arrow_columns(path: Path) -> tuple[str, ...]:
    """Column names of an Arrow file, with an index or a stream. Raises DamagedError for what is none."""
    with _source(path) as source:
        return distinct(tuple(_batches(path, source)[0].names), path)


def arrow_cells(path: Path, names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """As `parquet_cells`."""
    with _source(path) as source:
        batches = _batches(path, source)[1]
        try:
            yield from _rows((part for batch in batches for part in _parts(batch)), names)
        except (OSError, ValueError) as error:
            raise _damaged(path, error, "Arrow") from None


def class_label_names(path: Path, column: str) -> tuple[str, ...]:
    """Label names that the `datasets` library stored with a ClassLabel column, in the file or beside it, else ()."""
    kind = path.suffix.lower()
    if kind == ".parquet":
        schema = _parquet(path).schema_arrow
    elif kind in (".arrow", ".feather"):
        with _source(path) as source:
            schema = _batches(path, source)[0]
    else:
        return ()
    stored = (schema.metadata or {}).get(b"huggingface", b"{}")
    return _names_of(stored, column) or _names_beside(path, column)


def saved_splits(folder: Path) -> tuple[str, ...]:
    """The splits of a folder that `DatasetDict.save_to_disk` wrote, else ()."""
    if not (folder / SAVED_SPLITS).is_file():
        return ()
    splits = _json(folder / SAVED_SPLITS).get("splits", [])
    return tuple(split for split in splits if isinstance(split, str) and Path(split).name == split)


def saved_files(folder: Path) -> tuple[Path, ...]:
    """The Arrow files of a folder that `Dataset.save_to_disk` wrote, in order, else ().

    Raises DataError for one whose rows were chosen or shuffled without being written so (datasets before 2).
    """
    if not (folder / SAVED).is_file():
        return ()
    state = _json(folder / SAVED)
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise DataError(f"{folder} keeps the order of its rows apart", "save it again after `flatten_indices()`")
    files = state.get("_data_files")
    if not isinstance(files, list) or not files:
        raise DamagedError(f"{folder / SAVED} names no data files", "save the data set again")
    # Only the name: a saved folder may be anybody's, and names a file beside it.
    return tuple(folder / Path(str(file.get("filename"))).name for file in files if isinstance(file, dict))


def distinct(header: tuple[str, ...], path: Path) -> tuple[str, ...]:
    """`header`, if no name is there twice."""
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        raise DataError(f"{path.name}: the header names {repeated[0]!r} twice", "rename or remove one of the columns")
    return header


# --------------------------------------------------------------------------------------------------------------- files


def _rows(batches: Any, names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    for batch in batches:
        yield from zip(*(batch.column(name).to_pylist() for name in names), strict=True)


def _parts(batch: Any) -> Iterator[Any]:
    return (batch.slice(start, BATCH_ROWS) for start in range(0, batch.num_rows, BATCH_ROWS))


def _parquet(path: Path) -> Any:
    check_size(path)
    pyarrow = _pyarrow()
    try:
        return pyarrow.parquet.ParquetFile(path)
    except (OSError, ValueError) as error:
        raise _damaged(path, error, "Parquet") from None


def _source(path: Path) -> Any:
    """The file mapped into memory: a column of a large one costs what is read of it."""
    check_size(path)
    try:
        return _pyarrow().memory_map(str(path))
    except OSError as error:
        raise ResourceError(f"{path} can't be opened: {error.strerror}", "check the path and its permissions") from None


def _batches(path: Path, source: Any) -> tuple[Any, Any]:
    """Schema and record batches of an Arrow file in either of its forms, with an index (file) or without (stream)."""
    pyarrow = _pyarrow()
    try:
        with path.open("rb") as file:
            indexed = file.read(6) == b"ARROW1"
        if not indexed:
            stream = pyarrow.ipc.open_stream(source)
            return stream.schema, stream
        file = pyarrow.ipc.open_file(source)
        return file.schema, (file.get_batch(number) for number in range(file.num_record_batches))
    except (OSError, ValueError) as error:
        raise _damaged(path, error, "Arrow") from None


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError:
        raise ResourceError(
            "reading Parquet and Arrow needs pyarrow, which isn't installed", "pip install pyarrow"
        ) from None
    return pyarrow


def _damaged(path: Path, error: Exception, kind: str) -> DamagedError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return DamagedError(f"{path.name} is no readable {kind} file: {reason.rstrip('.')}", "fetch or write it again")


def _names_of(stored: bytes | str, column: str) -> tuple[str, ...]:
    try:
        names = json.loads(stored)["info"]["features"][column]["names"]
    except (ValueError, LookupError, TypeError):
        return ()  # no such record, or another library's
    return tuple(map(str, names)) if isinstance(names, list) else ()


def _names_beside(path: Path, column: str) -> tuple[str, ...]:
    info = path.parent / SAVED_INFO
    return _names_of(json.dumps({"info": _json(info)}), column) if info.is_file() else ()


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{path} is not valid JSON: {error}", "save the data set again") from None
    if not isinstance(found, dict):
        raise DamagedError(f"{path} is not what the datasets library writes", "save the data set again")
    return found
