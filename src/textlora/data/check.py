"""`textlora data check`: everything that `load` would say or refuse, at once, and nothing trained.

The same readers, checks and splits as `load`'s; where those stop at a fault, this goes on behind it and counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from textlora.data import delimited, duplicates, labels, lines, readers, sources, splits
from textlora.data.findings import EXAMPLES, Finding, of_texts, short
from textlora.data.rows import UNKNOWN, Columns, Raw, joined
from textlora.data.rows import label_names as checked_names
from textlora.data.sources import TEST, TRAIN, VALIDATION
from textlora.data.splits import Judged, Split
from textlora.errors import DataError, TextLoraError

FEW = 10  # rows of a label below which its figures mean little
QUANTILES = {"median": 0.5, "p95": 0.95, "p99": 0.99, "longest": 1.0}


@dataclass(frozen=True, eq=False)
class Checked:
    """What is in a data set and what is odd about it. `train` are the rows to train on, if there are any."""

    source: str
    files: tuple[dict[str, Any], ...]  # split, file, kind, rows
    columns: str  # how they are read, in words
    classes: tuple[dict[str, Any], ...]  # label and its rows in each given split
    imbalance: float | None  # rows of the most frequent label for one of the rarest, in train
    lengths: dict[str, dict[str, float]]  # of training texts: characters, words, tokens -> quantiles
    findings: tuple[Finding, ...]
    train: Split | None
    validation: int
    tokens: np.ndarray | None  # of each training text, if they could be counted

    @property
    def trainable(self) -> bool:
        return not any(finding.stops for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        kept = ("source", "files", "columns", "classes", "imbalance", "lengths")
        findings = [asdict(finding) for finding in self.findings]
        return {key: getattr(self, key) for key in kept} | {"trainable": self.trainable, "findings": findings}


def check(
    source: str,
    *,
    text_column: Sequence[str] = (),
    label_column: str = "",
    label_names: Sequence[str] = (),
    revision: str = "",
    split_seed: int = 0,
    validation_fraction: float = 0.1,
    count_tokens: Callable[[list[str]], np.ndarray] | None = None,
) -> Checked:
    """Look at `source` as `load` would. Raises what leaves nothing to look at: no such file or column, damage."""
    found = sources.find(source, revision)
    plan = Columns.of(found.first(), text_column, label_column)
    faults: dict[str, list[TextLoraError]] = {split: [] for split in found.files}
    given = {split: Raw.read(files, plan, faults[split].append) for split, files in found.files.items()}
    findings = [_of_faults(split, some) for split, all_of in faults.items() for some in _alike(all_of)]
    findings += [finding for raw in given.values() for finding in raw.findings]

    coded = _attempt(findings, lambda: _coded(findings, given, plan, found, label_names)) or {}
    lost = bool(faults.get(TRAIN)) and TRAIN in coded and not len(coded[TRAIN])  # every row has a fault: said above
    whole = coded and not lost
    judged = _attempt(findings, lambda: _judged(coded, split_seed, validation_fraction, source)) if whole else None
    findings += _of_texts(coded) + _of_splits(coded, judged) + _of_classes(coded)
    train = judged.train if judged else coded.get(TRAIN)
    tokens = count_tokens(train.texts) if count_tokens and train and len(train) else None
    return Checked(
        source=source,
        files=tuple(_file(split, file, given[split]) for split, files in found.files.items() for file in files),
        columns=plan.note() or f"{joined(plan.text)}; labels: {plan.label}",
        classes=tuple(_classes(coded)),
        imbalance=_imbalance(coded),
        lengths=_lengths(train.texts, tokens) if train and len(train) else {},
        findings=tuple(sorted(findings, key=lambda finding: not finding.stops)),
        train=train,
        validation=len(judged.validation) if judged else 0,
        tokens=tokens,
    )


def _coded(
    findings: list[Finding], given: dict[str, Raw], plan: Columns, found: sources.Source, names: Sequence[str]
) -> dict[str, Split]:
    """Splits with label ids; labels that `load` would refuse are kept as they are, to look at the rest."""
    first = given[TRAIN if TRAIN in given else next(iter(given))]
    own = plan.own_label_names(found.first())
    known = checked_names(names) or own or _attempt(findings, lambda: labels.found_names(first.labels, plan.label))
    known = known or tuple(sorted(set(first.labels)))
    code = labels.coding(first.labels, known, own, complete=bool(names) and TRAIN in given)
    told = {split: raw for split, raw in given.items() if not (own and split != TRAIN and raw.untold)}
    for split in sorted(given.keys() - told.keys()):
        findings.append(
            Finding("untold", len(given[split].labels), f"{split} has no labels (all {UNKNOWN})", "left out")
        )
    return {split: raw.coded(split, known, code) for split, raw in told.items()}


def _judged(coded: dict[str, Split], seed: int, fraction: float, source: str) -> Judged:
    if TRAIN not in coded:
        raise DataError(f"{source} has no train split, only {', '.join(coded)}", "name one train.csv or the like")
    return splits.judge(coded[TRAIN], coded.get(VALIDATION), coded.get(TEST), fraction, seed)


def _attempt(findings: list[Finding], step: Callable[[], Any]) -> Any:
    """What `step` gives, or None and one finding more."""
    try:
        return step()
    except TextLoraError as error:
        findings.append(Finding(error.kind, 1, error.message, error.fix, stops=True))
        return None


# -------------------------------------------------------------------------------------------------------------- faults


def _alike(faults: Sequence[TextLoraError]) -> list[list[TextLoraError]]:
    """Faults in groups of a kind: the same thing to do, said in the same first words."""
    groups: dict[tuple[str, str], list[TextLoraError]] = {}
    for fault in faults:
        words = re.sub(r"\d+", "#", fault.message.rpartition(": ")[2]).split()
        groups.setdefault((fault.fix, " ".join(words[:2])), []).append(fault)
    return list(groups.values())


def _of_faults(split: str, faults: Sequence[TextLoraError]) -> Finding:
    more = f" (and {len(faults) - 1:,} more like it in {split})" if len(faults) > 1 else ""
    examples = tuple(fault.message for fault in faults[1 : 1 + EXAMPLES])
    return Finding("row", len(faults), f"{faults[0].message}{more}", faults[0].fix, examples, stops=True)


# ------------------------------------------------------------------------------------------------------------ findings


def _of_texts(coded: dict[str, Split]) -> list[Finding]:
    """Oddities of all texts, each with its split's own labels."""
    names = [split.label_names[i] for split in coded.values() for i in split.labels.tolist()]
    return of_texts([text for split in coded.values() for text in split.texts], names)


