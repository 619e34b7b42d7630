"""Labels and probabilities in, numbers with intervals out: the one place where a figure is made.

Every report, plot, table and JSON reads what is computed here. Pure NumPy and SciPy; that the numbers are
scikit-learn's is a test. N rows, C labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from scipy.special import log_softmax
from scipy.stats import binomtest

from textlora.errors import DataError, GateError, UsageError

TOP_CONFUSIONS = 3
ABSTAIN_STEP = 5  # percent of the rows between two points of the risk-coverage curve
CHUNK = 4_000_000  # numbers that a bootstrap holds at a time: 32 MB
ROW_SUM_TOLERANCE = 1e-3  # half precision's softmax is off by up to about 5e-4

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class ProbabilityError(GateError, ValueError):
    """What a model gave is not a probability distribution (not finite, negative, or not summing to 1)."""


@dataclass(frozen=True, slots=True)
class ClassRow:
    """One label's figures. `accuracy` is the share of its rows that were found, i.e. its recall."""

    label: str
    accuracy: float
    correct: int
    total: int
    precision: float
    recall: float
    f1: float
    top_confusions: list[dict[str, Any]]  # {"label", "count"}: where its rows went instead, most first


@dataclass(frozen=True, slots=True)
class Scores:
    """All figures of one split. `precision`, `recall`, `f1` are weighted by the labels' rows."""

    n: int
    accuracy: float
    accuracy_ci: tuple[float, float]  # Wilson, 95 %
    loss: float  # mean cross entropy, nats
    precision: float
    recall: float
    f1: float
    precision_macro: float
    recall_macro: float
    f1_macro: float
    f1_macro_ci: tuple[float, float]  # bootstrap of rows, 95 %
    per_class: tuple[ClassRow, ...]
    confusion_matrix: list[list[int]]  # [true label][predicted label], rows
    ece: float
    reliability: list[dict[str, Any]]  # the bins of `ece`, see `reliability`
    risk_coverage: list[dict[str, Any]]  # see `risk_coverage`

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types under exactly these names."""
        plain = asdict(self)
        return plain | {key: list(plain[key]) for key in ("accuracy_ci", "f1_macro_ci", "per_class")}


# ------------------------------------------------------------------------------------------------------- one split


def score(labels: ArrayLike, probabilities: ArrayLike, label_names: Sequence[str]) -> Scores:
    """Every figure of a split from its labels (N,) int in 0..C-1 and probabilities (N, C).

    The prediction is the label of the highest probability, the first of equals. Raises DataError for labels or shapes
    that don't fit, ProbabilityError (a GateError and ValueError) for rows that are no probability distribution.
    """
    y, p = _checked(labels, probabilities)
    names = _checked_names(label_names, p.shape[1])
    matrix = _confusion(y, p.argmax(1), len(names))
    correct = int(matrix.trace())
    by_class = _by_class(matrix)
    bins = reliability(y, p)

    return Scores(
        n=len(y),
        accuracy=correct / len(y),
        accuracy_ci=wilson(correct, len(y)),
        loss=_cross_entropy(y, np.log(np.maximum(p, np.finfo(np.float64).eps))),
        **_weighted(matrix, by_class),
        **_macro(matrix, by_class),
        f1_macro_ci=f1_macro_interval(matrix),
        per_class=tuple(_class_row(k, names, matrix, by_class) for k in range(len(names))),
        confusion_matrix=matrix.tolist(),
        ece=_calibration_error(bins),
        reliability=bins,
        risk_coverage=risk_coverage(y, p),
    )


def summary_scores(labels: ArrayLike, logits: ArrayLike) -> dict[str, float]:
    """Loss, accuracy, weighted precision, recall and F1, and macro-F1 from labels (N,) and logits (N, C): what
    training follows.

    Raises ProbabilityError when a logit isn't finite, DataError for labels or shapes that don't fit.
    """
    y, z = _checked_shapes(labels, logits, "logits")
    _require_finite(z, "logits")
    matrix = _confusion(y, z.argmax(1), z.shape[1])
    loss, accuracy = _cross_entropy(y, log_softmax(z, axis=1)), float(matrix.trace() / len(y))
    by_class = _by_class(matrix)
    macro = _macro(matrix, by_class)["f1_macro"]
    return {"loss": loss, "accuracy": accuracy, **_weighted(matrix, by_class), "f1_macro": macro}


def expected_calibration_error(labels: ArrayLike, probabilities: ArrayLike, bins: int = 15) -> float:
    """Mean gap between the highest probability and the accuracy, over `bins` bins of equally many rows.

    Equal mass after Nguyen & O'Connor 2015 (aclanthology.org/D15-1182) and Nixon et al. 2019 (arXiv 1904.01685): equal
    widths leave most bins empty for a good classifier. Rows of equal probability share a bin, so the order of rows
    doesn't matter. With few rows it reads too high: bins of k rows differ by about 0.4 / sqrt(k) by chance alone.
    """
    return _calibration_error(reliability(labels, probabilities, bins))


def reliability(labels: ArrayLike, probabilities: ArrayLike, bins: int = 15) -> list[dict[str, Any]]:
    """The bins of the calibration error, least sure first.

    Each is {"n", "confidence", "accuracy" (both means over n rows), "accuracy_ci" (Wilson)}.
    """
    if bins < 1:
        raise UsageError(f"bins must be at least 1, got {bins}", "use the default, 15")
    y, p = _checked(labels, probabilities)
    confidence, right = p.max(1), p.argmax(1) == y
    first_equal = np.searchsorted(np.sort(confidence), confidence, side="left")
    bin_of_row = first_equal * bins // len(y)
    counts = np.bincount(bin_of_row)
    sure, good = (np.bincount(bin_of_row, weights=values) for values in (confidence, right))
    return [
        {
            "n": int(counts[k]),
            "confidence": float(sure[k] / counts[k]),
            "accuracy": float(good[k] / counts[k]),
            "accuracy_ci": list(wilson(round(good[k]), int(counts[k]))),
        }
        for k in np.flatnonzero(counts)
    ]


def risk_coverage(labels: ArrayLike, probabilities: ArrayLike) -> list[dict[str, Any]]:
    """Accuracy on the rest when the least certain 0, 5, ... 95 % of the rows abstain (Geifman & El-Yaniv 2017).

    Each is {"coverage" (share of rows kept), "n" (rows kept), "accuracy", "threshold"}: a row is kept where its highest
    probability is at least the threshold. Of rows as sure as the last one kept, the mean counts: their order says
    nothing.
    """
    y, p = _checked(labels, probabilities)
    confidence, tie = np.unique(-p.max(1), return_inverse=True)  # surest first
    size = np.bincount(tie)
    rows = np.repeat(np.arange(len(size)), size)
    right = (np.bincount(tie, weights=p.argmax(1) == y) / size)[rows].cumsum()
    kept = [len(y) - len(y) * percent // 100 for percent in range(0, 100, ABSTAIN_STEP)]
    return [
        {
            "coverage": n / len(y),
            "n": n,
            "accuracy": float(min(1.0, right[n - 1] / n)),
            "threshold": float(-confidence[rows[n - 1]]),
        }
        for n in kept
    ]


def abstaining(labels: ArrayLike, probabilities: ArrayLike, below: float) -> dict[str, Any]:
    """What is left where rows whose highest probability is under `below` get no label.

    {"below", "coverage", "n" (rows kept), "accuracy", "accuracy_ci" (Wilson)}, the last two None where nothing is left.
    Raises UsageError unless `below` is from 0 to 1.
    """
    check_abstain_below(below)
    y, p = _checked(labels, probabilities)
    kept = p.max(1) >= below
    n, correct = int(kept.sum()), int((p.argmax(1) == y)[kept].sum())
    accuracy = {"accuracy": correct / n, "accuracy_ci": list(wilson(correct, n))} if n else {}
    return {"below": below, "coverage": n / len(y), "n": n, "accuracy": None, "accuracy_ci": None} | accuracy


def check_abstain_below(below: float) -> None:
    """Raises UsageError unless `below` is a probability."""
    if not 0 <= below <= 1:  # NaN too
        raise UsageError(f"a row abstains below a probability from 0 to 1, got {below}", "try 0.6")


def confident_mistakes(
    labels: ArrayLike, probabilities: ArrayLike, texts: Sequence[str], label_names: Sequence[str], limit: int = 20
) -> list[dict[str, Any]]:
    """The `limit` wrong rows the model was surest of, surest first, equals in row order.

    Each is {"text", "label", "predicted", "probability" (of the predicted label), "row" (from 0)}.
    """
    y, p = _checked(labels, probabilities)
    names = _checked_names(label_names, p.shape[1])
    if len(texts) != len(y):
        raise DataError(f"expected one text for each of {len(y)} labels, got {len(texts)} texts", "pass the same rows")
    predicted, confidence = p.argmax(1), p.max(1)
    wrong = np.flatnonzero(predicted != y)
    surest = wrong[np.argsort(-confidence[wrong], kind="stable")][: max(0, limit)]
    return [
        {
            "text": texts[row],
            "label": names[y[row]],
            "predicted": names[predicted[row]],
            "probability": float(confidence[row]),
            "row": int(row),
        }
        for row in surest
    ]


def prediction_distribution(predictions: ArrayLike, label_names: Sequence[str]) -> dict[str, int]:
    """How often each label is predicted, in label order, from label ids (N,) or probabilities (N, C)."""
    given = np.asarray(predictions)
    names = _checked_names(label_names, given.shape[1] if given.ndim == 2 else len(label_names))
    if given.ndim == 2:
        _require_finite(given, "probabilities")
        given = given.argmax(1)
    ids = _checked_labels(given, len(names))
    return dict(zip(names, np.bincount(ids, minlength=len(names)).tolist(), strict=True))


# ------------------------------------------------------------------------------------------------------- intervals


def wilson(correct: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval for a share (1927): honest near 0 and 1, where the normal interval isn't."""
    if not 0 <= correct <= total or total < 1:
        raise DataError(f"expected 0 <= correct <= total, total >= 1, got {correct} of {total}", "count again")
    _require_share(confidence)
    interval = binomtest(int(correct), int(total)).proportion_ci(confidence_level=confidence, method="wilson")
    return float(interval.low), float(interval.high)


