"""Which columns hold the texts and the labels: those named, else those found by name."""

from __future__ import annotations

from collections.abc import Sequence

from textlora.errors import DataError, UsageError, closest

TEXT_NAMES = ("text", "sentence", "content", "document", "body", "review", "message", "headline")
TEXT_PAIR = ("title", "description")  # joined in this order: AG's corpus
LABEL_NAMES = ("label", "labels", "class", "category", "target", "topic", "class index")

# Columns of tasks on two texts (GLUE's names): two sentences joined would train, and mean nothing.
SENTENCE_PAIRS = (("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"), ("text1", "text2"))


def text_columns(columns: Sequence[str], named: Sequence[str], file: str, label: str = "") -> tuple[str, ...]:
    """The text columns among `columns` but `label`. Raises UsageError where they are unknown, ambiguous, not found."""
    if named:
        return tuple(_known(name, columns, file, "--text-column") for name in named)
    by_name = _folded(columns, taken=(label,))
    for first, second in SENTENCE_PAIRS:
        if first in by_name and second in by_name:
            raise DataError(
                f"{file} has pairs of texts ({first}, {second}): a task on pairs isn't one textlora does",
                "if one column alone decides the label, name it with --text-column",
            )
    found: list[tuple[str, ...]] = [(column,) for name in TEXT_NAMES for column in by_name.get(name, ())]
    if all(name in by_name for name in TEXT_PAIR):
        found.append(tuple(by_name[name][0] for name in TEXT_PAIR))
    return _only(found, columns, file, "text", "--text-column", TEXT_NAMES)


def label_column(columns: Sequence[str], named: str, file: str, texts: Sequence[str] = ()) -> str:
    """The label column among `columns` but `texts`. Raises UsageError where it is unknown, ambiguous, not found."""
    if named:
        return _known(named, columns, file, "--label-column")
    by_name = _folded(columns, taken=texts)
    found: list[tuple[str, ...]] = [(column,) for name in LABEL_NAMES for column in by_name.get(name, ())]
    return _only(found, columns, file, "label", "--label-column", LABEL_NAMES)[0]


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
    if len(columns) == 1 and any(mark in columns[0] for mark in ";\t|"):
        raise UsageError(f"{file} has one column, {listed}: it isn't separated by commas", "save it as CSV or TSV")
    raise UsageError(
        f"{file} has no {kind} column by name ({', '.join(names)}), only {listed}",
        f"name it with {flag}; if the file has no header line, add one",
    )


def _folded(columns: Sequence[str], taken: Sequence[str]) -> dict[str, list[str]]:
    """Column names that aren't `taken`, by their folded form: `Class_Index` is found as `class index`."""
    by_name: dict[str, list[str]] = {}
    for column in (c for c in columns if c not in taken):
        by_name.setdefault(column.casefold().replace("_", " ").strip(), []).append(column)
    return by_name
