"""What labels are called, as texts: where rows are few, "This text is about Sports." tells what eight of them can't.

A name is one training row more of its label, as are those that the SetFit library's `get_templated_dataset` makes.
Names may say nothing ("0", "LABEL_2") or something else than the rows ("positive" where there are stars), so they take
part only where they help to tell training rows that were left out, by the frozen base's vectors.

N training texts, D hidden, C labels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from textlora.solved import folds

Floats = NDArray[np.floating]

SENTENCE = "This text is about {}."  # a little ahead of the bare name, with MiniLM on AG News: docs/log.md
SURE = 2.0  # standard errors. Names that say nothing stayed below in 98 of 100 draws, true ones never: docs/log.md
SMALLEST = 1e-12  # a standard error that is divided by


def sentences(labels: Sequence[str]) -> list[str]:
    """One text a label: C of them."""
    return [SENTENCE.format(" ".join(label.split("_"))) for label in labels]


def standard_errors(train_ND: Floats, labels_N: np.ndarray, names_CD: Floats, labels_C: np.ndarray) -> float:
    """How much surer untrained vectors are of rows left out, if names are learned from: the mean gain in its standard
    errors. nan where a label has too few rows to leave some out.
    """
    gains_N = gains(_directions(train_ND), labels_N, _directions(names_CD), labels_C)
    return float(gains_N.mean() / max(gains_N.std(ddof=1) / len(gains_N) ** 0.5, SMALLEST))


def gains(train_ND: Floats, labels_N: np.ndarray, names_CD: Floats, labels_C: np.ndarray) -> Floats:
    """By how much the log-probability of each row's label is higher where names were learned from too: (N,), all nan
    where a label has too few rows to leave some out.

    From logistic regression on the rows of the other folds; vectors come with length 1.
    """
    gains_N = np.full(len(labels_N), np.nan)
    for rest, held in folds(labels_N):
        rows, labels, new = train_ND[rest], labels_N[rest], (train_ND[held], labels_N[held])
        told = np.concatenate([rows, names_CD]), np.concatenate([labels, labels_C])
        gains_N[held] = _log_probabilities(*told, *new) - _log_probabilities(rows, labels, *new)
    return gains_N


def _directions(vectors: Floats) -> Floats:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _log_probabilities(rows: Floats, labels: np.ndarray, held: Floats, held_labels: np.ndarray) -> Floats:
    fitted = LogisticRegression(max_iter=300).fit(rows, labels)
    places = np.searchsorted(fitted.classes_, held_labels)
    return fitted.predict_log_proba(held)[np.arange(len(held)), places]