def _of_splits(coded: dict[str, Split], judged: Judged | None) -> list[Finding]:
    """Repeats, conflicts and leaks, within splits and between them."""
    if judged is None:
        return []
    train, counts = coded[TRAIN], judged.counts
    repeated = splits.repeats(train.texts, train.labels)
    kept = {*judged.train.row_ids, *(judged.validation.row_ids if VALIDATION not in coded else ())}
    leaked = [
        text
        for text, row, again in zip(train.texts, train.row_ids, repeated, strict=True)
        if row not in kept and not again
    ]
    found = [
        Finding("repeats", counts["exact_repeats"], "training rows repeat an earlier text and label", "dropped"),
        _of_conflicts(train),
        Finding("leaks", len(leaked), "training rows repeat validation or test texts", "dropped", _shown(leaked)),
        *(_of_given(split) for name, split in coded.items() if name != TRAIN),
    ]
    if len(coded) == 3:
        found.append(_between(coded[VALIDATION], coded[TEST]))
    return [_counted(finding) for finding in found if finding.count]


def _of_conflicts(train: Split) -> Finding:
    conflicts = splits.conflicts(train.texts, train.labels)
    examples = tuple(
        f"{short(text)} -> {', '.join(train.label_names[i] for i in sorted(found))}"
        for text, found in list(conflicts.items())[:EXAMPLES]
    )
    return Finding("conflicts", len(conflicts), "training texts occur with more than one label", "kept", examples)


