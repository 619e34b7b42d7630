"""Data in: any source -> texts, label ids, splits, and a fingerprint of each.

sources (which files) -> readers (rows) -> columns (which cells) -> labels (ids) -> splits (leaks, carving; duplicates)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from textlora.data import columns, labels, readers, sources, splits
from textlora.data.sources import TEST, TRAIN, VALIDATION
from textlora.data.splits import Split
from textlora.errors import DataError, UsageError, closest

__all__ = ["Data", "Split", "from_texts", "load", "load_split", "read_texts"]

CHUNK_ROWS = 8192  # texts that `read_texts` holds at a time
UNKNOWN = "-1"  # a ClassLabel that isn't told, as in GLUE's test splits


@dataclass(frozen=True, eq=False)
class Data:
    """A task: its splits after `load`'s checks. `notes` are lines for people, `counts` the same for programs."""

    name: str
    label_names: tuple[str, ...]
    text_columns: tuple[str, ...]
    label_column: str
    train: Split
    validation: Split
    test: Split | None
    notes: tuple[str, ...]
    counts: dict[str, int]
    revision: str = ""  # the commit, of a data set of the hub


def load(
    source: str,
    *,
    text_column: Sequence[str] = (),
    label_column: str = "",
    label_names: Sequence[str] = (),
    split_seed: int = 0,
    validation_fraction: float = 0.1,
    revision: str = "",
) -> Data:
    """Train, validation and test of `source`: "mini-news", a folder with split files, one file, or a hub name.

    Training rows that repeat a validation or test text, exactly or nearly, are dropped and counted; validation is
    carved from train (`validation_fraction`, by `split_seed`) where there is no file of it. Given files stay as is.

    `revision` is a branch, tag or commit of a data set of the hub ("": the newest); `Data.revision` is its commit.

    Raises UsageError (unknown source or column), DataError (a file's content, row named), DamagedError (Parquet),
    ResourceError (no hub).
    """
    if not 0 < validation_fraction < 1:
        raise UsageError(f"validation_fraction is a share between 0 and 1, got {validation_fraction}", "0.1 is usual")
    found = sources.find(source, revision)
    if TRAIN not in found.files:
        raise DataError(f"{source} has no train split, only {', '.join(found.files)}", "name one train.csv or the like")
    plan = _Columns.of(found.first(), text_column, label_column)
    given = {split: _Raw.read(files, plan) for split, files in found.files.items()}

    own = plan.own_label_names(found.first())
    names = _label_names(label_names) or own or labels.found_names(given[TRAIN].labels, plan.label)
    code = labels.coding(given[TRAIN].labels, names, own, complete=bool(label_names))
    hidden = [split for split in given if own and split != TRAIN and set(given[split].labels) == {UNKNOWN}]
    given = {split: raw for split, raw in given.items() if split not in hidden}
    coded = {split: raw.coded(split, names, code) for split, raw in given.items()}
    judged = splits.judge(coded[TRAIN], coded.get(VALIDATION), coded.get(TEST), validation_fraction, split_seed)
    return Data(
        name=found.name,
        label_names=names,
        text_columns=plan.text,
        label_column=plan.label,
        train=judged.train,
        validation=judged.validation,
        test=coded.get(TEST),
        notes=(
            *found.notes,
            *(f"{split} has no labels (all {UNKNOWN}): left out" for split in hidden),
            *judged.notes(),
        ),
        counts=judged.counts,
        revision=found.revision,
    )


def from_texts(
    texts: Sequence[str],
    label_ids: np.ndarray,
    label_names: Sequence[str],
    *,
    name: str = "memory",
    split_seed: int = 0,
    validation_fraction: float = 0.1,
) -> Data:
    """Train and validation of texts in memory (N); `label_ids` (N,) count from 0 in `label_names`.

    Checked, freed of repeats and carved as `load` does with a file. Raises DataError, the row (from 1) named.
    """
    if not len(texts):
        raise DataError("there are no texts", "give some of each label")
    names, row_ids = _label_names(label_names), [f"{name}:{row}" for row in range(1, len(texts) + 1)]
    checked = [_text((text,), row_id) for text, row_id in zip(texts, row_ids, strict=True)]
    given = Split(TRAIN, checked, np.asarray(label_ids, dtype=np.int64), row_ids, names)
    judged = splits.judge(given, None, None, validation_fraction, split_seed)
    return Data(name, names, (), "", judged.train, judged.validation, None, judged.notes(), judged.counts)


