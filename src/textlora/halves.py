"""Validation in two halves for a search: on one its trials are compared, on the other its gain is told."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from textlora.data import Data, Split, duplicates
from textlora.errors import DataError

FEWEST = 10  # rows of a half; and so few already tell next to nothing


@dataclass(frozen=True)
class Halves:
    """A search's rows: `data` has the trials' half as its validation rows and no test rows; `other` is the rest."""

    data: Data
    other: Split


def halved(data: Data, seed: int) -> Halves:
    """Validation's rows in two halves, each label's too, by `seed` alone; of an odd number the trials get one more.

    Near duplicates stay on one side, as when validation is carved: what trials are chosen by must not tell the rest.
    Raises DataError for fewer than 20 rows, and where a label of the training rows has none for the trials.
    """
    rows, labels = data.validation, data.validation.labels
    ours = _ours(rows, np.random.default_rng(seed))
    if len(rows) < 2 * FEWEST or ours.all():
        raise DataError(
            f"validation has {len(rows)} rows of {len(np.unique(labels))} labels; a search takes {2 * FEWEST} rows or "
            "more, half of each label's to compare trials and half to tell what they gained",
            "give more rows, or a larger --validation-fraction",
        )
    absent = np.setdiff1d(data.train.labels, labels[ours])
    if len(absent):
        names = ", ".join(data.label_names[label] for label in absent[:5])
        raise DataError(
            f"validation has no row of {names}: a search can't see whether it is learnt",
            "give validation rows of every label, or a larger --validation-fraction",
        )
    return Halves(replace(data, validation=rows.only(ours), test=None), rows.only(~ours))


def _ours(rows: Split, rng: np.random.Generator) -> np.ndarray:
    """(N,) bool: the trials' half. Clusters of near duplicates go, in random order, where their labels have fewer."""
    cluster = duplicates.clusters([duplicates.normalise(text) for text in rows.texts])
    order = np.argsort(cluster, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(cluster[order])) + 1)
    ours, more = np.zeros(len(rows), dtype=bool), np.zeros(int(rows.labels.max(initial=0)) + 1, dtype=np.int64)
    for place in rng.permutation(len(members)):
        labels = rows.labels[members[place]]
        takes = more[labels].sum() <= 0
        ours[members[place]] = takes
        np.add.at(more, labels, 1 if takes else -1)
    return ours