def _of_given(split: Split) -> Finding:
    again = splits.repeats(split.texts, split.labels)
    message, action = f"{split.name} rows repeat an earlier text and label", "kept: a given file is never changed"
    return Finding(f"{split.name}_repeats", int(again.sum()), message, action)


def _between(validation: Split, test: Split) -> Finding:
    held = [duplicates.normalise(text) for text in test.texts]
    exact, near = splits.leaks([duplicates.normalise(text) for text in validation.texts], held)
    found = [text for text, leak in zip(validation.texts, exact | near, strict=True) if leak]
    action = "kept: the choice by validation favours them a little"
    return Finding("validation_test", len(found), "validation rows repeat test texts", action, _shown(found))


def _of_classes(coded: dict[str, Split]) -> list[Finding]:
    few = [row for row in _classes(coded) if 0 < row.get(TRAIN, FEW) < FEW]
    none = [row for row in _classes(coded) if row.get(TRAIN) == 0]
    listed = ", ".join(f"{row['label']} {row[TRAIN]}" for row in few[:8]) + (", ..." if len(few) > 8 else "")
    found = [
        Finding("few", len(few), f"labels have fewer than {FEW} training rows ({listed})", "weighted, hardly learnt")
    ]
    names = ", ".join(row["label"] for row in none[:8])
    found.append(Finding("no_rows", len(none), f"labels have no training row ({names})", "will hardly be predicted"))
    return [_counted(finding) for finding in found if finding.count]


def _counted(finding: Finding) -> Finding:
    """`finding` with its count in front of its words."""
    return Finding(
        finding.kind, finding.count, f"{finding.count:,} {finding.message}", finding.action, finding.examples
    )


def _shown(texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(map(short, texts[:EXAMPLES]))


# ------------------------------------------------------------------------------------------------------------- figures


def _file(split: str, file: Path, raw: Raw) -> dict[str, Any]:
    """A file, how it is written, and its usable rows."""
    rows = sum(row_id.rpartition(":")[0].endswith(file.name) for row_id in raw.row_ids)
    return {"split": split, "file": str(file), "kind": _kind(file), "rows": rows}


def _kind(file: Path) -> str:
    kind = readers.ending(file)
    words = [kind.removeprefix(".")]
    if kind in (".csv", ".tsv"):
        words.append(delimited.layout(file).words)
    if kind in readers.TEXT_KINDS:
        words.append(lines.encoding(file).codec.removesuffix("-sig").upper())
    return ", ".join(filter(None, [*words, lines.compression(file)]))


def _classes(coded: dict[str, Split]) -> list[dict[str, Any]]:
    """Rows of each label by split, most frequent in train first."""
    if not coded:
        return []
    names = next(iter(coded.values())).label_names
    counts = {name: np.bincount(split.labels, minlength=len(names)) for name, split in coded.items()}
    rows = [{"label": label} | {name: int(counts[name][i]) for name in counts} for i, label in enumerate(names)]
    return sorted(rows, key=lambda row: -row.get(TRAIN, 0))


def _imbalance(coded: dict[str, Split]) -> float | None:
    present = [row[TRAIN] for row in _classes(coded) if row.get(TRAIN)]
    return round(max(present) / min(present), 2) if present else None


def _lengths(texts: Sequence[str], tokens: np.ndarray | None) -> dict[str, dict[str, float]]:
    counts = {"characters": [len(text) for text in texts], "words": [len(text.split()) for text in texts]}
    if tokens is not None:
        counts["tokens"] = tokens.tolist()
    return {
        unit: {name: float(np.quantile(values, share, method="higher")) for name, share in QUANTILES.items()}
        for unit, values in counts.items()
    }