def load_split(
    source: str,
    split: str = "",
    *,
    label_names: Sequence[str],
    text_column: Sequence[str] = (),
    label_column: str = "",
    usual: tuple[Sequence[str], str] = ((), ""),
    split_seed: int = 0,
    validation_fraction: float = 0.1,
    revision: str = "",
) -> Split:
    """One split of `source`, its labels as ids in `label_names` (a trained run's, in its order).

    `usual` are the run's own text and label columns: taken where they exist and nothing is named.
    A file needs no split name: its own may say one (Test.csv), else the split is called like the file. `train`, and
    `validation` where there is no file of it, are as `load` gives them by the same seed. Raises UsageError for a split
    that isn't there or, of a file, is none of the three; DataError for a label that isn't in `label_names`.
    """
    found = sources.find(source, revision)
    wanted = sources.SPLIT_OF_STEM.get(split.casefold(), split)
    if found.single:
        _check_split_of_file(source, wanted)
    present = readers.columns(found.first())
    text_column = _usual(text_column, usual[0], present)
    label_column = label_column or next(iter(_usual((), (usual[1],), present)), "")
    if _as_loaded(found, wanted):
        data = load(
            source,
            text_column=text_column,
            label_column=label_column,
            label_names=label_names,
            split_seed=split_seed,
            validation_fraction=validation_fraction,
            revision=found.revision,
        )
        return data.train if wanted == TRAIN else data.validation
    files = _files_of(found, wanted, source)
    plan = _Columns.of(files[0], text_column, label_column)
    raw = _Raw.read(files, plan)
    names = _label_names(label_names)
    code = labels.coding(raw.labels, names, plan.own_label_names(files[0]))
    return raw.coded(wanted or sources.split_of(files[0]) or found.name, names, code)


def read_texts(path: str | Path, *, text_column: Sequence[str] = (), usual: Sequence[str] = ()) -> Iterator[list[str]]:
    """The raw texts of one file in order, in lists of at most 8,192; constant memory (but a .json list is read whole).

    `usual` are a run's own text columns: taken where they exist and no `text_column` is named.
    A .txt file is one text a line. No label column is needed. Raises as `load` does; a row's fault as it is reached.
    """
    file = Path(path)
    if file.is_dir():
        raise UsageError(f"{file} is a folder, expected one file of texts", "give the file")
    if not file.exists():
        raise DataError(f"there is no file {file}", "check the path")
    rows = _line_texts(file) if file.suffix.lower() == ".txt" else _column_texts(file, text_column, usual)
    return _chunks(rows)


# ------------------------------------------------------------------------------------------------------ rows to splits


@dataclass(frozen=True)
class _Columns:
    text: tuple[str, ...]
    label: str

    @classmethod
    def of(cls, file: Path, text_column: Sequence[str], label_column: str) -> _Columns:
        present, named = readers.columns(file), _names(text_column)
        if label_column and label_column in named:
            raise UsageError(f"column {label_column!r} can't be both text and label", "name two columns")
        label = columns.label_column(present, label_column, file.name, texts=named)
        return cls(columns.text_columns(present, named, file.name, label=label), label)

    def own_label_names(self, file: Path) -> tuple[str, ...]:
        """Label names that the data brings: classes.txt beside it, or a Parquet file's ClassLabel."""
        return sources.label_names_beside(file) or readers.class_label_names(file, self.label)


@dataclass(frozen=True)
class _Raw:
    """Checked cells of one split: labels as strings."""

    texts: list[str]
    labels: list[str]
    row_ids: list[str]

    @classmethod
    def read(cls, files: Sequence[Path], plan: _Columns) -> _Raw:
        texts, cells, row_ids = [], [], []
        for file in files:
            _check_columns(file, (*plan.text, plan.label))
            for row_id, (label, *parts) in readers.numbered(readers.cells(file, (plan.label, *plan.text)), file):
                texts.append(_text(parts, row_id))
                cells.append(label)
                row_ids.append(row_id)
        if not texts:
            raise DataError(f"{files[0].name} has columns but no rows", "give a file with rows")
        return cls(texts, labels.label_cells(cells, row_ids), row_ids)

    def coded(self, name: str, names: tuple[str, ...], code: dict[str, int]) -> Split:
        return Split(name, self.texts, labels.encode(self.labels, code, self.row_ids), self.row_ids, names)


