"""Data in: any source -> texts, label ids, splits, and a fingerprint of each.

sources (which files) -> readers (lines, delimited, arrow: cells) -> rows (columns, labels: which cells, checked)
-> splits (leaks, carving; duplicates)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path

import numpy as np

from textlora.data import columns, labels, readers, sources, splits
from textlora.data.findings import Finding, of_texts
from textlora.data.rows import UNKNOWN, Columns, Raw, joined, numbered_texts, text_of, usual_columns
from textlora.data.rows import label_names as checked_names
from textlora.data.sources import TEST, TRAIN, VALIDATION
from textlora.data.splits import Split
from textlora.errors import DataError, UsageError, closest

__all__ = ["Data", "Split", "from_texts", "load", "load_split", "load_whole", "read_texts", "texts_notes"]

CHUNK_ROWS = 8192  # texts that `read_texts` holds at a time


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
    plan = Columns.of(found.first(), text_column, label_column)
    given = {split: Raw.read(files, plan) for split, files in found.files.items()}

    own = plan.own_label_names(found.first())
    names = checked_names(label_names) or own or labels.found_names(given[TRAIN].labels, plan.label)
    code = labels.coding(given[TRAIN].labels, names, own, complete=bool(label_names))
    hidden = [split for split in given if own and split != TRAIN and given[split].untold]
    given = {split: raw for split, raw in given.items() if split not in hidden}
    coded = {split: raw.coded(split, names, code) for split, raw in given.items()}
    judged = splits.judge(coded[TRAIN], coded.get(VALIDATION), coded.get(TEST), validation_fraction, split_seed)
    recognised = dict.fromkeys(note for split in coded.values() for note in split.notes)
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
            *recognised,
            *filter(None, [plan.note()]),
            *(f"{split} has no labels (all {UNKNOWN}): left out" for split in hidden),
            *judged.notes(),
            *(finding.line for finding in _odd_texts(coded.values())),
        ),
        counts=judged.counts,
        revision=found.revision,
    )


def _odd_texts(given: Iterable[Split]) -> list[Finding]:
    names = [split.label_names[i] for split in given for i in split.labels.tolist()]
    return of_texts([text for split in given for text in split.texts], names)


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
    names, row_ids = checked_names(label_names), [f"{name}:{row}" for row in range(1, len(texts) + 1)]
    checked = [text_of((text,), row_id) for text, row_id in zip(texts, row_ids, strict=True)]
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
    text_column = usual_columns(text_column, usual[0], present)
    label_column = label_column or next(iter(usual_columns((), (usual[1],), present)), "")
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
    plan = Columns.of(files[0], text_column, label_column)
    raw = Raw.read(files, plan)
    if usual[0] and _to_be_said(plan.text, usual[0]):
        raw = replace(raw, notes=(*raw.notes, joined(plan.text)))
    names = checked_names(label_names)
    code = labels.coding(raw.labels, names, plan.own_label_names(files[0]))
    return raw.coded(wanted or found.own_split or found.name, names, code)


def load_whole(
    source: str,
    *,
    text_column: Sequence[str] = (),
    label_column: str = "",
    label_names: Sequence[str] = (),
    revision: str = "",
) -> Split:
    """Every row of `source`'s training files (of its only split, where it has one), nothing carved or dropped.

    Columns and labels are found, and errors raised, as by `load`.
    """
    found = sources.find(source, revision)
    split = TRAIN if TRAIN in found.files else _only_split(found, source)
    plan = Columns.of(found.files[split][0], text_column, label_column)
    raw = Raw.read(found.files[split], plan)
    own = plan.own_label_names(found.files[split][0])
    names = checked_names(label_names) or own or labels.found_names(raw.labels, plan.label)
    code = labels.coding(raw.labels, names, own, complete=bool(label_names))
    rows = raw.coded(split, names, code)
    return replace(rows, notes=(*found.notes, *rows.notes, *filter(None, [plan.note()])))


def _only_split(found: sources.Source, source: str) -> str:
    if len(found.files) > 1:
        raise DataError(f"{source} has no train split, only {', '.join(found.files)}", "give one file of them")
    return next(iter(found.files))


def read_texts(path: str | Path, *, text_column: Sequence[str] = (), usual: Sequence[str] = ()) -> Iterator[list[str]]:
    """The raw texts of one file in order, in lists of at most 8,192; constant memory (but a .json list is read whole).

    `usual` are a run's own text columns: taken where they exist and no `text_column` is named.
    A .txt file is one text a line. No label column is needed. Raises as `load` does; a row's fault as it is reached.
    """
    files = _text_files(Path(path))
    each = [_line_texts(f) if readers.ending(f) == ".txt" else _column_texts(f, text_column, usual) for f in files]
    return _chunks(chain.from_iterable(each))


def texts_notes(path: str | Path, *, text_column: Sequence[str] = (), usual: Sequence[str] = ()) -> tuple[str, ...]:
    """What `read_texts` recognises in a file, in lines for people: encoding, separator, columns."""
    files = _text_files(Path(path))
    lines = [note for file in files for note in readers.notes(file)]
    if readers.ending(files[0]) != ".txt":
        names = _text_columns(files[0], text_column, usual)
        lines += [joined(names)] if _to_be_said(names, usual) else []
    return tuple(lines)


# ------------------------------------------------------------------------------------------------------------ one split


def _to_be_said(text_columns: Sequence[str], usual: Sequence[str]) -> bool:
    """Several columns always, one where it isn't the run's own."""
    return len(text_columns) > 1 or tuple(text_columns) != tuple(usual)


def _as_loaded(found: sources.Source, split: str) -> bool:
    """Whether `split` is what `load` makes rather than a file as it stands."""
    if found.single:
        return split == TRAIN or (split == VALIDATION and found.own_split != VALIDATION)
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


def _text_files(path: Path) -> tuple[Path, ...]:
    """A file, or the files of a folder that `Dataset.save_to_disk` wrote."""
    saved = sources.saved_files(path)
    if path.is_dir() and not saved:
        raise UsageError(f"{path} is a folder, expected one file of texts", "give the file")
    if not path.exists():
        raise DataError(f"there is no file {path}", "check the path")
    return saved or (path,)


def _text_columns(file: Path, text_column: Sequence[str], usual: Sequence[str]) -> tuple[str, ...]:
    present = readers.columns(file)
    return columns.text_columns(present, usual_columns(text_column, usual, present), file.name)


def _column_texts(file: Path, text_column: Sequence[str], usual: Sequence[str]) -> Iterator[str]:
    return numbered_texts(readers.cells(file, _text_columns(file, text_column, usual)), file)


def _line_texts(file: Path) -> Iterator[str]:
    return numbered_texts(((line.rstrip("\r\n"),) for line in readers.lines(file)), file)


def _chunks(texts: Iterator[str]) -> Iterator[list[str]]:
    while chunk := list(islice(texts, CHUNK_ROWS)):
        yield chunk
