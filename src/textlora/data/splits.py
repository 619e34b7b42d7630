"""Honest splits: repeats and leaks leave the training rows, validation is carved in clusters.

House rule (docs/decisions/0005-splits-and-leaks.md): a given validation or test file is never changed; train gives way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from textlora.data import duplicates, readers
from textlora.errors import DataError


@dataclass(frozen=True, eq=False)
class Split:
    """Rows of one split, in file order. `texts` are raw: cleaning is the reader's (clean.py)."""

    name: str
    texts: list[str]
    labels: np.ndarray  # (N,) int64, 0..C-1
    row_ids: list[str]  # "<file name>:<data row from 1>"
    label_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()  # what was recognised in its files, for people

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) over label name and text of each row, in order; row ids don't enter."""
        digest = hashlib.sha256()
        for text, label in zip(self.texts, self.labels.tolist(), strict=True):
            name = self.label_names[label] if self.label_names else str(label)
            for part in (name.encode(), text.encode()):
                digest.update(len(part).to_bytes(8, "big") + part)  # the length keeps ("ab", "c") from ("a", "bc")
        return digest.hexdigest()

    def only(self, keep: np.ndarray, name: str = "") -> Split:
        """The rows where `keep` (N,) bool is true."""
        places = np.flatnonzero(keep).tolist()
        return replace(
            self,
            name=name or self.name,
            texts=[self.texts[i] for i in places],
            labels=self.labels[keep],
            row_ids=[self.row_ids[i] for i in places],
        )


@dataclass(frozen=True, eq=False)
class Judged:
    """Training and validation rows after the checks, and what was done, in numbers."""

    train: Split
    validation: Split
    counts: dict[str, int]

    def notes(self) -> tuple[str, ...]:
        """What was done, in lines for people; nothing to say, no line."""
        repeats, conflicting = self.counts["exact_repeats"], self.counts["conflicting_labels"]
        exact, near, carved = (self.counts[key] for key in ("leaks_exact", "leaks_near", "carved_validation"))
        lines = (
            (repeats, f"dropped {repeats:,} training rows that repeat an earlier row's text and label"),
            (
                exact + near,
                f"dropped {exact + near:,} training rows that repeat validation or test texts"
                f" ({exact:,} equal, {near:,} nearly)",
            ),
            (conflicting, f"{conflicting:,} training texts occur with more than one label; kept"),
            (carved, f"kept {carved:,} training rows for validation"),
        )
        return (*(line for count, line in lines if count), *self._label_notes())

    def _label_notes(self) -> list[str]:
        trained, names = set(self.train.labels.tolist()), self.train.label_names
        lines = [
            f"no training row has the label {name}: it will hardly be predicted"
            for i, name in enumerate(names)
            if i not in trained
        ]
        if self.counts["carved_validation"]:
            kept = sorted(trained - set(self.validation.labels.tolist()))
            lines += [f"label {names[i]} has too few different rows for validation: all stay in train" for i in kept]
        return lines


def judge(train: Split, validation: Split | None, test: Split | None, fraction: float, seed: int) -> Judged:
    """Decision 8 on splits as given: drop repeats and leaks from `train`, carve validation from it where there is none.

    Raises DataError where what is left can't be learnt from or judged on.
    """
    given = [split for split in (validation, test) if split is not None]
    conflicting = len(conflicts(train.texts, train.labels))
    repeated = repeats(train.texts, train.labels)
    unique = train.only(~repeated)
    plain = np.array([duplicates.normalise(text) for text in unique.texts], dtype=object)
    exact, near = leaks(plain, [duplicates.normalise(text) for split in given for text in split.texts])
    kept = unique.only(~(exact | near))
    _check_labels(kept, given)
    carved = np.zeros(len(kept), dtype=bool)
    if validation is None:
        carved = carve(plain[~(exact | near)], kept.labels, fraction, seed)
        validation = kept.only(carved, "validation")
        _check_carved(validation, kept)
    counts = {
        "train_rows": len(train),
        "exact_repeats": int(repeated.sum()),
        "leaks_exact": int(exact.sum()),
        "leaks_near": int(near.sum()),
        "conflicting_labels": conflicting,
        "carved_validation": int(carved.sum()),
    }
    return Judged(kept.only(~carved), validation, counts)


def repeats(texts: Sequence[str], labels: np.ndarray) -> np.ndarray:
    """(N,) bool: whether a row has the text and the label of an earlier one, to the letter."""
    seen: set[tuple[str, int]] = set()
    found = np.zeros(len(texts), dtype=bool)
    for i, row in enumerate(zip(texts, labels.tolist(), strict=True)):
        found[i] = row in seen
        seen.add(row)
    return found


def conflicts(texts: Sequence[str], labels: np.ndarray) -> dict[str, set[int]]:
    """The texts that occur with more than one label, with these."""
    labels_of: dict[str, set[int]] = {}
    for text, label in zip(texts, labels.tolist(), strict=True):
        labels_of.setdefault(text, set()).add(label)
    return {text: found for text, found in labels_of.items() if len(found) > 1}


def leaks(texts: Sequence[str] | np.ndarray, held: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Which of `texts` equal one of `held`, and which are only near one: two (N,) bool. All normalised."""
    held_set = set(held)
    exact = np.fromiter((text in held_set for text in texts), dtype=bool, count=len(texts))
    near = duplicates.near(list(texts), held) & ~exact
    return exact, near


def carve(texts: Sequence[str] | np.ndarray, labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """(N,) bool: rows that become validation; `texts` normalised.

    About `fraction` of each label's rows, at least one and never the last; near duplicates stay on one side. Whole
    clusters are taken in random order while they fit, so a label whose rows are one cluster gives none.
    """
    cluster = duplicates.clusters(list(texts))
    order = np.argsort(cluster, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(cluster[order])) + 1)

    per_label = np.bincount(labels)
    usual = np.maximum(np.rint(fraction * per_label).astype(np.int64), 1)
    wanted = np.maximum(np.minimum(usual, per_label - 1), 0)  # 0 of a label that has no row
    taken = np.zeros_like(per_label)
    chosen = np.zeros(len(texts), dtype=bool)
    for place in np.random.Generator(np.random.PCG64(seed)).permutation(len(members)):
        rows = members[place]
        after = taken + np.bincount(labels[rows], minlength=len(taken))
        if np.all(after <= wanted):
            taken = after
            chosen[rows] = True
    return chosen


def _check_labels(train: Split, given: Sequence[Split]) -> None:
    """At least two labels in train, and none elsewhere that train hasn't."""
    if len(train) == 0:
        raise DataError("every training row repeats a validation or test text", "train on other rows than those judged")
    present = np.unique(train.labels)
    if len(present) < 2:
        raise DataError(
            f"the training rows have one label only, {train.label_names[present[0]]!r}; expected two or more",
            "give rows of every label, or name another column with --label-column",
        )
    for split in given:
        for at in np.flatnonzero(~np.isin(split.labels, present))[:1]:
            raise DataError(
                f"{readers.place(split.row_ids[at])}: label {split.label_names[split.labels[at]]!r}"
                f" is in {split.name} but in no"
                " training row (rows that repeat one of validation or test don't count)",
                "give training rows of it, or remove it there",
            )


def _check_carved(validation: Split, train: Split) -> None:
    if len(validation) == 0:
        raise DataError(
            f"{len(train)} training rows leave none for validation: no label has two that differ enough",
            "give at least 2 different rows of each label, or a validation file",
        )
