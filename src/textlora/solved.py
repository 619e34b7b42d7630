"""A head that is solved for, and what a bag of tokens may say beside it: logistic regression on few rows.

N training texts, V tokens of the vocabulary, D hidden, C labels.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.model_selection import StratifiedKFold

from textlora import bag, voices

Floats = NDArray[np.floating]

# Inverse strength of the head's regularisation, on vectors of mean length 1: of 0.5 to 30 the most accurate on four
# draws of 8 rows a label. It leaves the probabilities of so few rows far too even: logits 4, 3 and 2 times as large
# were the most likely at 28, 56 and 232 rows, which `_sharper` follows (docs/log.md).
STRENGTH = 1.0
ABSENT = -10.0  # the logit of a label that no training row has
FOLDS = 4  # of no more rows than a label has


def head(
    pooled_ND: Floats, labels_N: np.ndarray, num_labels: int, class_weight: dict[int, float] | None = None
) -> tuple[Floats, Floats]:
    """The weights (D, C) and biases (C,) of a linear head on pooled vectors."""
    length = float(np.linalg.norm(pooled_ND, axis=1).mean()) or 1.0
    with_one = np.column_stack([pooled_ND / length, np.ones(len(pooled_ND))])
    found = _sharper(len(labels_N)) * bag.fit(with_one, labels_N, num_labels, class_weight, strength=STRENGTH)
    found[-1, np.setdiff1d(np.arange(num_labels), labels_N)] = ABSENT
    return found[:-1] / length, found[-1]


def _sharper(rows: int) -> float:
    return 1 + 16 / rows**0.5


def folds(labels_N: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Places of rows to learn from and of those left out, each row once; none where a label has too few to leave out.

    Shuffled by a seed of its own: what is found by it doesn't hang on the run's.
    """
    if np.unique(labels_N, return_counts=True)[1].min() < FOLDS:
        return iter(())
    return StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(labels_N, labels_N)


def shares(
    pooled_ND: Floats,
    tokens_NV: csr_matrix,
    labels_N: np.ndarray,
    num_labels: int,
    class_weight: dict[int, float] | None = None,
) -> tuple[float, float]:
    """What a head and a bag of tokens should weigh, as a pool of both tells rows that neither has seen.

    `pooled_ND` are the untrained base's: what was trained on all rows would know those left out. Of the head that comes
    after training their word is taken where they find theirs too sure; none makes it surer than `_sharper`, which was
    fitted to trained ones (docs/log.md). 1 and 0 where a label has too few rows to leave some out. A handful of
    validation rows can't tell it.
    """
    head_NC, bag_NC = np.zeros((2, len(labels_N), num_labels))
    for rest, held in folds(labels_N):
        weights, biases = head(pooled_ND[rest], labels_N[rest], num_labels, class_weight)
        head_NC[held] = pooled_ND[held] @ weights + biases
        bag_NC[held] = tokens_NV[held] @ bag.fit_tokens(tokens_NV[rest], labels_N[rest], num_labels, class_weight)
    of_head, of_bag = voices.shares([head_NC, bag_NC], labels_N, class_weight)
    of_all = min(1.0, of_head)
    return of_all, of_all * of_bag / of_head
