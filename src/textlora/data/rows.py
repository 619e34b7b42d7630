"""Cells to checked rows: which columns, joined how, each text and label as it must be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from textlora.data import columns, labels, readers, sources
from textlora.data.delimited import FIELD_LIMIT, Fault, raise_
from textlora.data.findings import Finding, of_labels
from textlora.data.splits import Split
from textlora.errors import DataError, UsageError, closest

UNKNOWN = "-1"  # a ClassLabel that isn't told, as in GLUE's test splits


@dataclass(frozen=True)
class Columns:
    """Where texts and labels stand; `unused` are the columns left over."""

    text: tuple[str, ...]
    label: str
    unused: tuple[str, ...]

    @classmethod
    def of(cls, file: Path, text_column: Sequence[str], label_column: str) -> Columns:
        present, named = readers.columns(file), names(text_column)
        if label_column and label_column in named:
            raise UsageError(f"column {label_column!r} can't be both text and label", "name two columns")
        if not label_column and not columns.has_label_column(present, named):
            columns.check_several_labels(file, present, named)
        label = columns.label_column(present, label_column, file.name, texts=named)
        text = columns.text_columns(present, named, file.name, label=label)
        return cls(text, label, tuple(name for name in present if name not in (*text, label)))

    def own_label_names(self, file: Path) -> tuple[str, ...]:
        """Label names that the data brings: classes.txt beside it, or a ClassLabel column's."""
        return sources.label_names_beside(file) or readers.class_label_names(file, self.label)

    def note(self) -> str:
        """Which columns are read and how; "" where there is no other way to see it."""
        if not self.unused and (self.text, self.label) == (("text",), "label"):
            return ""
        left = f"; not used: {_listed(self.unused)}" if self.unused else ""
        return f"{joined(self.text)}; labels: {self.label}{left}"


@dataclass(frozen=True)
class Raw:
    """Checked cells of one split: labels as strings. `notes` say what was recognised, `findings` what is odd."""

    texts: list[str]
    labels: list[str]
    row_ids: list[str]
    notes: tuple[str, ...]
    findings: tuple[Finding, ...]

    @classmethod
    def read(cls, files: Sequence[Path], plan: Columns, fault: Fault = raise_) -> Raw:
        """The rows of `files`. What can't be used is told to `fault`; rows it doesn't raise for are left out."""
        texts, cells, row_ids, notes = [], [], [], []
        for file in files:
            check_columns(file, (*plan.text, plan.label))
            notes += readers.notes(file)
            for row_id, row in readers.numbered(readers.cells(file, (plan.label, *plan.text), fault), file):
                text = text_of(row[1:], row_id, fault) if row else ""
                if text:
                    texts.append(text)
                    cells.append(row[0])
                    row_ids.append(row_id)
        if not texts:
            fault(DataError(f"{files[0].name} has columns but no rows", "give a file with rows"))
        found = labels.label_cells(cells, row_ids, fault)
        kept = [i for i, label in enumerate(found) if label]
        odd = of_labels([cells[i] for i in kept])
        texts, found, row_ids = ([items[i] for i in kept] for items in (texts, found, row_ids))
        return cls(texts, found, row_ids, tuple(notes), tuple(odd))

    @property
    def untold(self) -> bool:
        """Whether every label is the number that stands for none."""
        return set(self.labels) == {UNKNOWN}

    def coded(self, name: str, names: tuple[str, ...], code: dict[str, int]) -> Split:
        ids = labels.encode(self.labels, code, self.row_ids)
        notes = (*self.notes, *(f"{name}: {finding.line}" for finding in self.findings))
        return Split(name, self.texts, ids, self.row_ids, names, notes)


def joined(text_columns: Sequence[str]) -> str:
    """`texts: subject + body, joined by a blank`"""
    return f"texts: {' + '.join(text_columns)}" + (", joined by a blank" if len(text_columns) > 1 else "")


def names(given: Sequence[str]) -> tuple[str, ...]:
    """A tuple of names; one string is one name, not its letters."""
    return (given,) if isinstance(given, str) else tuple(given)


def usual_columns(named: Sequence[str], usual: Sequence[str], present: Sequence[str]) -> tuple[str, ...]:
    """The named columns, else the usual ones if the file has them all, else none: to be found by name."""
    return names(named) or (tuple(usual) if usual and set(usual) <= set(present) else ())


def label_names(given: Sequence[str]) -> tuple[str, ...]:
    """Checked names of labels, in order."""
    found = names(given)
    if len(set(found)) != len(found) or any(not name.strip() for name in found):
        listed = ", ".join(map(repr, found))
        raise UsageError(f"label names must be different and not blank, got {listed}", "correct --label-names")
    return found


def check_columns(file: Path, names: Sequence[str]) -> None:
    """Raises UsageError for a name that is no column of the file."""
    present = readers.columns(file)
    for name in names:
        if name not in present:
            raise UsageError(f"{file.name} has no column {name!r}, only {', '.join(present)}", closest(name, present))


def text_of(parts: Sequence[Any], row_id: str, fault: Fault = raise_) -> str:
    """The text cells of a row, joined by one blank, blank ones left out; "" for a row that `fault` was told of."""
    for part in parts:
        wrong = _text_fault(part)
        if wrong:
            fault(DataError(f"{readers.place(row_id)}: {wrong[0]}", wrong[1]))
            return ""
    text = " ".join(part for part in parts if part.strip())
    if not text:
        fault(DataError(f"{readers.place(row_id)}: the text is empty", "fill it in or remove the row"))
    return text


def numbered_texts(rows: Iterator[tuple[Any, ...]], file: Path) -> Iterator[str]:
    """The checked texts of rows of text cells."""
    return (text_of(parts, row_id) for row_id, parts in readers.numbered(rows, file))


def _text_fault(part: Any) -> tuple[str, str] | None:
    """What is wrong with a text cell, and what to do."""
    if not isinstance(part, str):
        return f"the text is {part!r:.60}, expected a string", "correct or remove the row"
    if "\0" in part:
        return "the text holds a NUL byte", "remove it"
    if len(part) > FIELD_LIMIT:
        return f"the text has {len(part):,} characters, expected at most {FIELD_LIMIT:,}", "shorten or split it"
    if not part.isascii() and any("\ud800" <= c <= "\udfff" for c in part):
        return "the text holds half a surrogate pair, no character", "write the text as UTF-8"
    return None


def _listed(columns: Sequence[str], limit: int = 8) -> str:
    return ", ".join(columns[:limit]) + (f" and {len(columns) - limit} more" if len(columns) > limit else "")
