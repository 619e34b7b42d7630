"""A second opinion for the head: a linear classifier on the bag of tokens, fitted in seconds, blended in (voices.py).

The encoder's mistakes and those of a bag of tokens are different ones, so their product makes fewer than either. The
bag is fitted apart, by logistic regression: trained together with the encoder by gradient, it would explain the
training rows first and leave the encoder nothing to learn from them (a reason, not a measurement).

N texts, V tokens of the vocabulary, C labels.
"""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, diags
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.linear_model import LogisticRegression

Floats = NDArray[np.floating]

# Inverse strength of the regularisation. Blended, 3 to 30 lie within 0.25 points and 0.001 in loss of each other on
# AG's carved validation, less than its rows can tell apart (by hand, 2026-11-22).
STRENGTH = 10.0
FEW = 5_000  # texts below which rarity counts: by itself 9 points at 250, 1 at 4,000, none at 8,000 (docs/log.md)


def features(ids: NDArray[np.integer], offsets: NDArray[np.integer], vocab_size: int) -> csr_matrix:
    """(N, V): how often each token occurs, over the square root of the text's length.

    Text i is ids[offsets[i] : offsets[i + 1]], special tokens included: they stand in for an intercept.
    """
    shape = (len(offsets) - 1, vocab_size)
    counts = csr_matrix((np.ones(len(ids)), ids, offsets), shape=shape, copy=True)  # the next line sorts in place
    counts.sum_duplicates()
    return csr_matrix(diags(1 / np.sqrt(np.maximum(np.diff(offsets), 1))) @ counts)


def fit_tokens(
    rows_NV: csr_matrix,
    labels: NDArray[np.integer],
    num_labels: int,
    class_weight: dict[int, float] | None = None,
    row_weight: Floats | None = None,
) -> Floats:
    """The bag's weights (V, C) float32; of few rows, tokens are learned from as `rarity` says."""
    texts, vocab_size = rows_NV.get_shape()
    scale_V = rarity(rows_NV) if texts < FEW else np.ones(vocab_size)
    fitted = fit(csr_matrix(rows_NV @ diags(scale_V)), labels, num_labels, class_weight, row_weight)
    return (scale_V[:, None] * fitted).astype(np.float32)


def rarity(rows_NV: csr_matrix) -> Floats:
    """How much a token counts for, (V,): the log of its inverse share of the texts plus 1, as scikit-learn smooths it;
    1 on average. On few rows a common token's weight is chance.
    """
    found_V = TfidfTransformer().fit(rows_NV).idf_
    return found_V / found_V.mean()


def fit(
    rows_NV: csr_matrix | Floats,
    labels: NDArray[np.integer],
    num_labels: int,
    class_weight: dict[int, float] | None = None,
    row_weight: Floats | None = None,
    strength: float = STRENGTH,
) -> Floats:
    """Logistic regression's weights (V, C) float32, so that `rows @ weights` are logits; zeros for what never occurs.

    No intercept: how frequent the labels are is the head's to know.
    """
    model = LogisticRegression(C=strength, fit_intercept=False, class_weight=class_weight, tol=1e-3, max_iter=300)
    with warnings.catch_warnings():  # a hair short of converged is as good
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(rows_NV, labels, row_weight)
    found = np.asarray(model.coef_)
    if len(found) == 1:  # one row, for the second label
        found = np.concatenate([-found, found]) / 2
    weights = np.zeros((found.shape[1], num_labels), np.float32)
    weights[:, model.classes_] = found.T
    return weights