def f1_macro_interval(
    confusion_matrix: ArrayLike, *, samples: int = 2000, seed: int = 0, confidence: float = 0.95
) -> tuple[float, float]:
    """The percentile interval of macro-F1 under the bootstrap of rows, from the counts (C, C) [true][predicted].

    Redrawing rows changes only how many fall into each cell, so the cells' counts are drawn: a multinomial.
    """
    _require_share(confidence)
    matrix = np.asarray(confusion_matrix, dtype=np.int64)
    true, predicted = np.nonzero(matrix)
    counts, (n, labels) = matrix[true, predicted], (int(matrix.sum()), len(matrix))
    # F1 is twice what is right over how often the label is predicted plus how often it is true: sums over cells.
    cell, one = np.arange(len(counts)), np.ones(len(counts))
    true_KC, predicted_KC = (csr_array((one, (cell, label)), (len(counts), labels)) for label in (true, predicted))
    right_KC = csr_array((2.0 * (true == predicted), (cell, true)), (len(counts), labels))
    rng, step = np.random.default_rng(seed), max(1, CHUNK // (len(counts) + labels))
    drawn = []
    for size in [min(step, samples - start) for start in range(0, samples, step)]:
        cells = rng.multinomial(n, counts / n, size).astype(np.float64)
        right, both = cells @ right_KC, cells @ (true_KC + predicted_KC)
        drawn.append((right / np.maximum(both, 1)).sum(1) / (both > 0).sum(1))
    low, high = np.quantile(np.concatenate(drawn), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


# ------------------------------------------------------------------------------------------------ from the counts


def _confusion(y: Ints, predicted: NDArray[np.intp], num_labels: int) -> Ints:
    """Counts (C, C): [true][predicted]."""
    return np.bincount(y * num_labels + predicted, minlength=num_labels**2).reshape(num_labels, num_labels)


def _by_class(matrix: Ints) -> dict[str, Floats]:
    """Precision, recall and F1 of each label (C,); 0 where nothing was predicted or nothing was there."""
    hits, predicted, true = matrix.diagonal(), matrix.sum(0), matrix.sum(1)
    return {
        "precision": hits / np.maximum(predicted, 1),
        "recall": hits / np.maximum(true, 1),
        "f1": 2 * hits / np.maximum(predicted + true, 1),
    }


def _weighted(matrix: Ints, by_class: dict[str, Floats]) -> dict[str, float]:
    share = matrix.sum(1) / matrix.sum()
    return {name: float(values @ share) for name, values in by_class.items()}


def _macro(matrix: Ints, by_class: dict[str, Floats]) -> dict[str, float]:
    """Plain means over the labels that occur, in truth or prediction, as scikit-learn takes them."""
    occurs = matrix.sum(0) + matrix.sum(1) > 0
    return {f"{name}_macro": float(values[occurs].mean()) for name, values in by_class.items()}


def _class_row(k: int, names: list[str], matrix: Ints, by_class: dict[str, Floats]) -> ClassRow:
    precision, recall, f1 = (float(by_class[name][k]) for name in ("precision", "recall", "f1"))
    counts = matrix[k].copy()
    counts[k] = 0
    most = [j for j in np.argsort(-counts, kind="stable")[:TOP_CONFUSIONS] if counts[j]]
    return ClassRow(
        label=names[k],
        accuracy=recall,
        correct=int(matrix[k, k]),
        total=int(matrix[k].sum()),
        precision=precision,
        recall=recall,
        f1=f1,
        top_confusions=[{"label": names[j], "count": int(counts[j])} for j in most],
    )


def _calibration_error(bins: list[dict[str, Any]]) -> float:
    rows = sum(one["n"] for one in bins)
    return sum(one["n"] * abs(one["accuracy"] - one["confidence"]) for one in bins) / rows


def _cross_entropy(y: Ints, log_p: Floats) -> float:
    return float(-log_p[np.arange(len(y)), y].mean())


# --------------------------------------------------------------------------------------------------------- checks


def _checked(labels: ArrayLike, probabilities: ArrayLike) -> tuple[Ints, Floats]:
    y, p = _checked_shapes(labels, probabilities, "probabilities")
    _require_finite(p, "probabilities")
    sums = p.sum(1)
    bad = np.flatnonzero((np.abs(sums - 1) > ROW_SUM_TOLERANCE) | (p.min(1) < 0))
    if len(bad):
        raise ProbabilityError(
            f"expected probabilities of 0 or more that sum to 1 in each row, got {p[bad[0]].tolist()[:8]} "
            f"(sum {sums[bad[0]]:.4g}) in row {bad[0]} and {len(bad)} such rows",
            "pass probabilities, not logits",
        )
    return y, p


def _checked_shapes(labels: ArrayLike, values: ArrayLike, what: str) -> tuple[Ints, Floats]:
    y, v = np.asarray(labels), np.asarray(values, dtype=np.float64)
    if v.ndim != 2 or y.ndim != 1 or len(y) != len(v):
        raise DataError(f"expected labels (N,) and {what} (N, C), got {y.shape} and {v.shape}", "pass the same rows")
    if not v.size:
        raise DataError(f"there is nothing to score: {what} are {v.shape}", "give at least one labelled row")
    return _checked_labels(y, v.shape[1]), v


def _checked_labels(y: NDArray[Any], num_labels: int) -> Ints:
    if not np.issubdtype(y.dtype, np.integer):
        raise DataError(f"expected whole numbers as labels, got {y.dtype}", "pass label ids, not names")
    outside = y[(y < 0) | (y >= num_labels)]
    if len(outside):
        raise DataError(
            f"expected labels 0 to {num_labels - 1}, got {outside[0]} ({len(outside)} such rows)",
            "score data with the labels the model was trained on",
        )
    return y.astype(np.int64)


def _checked_names(label_names: Sequence[str], num_labels: int) -> list[str]:
    names = [str(name) for name in label_names]
    if len(names) != num_labels or len(set(names)) != num_labels:
        raise DataError(f"expected {num_labels} different label names, got {names}", "name each label once, in order")
    return names


def _require_finite(values: NDArray[Any], what: str) -> None:
    rows = np.flatnonzero(~np.isfinite(values).all(1))
    if len(rows):
        raise ProbabilityError(
            f"expected finite {what}, got {len(rows)} rows with NaN or infinity, the first is row {rows[0]}",
            "the model has diverged: train with a lower learning rate or in fp32",
        )


def _require_share(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise UsageError(f"confidence is a share between 0 and 1, got {confidence}", "use 0.95 for 95 %")