def _names(given: Sequence[str]) -> tuple[str, ...]:
    """A tuple of names; one string is one name, not its letters."""
    return (given,) if isinstance(given, str) else tuple(given)


def _usual(named: Sequence[str], usual: Sequence[str], present: Sequence[str]) -> tuple[str, ...]:
    """The named columns, else the usual ones if the file has them all, else none: to be found by name."""
    return _names(named) or (tuple(usual) if usual and set(usual) <= set(present) else ())


def _label_names(given: Sequence[str]) -> tuple[str, ...]:
    names = _names(given)
    if len(set(names)) != len(names) or any(not name.strip() for name in names):
        listed = ", ".join(map(repr, names))
        raise UsageError(f"label names must be different and not blank, got {listed}", "correct --label-names")
    return names


def _check_columns(file: Path, names: Sequence[str]) -> None:
    present = readers.columns(file)
    for name in names:
        if name not in present:
            raise UsageError(f"{file.name} has no column {name!r}, only {', '.join(present)}", closest(name, present))


def _text(parts: Sequence[Any], row_id: str) -> str:
    """The text cells of a row, joined by one blank; blank ones left out."""
    for part in parts:
        if not isinstance(part, str):
            raise DataError(
                f"{readers.place(row_id)}: the text is {part!r:.60}, expected a string", "correct or remove the row"
            )
        if "\0" in part:
            raise DataError(f"{readers.place(row_id)}: the text holds a NUL byte", "remove it")
        if not part.isascii() and any("\ud800" <= c <= "\udfff" for c in part):
            raise DataError(
                f"{readers.place(row_id)}: the text holds half a surrogate pair, no character",
                "write the text as UTF-8",
            )
    text = " ".join(part for part in parts if part.strip())
    if not text:
        raise DataError(f"{readers.place(row_id)}: the text is empty", "fill it in or remove the row")
    return text


# ------------------------------------------------------------------------------------------------------------ one split


def _as_loaded(found: sources.Source, split: str) -> bool:
    """Whether `split` is what `load` makes rather than a file as it stands."""
    if found.single:
        return split == TRAIN or (split == VALIDATION and sources.split_of(found.first()) != VALIDATION)
    return TRAIN in found.files and (split == TRAIN or (split == VALIDATION and VALIDATION not in found.files))


def _check_split_of_file(source: str, split: str) -> None:
    """A file can be any split, but no slip (`tset`) may make one whose scoring isn't counted as a test."""
    known = (TRAIN, VALIDATION, TEST)
    if split and split not in known:
        raise UsageError(f"{source} has no split {split!r}, only {', '.join(known)}", closest(split, known))


def _files_of(found: sources.Source, split: str, source: str) -> tuple[Path, ...]:
    if found.single:
        return found.files[TRAIN]
    if split not in found.files:
        there = ", ".join(found.files)
        missing = f"{source} has no split {split!r}" if split else f"{source} has several splits"
        raise UsageError(f"{missing}; there is {there}", "choose with --split")
    return found.files[split]


# ------------------------------------------------------------------------------------------------ texts without labels


def _column_texts(file: Path, text_column: Sequence[str], usual: Sequence[str]) -> Iterator[str]:
    present = readers.columns(file)
    names = columns.text_columns(present, _usual(text_column, usual, present), file.name)
    return (_text(parts, row_id) for row_id, parts in readers.numbered(readers.cells(file, names), file))


def _line_texts(file: Path) -> Iterator[str]:
    rows = ((line.rstrip("\r\n"),) for line in readers.lines(file))
    return (_text(parts, row_id) for row_id, parts in readers.numbered(rows, file))


def _chunks(texts: Iterator[str]) -> Iterator[list[str]]:
    while chunk := list(islice(texts, CHUNK_ROWS)):
        yield chunk
