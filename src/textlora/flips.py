"""Labels that the fast way of predicting gives otherwise than the reference does, found without predicting all twice.

Rounding moves each logit a little. A label flips only where its logit leads the next by less than they move, so rows
are compared from the smallest lead upwards, until leads are far larger than any move that was seen.

N rows, C labels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

STEP = 128  # rows compared at a time
FAR = 2.0  # times the largest move seen so far: a lead beyond that isn't looked at

Logits = NDArray[np.floating]


@dataclass(frozen=True)
class Flips:
    """What the comparison found."""

    rows: int  # of the split
    checked: int  # of them compared, those of the smallest leads
    n: int  # labels that differ
    share: float  # of all rows
    margins: list[float]  # of each flip: the reference's largest probability less the fast way's label's; ascending
    moved: float  # the most that a label's lead over another changed, in logits

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def find(fast_NC: Logits, reference: Callable[[NDArray[np.intp]], Logits]) -> Flips:
    """Compare the logits with those that `reference` gives for row numbers, as many as it takes."""
    leads_NC = fast_NC.max(1, keepdims=True) - fast_NC
    lead_N = np.sort(leads_NC, axis=1)[:, 1]
    order, checked, moved = np.argsort(lead_N, kind="stable"), 0, 0.0
    margins: list[float] = []
    while checked < len(order) and (not checked or lead_N[order[checked]] <= FAR * moved):
        rows = order[checked : checked + STEP]
        exact = np.asarray(reference(rows), np.float64)
        taken = fast_NC[rows].argmax(1)[:, None]
        moved = max(moved, float(np.abs(np.take_along_axis(exact, taken, 1) - exact - leads_NC[rows]).max()))
        p = softmax(exact, axis=1)
        less = p.max(1) - np.take_along_axis(p, taken, 1)[:, 0]
        margins += less[exact.argmax(1) != taken[:, 0]].tolist()
        checked += len(rows)
    return Flips(len(order), checked, len(margins), len(margins) / max(1, len(order)), sorted(margins), moved)
