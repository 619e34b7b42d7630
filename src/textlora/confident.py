"""Given labels and out-of-fold probabilities to the labels that look wrong: confident learning.

Northcutt, Jiang & Chuang 2021 (arXiv 1911.00068): a row is confidently of label j where its probability of j is at
least the mean probability of j among the rows labelled j. Counted by given and confident label, rows off the diagonal
are sure suspects; the counts, scaled to how often each label is given, estimate how many labels are wrong. The same
numbers as cleanlab's (`filter_by="confident_learning"`, ranked by self-confidence). N rows, C labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ROUNDING = 1e-6  # cleanlab's: a probability this little below the threshold reaches it
LOWEST = 2e-6  # cleanlab's: no threshold is lower
Floats = NDArray[np.floating]
Ids = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Found:
    """`rows` have another label as their most probable, the least probable given label first; `likely` is that label.

    `sure` are those that are confidently of another label: confident learning's suspects.
    """

    rows: Ids  # (S,)
    likely: Ids  # (S,); of sure rows the confident label
    sure: NDArray[np.bool_]  # (S,)
    joint: Ids  # (C, C): rows by given and confident label, each label at least once with itself
    estimate: NDArray[np.float64]  # (C, C): rows of the whole data by given and true label; given labels' sums kept


def find(labels: Ids, probabilities_NC: Floats) -> Found:
    """The suspects among `labels` (N,), by probabilities from models that haven't seen the row."""
    own_N = probabilities_NC[np.arange(len(labels)), labels]
    confident_N = _confident(labels, probabilities_NC)
    joint = _counted(labels, confident_N, probabilities_NC.shape[1])
    there = np.bincount(labels, minlength=len(joint)) > 0
    best_N = np.where(there, probabilities_NC, -1.0).argmax(1)
    rows = np.flatnonzero(best_N != labels)
    rows = rows[np.argsort(own_N[rows], kind="stable")]
    sure = (confident_N[rows] >= 0) & (confident_N[rows] != labels[rows])
    return Found(rows, np.where(sure, confident_N[rows], best_N[rows]), sure, joint, _calibrated(joint, labels))


def _confident(labels: Ids, probabilities_NC: Floats) -> Ids:
    """The most probable of the labels whose threshold a row reaches, -1 where it reaches none: (N,)."""
    num_labels = probabilities_NC.shape[1]
    sums = np.array([probabilities_NC[labels == c, c].sum() for c in range(num_labels)])
    counts = np.bincount(labels, minlength=num_labels)
    thresholds = np.where(counts > 0, np.maximum(sums / np.maximum(counts, 1), LOWEST), 2.0)  # 2: never reached
    reached = np.where(probabilities_NC >= thresholds - ROUNDING, probabilities_NC, -1.0)
    return np.where(reached.max(1) >= 0, reached.argmax(1), -1)


def _counted(labels: Ids, confident_N: Ids, num_labels: int) -> Ids:
    joint = np.zeros((num_labels, num_labels), np.int64)
    sure = confident_N >= 0
    np.add.at(joint, (labels[sure], confident_N[sure]), 1)
    np.fill_diagonal(joint, np.maximum(joint.diagonal(), 1))
    return joint


def _calibrated(joint: Ids, labels: Ids) -> NDArray[np.float64]:
    """The counts of each given label scaled to all rows that have it; confident rows are taken for a fair sample."""
    return joint / joint.sum(1, keepdims=True) * np.bincount(labels, minlength=len(joint))[:, None]
