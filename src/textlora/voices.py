"""How much each of several voices may say: a logarithmic opinion pool, its shares found on held-out rows.

N texts, C labels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax

Floats = NDArray[np.floating]

LARGEST = 10.0  # share that one may get: a bound for the search, never reached in what was tried


def shares(
    voices_NC: Sequence[Floats], labels: NDArray[np.integer], class_weight: dict[int, float] | None = None
) -> tuple[float, ...]:
    """The share of each voice for which their sum, as logits, is most likely to give the labels of held-out rows.

    Rows count as `class_weight` says, as they did in training: else the many would vote the few down once more. Starts
    from, and by few rows stays near, the first voice alone: a Gaussian of deviation 1 on each share. The first one's is
    also a temperature.
    """
    alone = np.eye(len(voices_NC))[0]
    exact = [voice.astype(np.float64) for voice in voices_NC]

    def cost(parts: Floats) -> float:
        return float(((parts - alone) ** 2).sum() / 2) + surprise(pooled(exact, parts), labels, class_weight)

    bounds = [(1 / LARGEST, LARGEST), *[(0, LARGEST)] * (len(exact) - 1)]
    return tuple(minimize(cost, alone, method="L-BFGS-B", bounds=bounds).x.tolist())


def pooled(voices_NC: Sequence[Floats], parts: Sequence[float] | Floats) -> Floats:
    """The sum of the voices' logits, each times its share."""
    return sum((share * voice for share, voice in zip(parts, voices_NC, strict=True)), np.zeros(()))


def surprise(logits_NC: Floats, labels: NDArray[np.integer], class_weight: dict[int, float] | None = None) -> float:
    """Cross entropy of all rows together, in nats, each counting as `class_weight` says."""
    likely = log_softmax(logits_NC, axis=1)[np.arange(len(labels)), labels]
    counts = np.ones(len(labels)) if class_weight is None else np.array([class_weight[c] for c in labels.tolist()])
    return -float(counts @ likely)
