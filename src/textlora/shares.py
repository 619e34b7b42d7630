"""Labels whose true shares are known, though the given labels lean: logits are moved until predictions have them.

People who label lean to some labels, a classifier learns to lean with them, and nothing in their labels tells. How
often each label truly occurs is often known all the same: a balanced collection, a census, a hundred rows looked at
with care. One offset for each label then gives the predictions those shares on average (the bias of a multinomial
regression refitted to known margins, King & Zeng 2001, doi 10.1093/oxfordjournals.pan.a004868, section 4.1; alignment
of predictions in Berthelot et al. 2020, arXiv 1911.09785). What was gained on crowd labels: docs/log.md.

N texts, C labels.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax

from textlora.errors import DataError, UsageError, closest

Floats = NDArray[np.float64]
EQUAL = "equal"
FEWEST = 100  # texts below which no offsets are fitted: of 100 even, a share has a standard error of 4 points
LARGEST = 10.0  # offset: where a label is never likely, no other bound holds it
SUM = 0.01  # by which told shares may miss 1, being rounded


def parse(told: str) -> dict[str, float] | None:
    """Shares by label as they were told, None for `equal`. Raises UsageError."""
    if told == EQUAL:
        return None
    try:
        found = json.loads(told)
    except json.JSONDecodeError:
        found = None
    if not isinstance(found, dict) or not found or not all(_positive(share) for share in found.values()):
        raise UsageError(
            f"label_shares is equal or a share above 0 for each label, got {told!r}",
            """write equal, or {"World": 0.4, "Sports": 0.6}""",
        )
    if abs(sum(found.values()) - 1) > SUM:
        raise UsageError(f"label_shares sum up to {sum(found.values()):g}", "give shares that sum up to 1")
    return found


def known(told: str, labels: Sequence[str]) -> Floats:
    """The shares (C,) of `labels` that were told. Raises UsageError for a label that is missing or unknown."""
    found = parse(told)
    if found is None:
        return np.full(len(labels), 1 / len(labels))
    for name in found:
        if name not in labels:
            raise UsageError(f"label_shares names {name!r}, which is no label", closest(name, labels))
    missing = [name for name in labels if name not in found]
    if missing:
        raise UsageError(f"label_shares has no share for {', '.join(missing)}", "give one for each label")
    shares = np.array([found[name] for name in labels], np.float64)
    return shares / shares.sum()


def check_enough(texts: int) -> None:
    """Raises DataError where `texts` are too few to fit offsets on."""
    if texts < FEWEST:
        raise DataError(
            f"label shares are fitted on {FEWEST} texts or more, these are {texts}",
            "give more validation rows, or leave out --label-shares",
        )


def offsets(logits_NC: ArrayLike, shares_C: Floats) -> Floats:
    """What to add to the logits so that their probabilities have these shares on average: (C,), summing up to 0.

    The least of a convex function, whose gradient is the mean probabilities less the shares. Raises DataError below
    FEWEST texts.
    """
    logits = np.asarray(logits_NC, np.float64)
    check_enough(len(logits))

    def cost(moved_C: Floats) -> tuple[float, Floats]:
        moved = logits + moved_C
        means: Floats = np.mean(softmax(moved, axis=1), axis=0)
        return float(np.mean(logsumexp(moved, axis=1)) - shares_C @ moved_C), means - shares_C

    bounds = [(-LARGEST, LARGEST)] * len(shares_C)
    found = minimize(cost, np.zeros(len(shares_C)), jac=True, bounds=bounds, options={"ftol": 1e-14, "gtol": 1e-9})
    return found.x - found.x.mean()


def _positive(share: object) -> bool:
    return isinstance(share, int | float) and not isinstance(share, bool) and 0 < share < float("inf")
