"""Which columns hold the texts and the labels: those named, else those found by name.

Names are compared in small letters without marks, so `Class_Index` is `classindex`. What could be several things is an
error that names the choices.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

from textlora.data import readers
from textlora.errors import DataError, UsageError, closest

# A head and a body are joined in this order (a mail's subject and text, AG's title and description). Names of the
# first set are a text for certain; those of the second are taken where none of the first is there.
HEADS = ("title", "subject", "headline", "heading", "subjectline", "summary")
HEADS += tuple(f"{what}{head}" for what in ("review", "ticket", "mail", "email") for head in ("title", "subject"))
BODIES = (
    ("text", "texts", "sentence", "content", "document", "body", "review", "message"),
    (
        *("description", "shortdescription", "abstract", "article", "comment", "commenttext", "tweet", "post"),
        *("question", "query", "utterance", "email", "mail", "sms", "ticket", "complaint", "narrative", "feedback"),
        *("consumercomplaintnarrative", "transcript", "transcription", "statement", "snippet", "paragraph", "input"),
        *("contents", "fulltext", "sentences"),
        *(f"{w}{b}" for w in ("review", "ticket", "mail", "email", "message", "article") for b in ("text", "body")),
    ),
)
EITHER = "summary"  # Amazon's is a review's head, an article's is its body: a head only beside a body

# The same for labels: what is called so for certain, what usually is one, what is one for lack of another.
LABELS = (
    ("label", "labels", "class", "category", "target", "topic", "classindex"),
    ("queue", "intent", "sentiment", "department", "tag", "tags", "genre", "emotion", "labelname", "labeltext"),
    ("type", "priority", "polarity", "rating", "stars", "language"),
)

# Columns of tasks on two texts (GLUE's and others' names): two texts joined would train, and mean nothing.
SENTENCE_PAIRS = (
    *(("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"), ("text1", "text2")),
    *(("sentencea", "sentenceb"), ("texta", "textb"), ("question", "sentence"), ("question", "passage")),
    *(("query", "passage"), ("query", "document"), ("claim", "evidence"), ("anchor", "positive")),
)
BINARY_ROWS = 1000  # rows that must hold 0 and 1 alone for columns to be taken for several labels

_MARKS = re.compile(r"[\W_]+")


def text_columns(columns: Sequence[str], named: Sequence[str], file: str, label: str = "") -> tuple[str, ...]:
    """The text columns among `columns` but `label`, in the order in which they are joined.

    Raises UsageError where they are unknown, ambiguous or not found, DataError for pairs of texts.
    """
    if named:
        return tuple(_known(name, columns, file, "--text-column") for name in named)
    by_name = _folded(columns, taken=(label,))
    for first, second in SENTENCE_PAIRS:
        if first in by_name and second in by_name:
            raise DataError(
                f"{file} has pairs of texts ({first}, {second}): a task on pairs isn't one textlora does",
                "if one column alone decides the label, name it with --text-column",
            )
    bodies = next(filter(None, (_of(by_name, names) for names in BODIES)), [])
    heads = _of(by_name, HEADS)
    if not bodies and len(heads) > 1:
        bodies = by_name.get(EITHER, [])
    heads = [head for head in heads if head not in bodies]
    groups = [(head, body) for head in heads for body in bodies] or [(column,) for column in (*heads, *bodies)]
    return _only(groups, columns, file, "text", "--text-column", (*BODIES[0], *HEADS[:3]))


def label_column(columns: Sequence[str], named: str, file: str, texts: Sequence[str] = ()) -> str:
    """The label column among `columns` but `texts`. Raises UsageError where it is unknown, ambiguous, not found."""
    if named:
        return _known(named, columns, file, "--label-column")
    by_name = _folded(columns, taken=texts)
    found = next(filter(None, (_of(by_name, names) for names in LABELS)), [])
    groups: list[tuple[str, ...]] = [(column,) for column in found]
    return _only(groups, columns, file, "label", "--label-column", (*LABELS[0], *LABELS[1]))[0]


def has_label_column(columns: Sequence[str], texts: Sequence[str] = ()) -> bool:
    """Whether any column's name says that it holds labels."""
    by_name = _folded(columns, taken=texts)
    return any(_of(by_name, names) for names in LABELS)


def check_several_labels(file: Path, columns: Sequence[str], texts: Sequence[str]) -> None:
    """Raises DataError where two or more columns hold 0 and 1 alone: one column for each label a text may have."""
    others = [column for column in columns if column not in texts]
    if len(others) < 2:
        return
    rows = list(islice(readers.cells(file, others), BINARY_ROWS))
    kinds = zip(others, zip(*rows, strict=True), strict=True) if rows else ()
    binary = [name for name, cells in kinds if {_digit(cell) for cell in cells} == {"0", "1"}]
    if len(binary) > 1:
        raise DataError(
            f"{file.name} has {len(binary)} columns of 0 and 1 ({', '.join(binary[:4])}): several labels for a text"
            " (multi-label), which isn't a task textlora does",
            "write one column with one label a row, or name the one to learn with --label-column",
        )


def _digit(cell: object) -> str:
    return str(int(cell)) if isinstance(cell, bool) else str(cell)


def _known(name: str, columns: Sequence[str], file: str, flag: str) -> str:
    if name not in columns:
        raise UsageError(
            f"{file} has no column {name!r} ({flag}), only {', '.join(map(repr, columns))}", closest(name, columns)
        )
    return name


def _only(
    found: list[tuple[str, ...]], columns: Sequence[str], file: str, kind: str, flag: str, names: Sequence[str]
) -> tuple[str, ...]:
    if len(found) == 1:
        return found[0]
    listed = ", ".join(map(repr, columns))
    if found:
        choice = " or ".join("+".join(group) for group in found)
        raise UsageError(f"{file} has more than one {kind} column: {choice}", f"choose with {flag}")
    raise UsageError(
        f"{file} has no {kind} column by name ({', '.join(names)}, ...), only {listed}",
        f"name it with {flag}; if the file has no header line, add one",
    )


def _of(by_name: dict[str, list[str]], names: Iterable[str]) -> list[str]:
    return [column for name in names for column in by_name.get(name, ())]


def _folded(columns: Sequence[str], taken: Sequence[str]) -> dict[str, list[str]]:
    """Column names that aren't `taken`, by their folded form."""
    by_name: dict[str, list[str]] = {}
    for column in (c for c in columns if c not in taken):
        by_name.setdefault(_MARKS.sub("", column.casefold()), []).append(column)
    return by_name
