"""What is fitted to validation when training is over and put into the head, so that every reader of it has it.

One temperature for the logits (docs/decisions/0012), and where labels' true shares are told, an offset for each label
(docs/decisions/0013).

N rows, C labels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from peft import PeftModel
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from textlora import model, predict, shares
from textlora.fitting import CHOOSING
from textlora.tokens import Tokens

LARGEST = 10.0  # temperature, or one over it: a bound for the search, never reached in what was tried


def calibrate(trained: PeftModel, validation: Tokens, labels: NDArray[np.integer], pad_id: int) -> tuple[float, str]:
    """Fit a temperature on the validation rows and put it into the head of `trained`; it, and a line that says so."""
    logits = predict.logits(trained, validation, pad_id)
    found = temperature(logits, labels)
    model.scale_head(trained, 1 / found)
    before, after = loss(logits, labels), loss(logits / found, labels)
    return found, f"temperature {found:.3f}, in the head now: loss {before:.4f} -> {after:.4f} on validation"


def align(
    trained: PeftModel,
    validation: Tokens,
    labels: NDArray[np.integer],
    pad_id: int,
    shares_C: NDArray[np.float64],
) -> tuple[NDArray[np.float64], str]:
    """Move the head's bias until the probabilities of the validation texts have these shares on average.

    Returns what was added to it (C,) and a line that says what came of it. Raises DataError for too few texts.
    """
    logits = predict.logits(trained, validation, pad_id).astype(np.float64)
    moved_C = shares.offsets(logits, shares_C)
    model.shift_head(trained, moved_C)
    before, after = (softmax(each, axis=1).mean(0) for each in (logits, logits + moved_C))
    changes = float((logits.argmax(1) != (logits + moved_C).argmax(1)).mean())
    agree = (float((each.argmax(1) == labels).mean()) for each in (logits, logits + moved_C))
    moves = ", ".join(f"{old:.2f} -> {new:.2f}" for old, new in zip(before, after, strict=True))
    line = (
        f"label shares: {moves}, in the head's bias now; {100 * changes:.1f} % of the validation rows change label, "
        "right by the given labels, which lean: {:.4f} -> {:.4f}".format(*agree)
    )
    return moved_C, line


def enough(rows: int) -> bool:
    """Whether so many validation rows may choose a temperature: as many as may choose anything else (fitting.CHOOSING).

    From 200 rows at an accuracy of 0.9 it comes out within 15 % of the right one two times in three and costs 0.0025 in
    loss against the right one (tests/test_calibrate.py): less than being too sure usually does, not much less.
    """
    return rows >= CHOOSING


def temperature(logits_NC: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    """The T for which softmax(logits / T) is most likely to give the labels (Guo et al. 2017, arXiv 1706.04599).

    A Gaussian of deviation 1 holds 1 / T near 1, as it does the shares of a bag of tokens: rows that are all right
    would take T to 0. The loss is convex in 1 / T, so there is one least.
    """

    def cost(share: float) -> float:
        return (share - 1) ** 2 / 2 + len(labels) * loss(share * logits_NC.astype(np.float64), labels)

    found = minimize_scalar(cost, bounds=(1 / LARGEST, LARGEST), method="bounded", options={"xatol": 1e-6})
    return 1 / float(found.x)


def loss(logits_NC: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    """Mean cross entropy, in nats."""
    return float(-log_softmax(logits_NC, axis=1)[np.arange(len(labels)), labels].mean())
