"""Validation in two halves for a search: on one its trials are compared, on the other its gain is told."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from textlora.data import Data, Split
from textlora.errors import DataError

FEWEST = 10  # rows of a half; and so few already tell next to nothing


@dataclass(frozen=True)
class Halves:
    """A search's rows: `data` has the trials' half as its validation rows and no test rows; `other` is the rest."""

    data: Data
    other: Split


def halved(data: Data, seed: int) -> Halves:
    """Validation's rows in two halves, each label's too, by `seed` alone; of an odd number the trials get one more.

    Raises DataError for fewer than 20 rows, and where a label of the training rows has none for the trials.
    """
    rows, labels = data.validation, data.validation.labels
    rng = np.random.default_rng(seed)
    ours = np.zeros(len(rows), dtype=bool)
    for label in np.unique(labels):
        places = rng.permutation(np.flatnonzero(labels == label))
        ours[places[: -(-len(places) // 2)]] = True
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
