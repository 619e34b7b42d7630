"""Texts from elsewhere: other shares of labels than in training, found from unlabelled texts and allowed for.

If only how often each label occurs has changed (label shift: what a label's texts look like has not), the new shares
can be found by maximum likelihood from the classifier's own probabilities, by EM (Saerens, Latinne & Decaestecker
2002, doi 10.1162/089976602753284446). On calibrated probabilities that was at least as good as inverting the
confusion matrix (Alexandari, Kundaje & Shrikumar 2020, arXiv 1901.06852), here about as good (docs/log.md). Whether
the shares differ at all is a likelihood-ratio test: if they may not, nothing is changed.

N texts, C labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import chi2

from textlora.errors import DataError, UsageError

Floats = NDArray[np.float64]
SURE = 0.01  # chance of a false alarm that is accepted, where the labels' shares are as in training
FEWEST = 100  # texts below which shares aren't estimated: of 100 even, a share has a standard error of 4 points
ROUNDS = 1_000  # of EM at most; what was tried was still to 1e-9 in fewer than 100
STILL = 1e-9
SHOWN = 6  # labels that a line for people names


@dataclass(frozen=True)
class Shift:
    """What the unlabelled texts say about the labels' shares."""

    texts: int
    trained: list[float]  # (C,) shares in training
    found: list[float]  # (C,) most likely shares among these texts
    p_value: float  # how often so large a difference would be seen if there were none
    applied: bool
    reason: str  # why, or why not

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def line(self, labels: Sequence[str]) -> str:
        """For people: what was found, the most changed labels first."""
        order = sorted(range(len(labels)), key=lambda c: -abs(self.found[c] - self.trained[c]))
        moves = (f"{labels[c]} {self.trained[c]:.2f} -> {self.found[c]:.2f}" for c in order[:SHOWN])
        more = f" and {len(labels) - SHOWN} more" if len(labels) > SHOWN else ""
        done = "allowed for" if self.applied else "nothing changed"
        return (
            f"label shift: {done}, {self.reason} (p {self.p_value:.2g}, {self.texts:,} texts): {', '.join(moves)}{more}"
        )


def correct(probabilities_NC: ArrayLike, trained_C: ArrayLike) -> tuple[Floats, Shift]:
    """The probabilities under the shares that these texts seem to have, or as they were if that isn't sure.

    `trained_C` are the labels' shares (or counts) among the training rows. Raises DataError where shapes don't fit,
    UsageError for shares that aren't positive.
    """
    p, trained = _checked(probabilities_NC, trained_C)
    if len(p) < FEWEST:
        return p, Shift(len(p), trained.tolist(), trained.tolist(), 1.0, False, f"{FEWEST} texts or more are needed")
    found = most_likely_shares(p, trained)
    p_value = _p_value(p, found / trained)
    if p_value >= SURE:
        return p, Shift(len(p), trained.tolist(), found.tolist(), p_value, False, "the shares may be as in training")
    shift = Shift(len(p), trained.tolist(), found.tolist(), p_value, True, "the shares differ from training's")
    return reweighted(p, found / trained), shift


def most_likely_shares(probabilities_NC: Floats, trained_C: Floats) -> Floats:
    """The shares (C,) under which these texts are most likely, by EM: there is one top, the likelihood is concave."""
    shares = trained_C.copy()
    for _ in range(ROUNDS):
        before, shares = shares, reweighted(probabilities_NC, shares / trained_C).mean(0)
        if np.abs(shares - before).max() < STILL:
            break
    return shares


def reweighted(probabilities_NC: Floats, weights_C: Floats) -> Floats:
    """Bayes' rule under other shares: each label's probability times new share over old, rows summing to 1 again."""
    weighted = probabilities_NC * weights_C
    return weighted / weighted.sum(1, keepdims=True)


def _p_value(probabilities_NC: Floats, weights_C: Floats) -> float:
    """Of the likelihood-ratio test that the shares are training's (Wilks: chi squared with C - 1 degrees)."""
    gained = 2 * float(np.log(np.maximum(probabilities_NC @ weights_C, np.finfo(np.float64).tiny)).sum())
    return float(chi2.sf(max(gained, 0.0), len(weights_C) - 1))


def _checked(probabilities_NC: ArrayLike, trained_C: ArrayLike) -> tuple[Floats, Floats]:
    p, trained = np.asarray(probabilities_NC, np.float64), np.asarray(trained_C, np.float64)
    if p.ndim != 2 or trained.shape != (p.shape[1],):
        raise DataError(
            f"expected probabilities (N, C) and shares (C,), got {p.shape} and {trained.shape}",
            "give a share for each label",
        )
    if not (np.isfinite(trained).all() and (trained > 0).all()):
        raise UsageError(
            f"expected shares above 0, got {trained.tolist()}", "give how often each label was in training"
        )
    return p, trained / trained.sum()
