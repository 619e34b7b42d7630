"""Two classifiers on the same rows: how far apart are they, and could that be chance?

Everything here takes which rows were right, of one run or of several seeds of one recipe, and is made with NumPy and
SciPy alone. N rows, S seeds of one recipe.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binomtest, norm
from scipy.stats import t as student

from textlora.errors import DataError, UsageError

SAMPLES = 10_000
CHUNK = 4_000_000  # counts that are drawn at a time: 32 MB

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


class Gain(NamedTuple):
    """Accuracy of b minus accuracy of a, with its interval."""

    gain: float
    low: float
    high: float


def paired_gain(
    correct_a: ArrayLike, correct_b: ArrayLike, *, samples: int = SAMPLES, seed: int = 0, confidence: float = 0.95
) -> Gain:
    """Accuracy of b minus that of a on the same rows, with the percentile interval of the paired bootstrap.

    Each side is bool, (N,) of one run or (S, N) of several seeds of one recipe. Rows are redrawn, and so are the seeds
    of a side that has several (see `_seeds`); the seed of a side that has one is taken as given. Where a and b never
    differ the interval is the point 0: a bootstrap can't see differences that didn't occur.
    """
    if not 0 < confidence < 1:
        raise UsageError(f"confidence is a share between 0 and 1, got {confidence}", "use 0.95 for 95 %")
    a, b = _checked(correct_a, correct_b)
    tail = (1 - confidence) / 2
    low, high = (float(q) + 0.0 for q in np.quantile(_drawn(a, b, samples, seed), [tail, 1 - tail]))  # no -0.0
    return Gain(float(b.mean() - a.mean()), low, high)


def p_value(correct_a: ArrayLike, correct_b: ArrayLike, *, samples: int = SAMPLES, seed: int = 0) -> float:
    """How often a difference as large as this would come by chance: McNemar's for two runs, else the bootstrap's.

    The bootstrap's is twice the share of draws on the other side of 0, at least 2 / (samples + 1). One recipe against
    itself, two or three seeds a side, is "no difference" at 0.05 in 94.5 to 99.5 % of simulated pairs.
    """
    a, b = _checked(correct_a, correct_b)
    if len(a) == len(b) == 1:
        return mcnemar(a[0], b[0])
    drawn = _drawn(a, b, samples, seed)
    return min(1.0, 2 * (1 + float(min((drawn <= 0).sum(), (drawn >= 0).sum()))) / (samples + 1))


def mcnemar(correct_a: ArrayLike, correct_b: ArrayLike) -> float:
    """The exact p of McNemar's test (1947), two-sided: of the rows that one side alone gets right, is half each's?"""
    a, b = (side[0] for side in _checked(correct_a, correct_b))
    wins, losses = int((b & ~a).sum()), int((a & ~b).sum())
    return float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """The p values, each raised so that all together are wrong no more often than one alone (Holm 1979)."""
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise DataError(f"expected p values from 0 to 1, got {p_values}", "correct the ones of a test")
    order = np.argsort(p, kind="stable")
    raised = np.empty(len(p))
    raised[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)) if len(p) else p
    return np.minimum(raised, 1.0).tolist()


def _drawn(a: Bools, b: Bools, samples: int, seed: int) -> Floats:
    """Gains of b (S, N) over a (S', N) under redrawn rows and seeds: (samples,).

    Rows that are right in the same runs are alike, so how often each such pattern is drawn is drawn directly: exactly
    the row bootstrap, without touching N rows each time.
    """
    if a.tobytes() > b.tobytes():  # one order for both ways round, so that swapping a and b exactly negates the answer
        return -_drawn(b, a, samples, seed)
    rng = np.random.default_rng(seed)
    freedom = len(a) + len(b) - 2
    share_a, share_b = (_seeds(side, freedom, samples, rng) for side in (a, b))
    patterns, counts = np.unique(np.concatenate([a, b]).T, axis=0, return_counts=True)
    n, step = int(counts.sum()), max(1, CHUNK // len(counts))
    sizes = [min(step, samples - start) for start in range(0, samples, step)]
    right = np.concatenate([rng.multinomial(n, counts / n, size) @ patterns.astype(np.float64) for size in sizes]) / n
    return (right[:, len(a) :] * share_b).sum(1) - (right[:, : len(a)] * share_a).sum(1)


def _seeds(side_SN: Bools, freedom: int, samples: int, rng: np.random.Generator) -> Floats:
    """What each seed counts in each sample, (samples, S): 1 / S, give or take what redrawing seeds adds.

    Seeds differ for two reasons: rows near a tie fall this way or that, which redrawn rows show already, and some seeds
    are better everywhere. Only the second's part of the spread is added (a random effect's share of the variance): both
    would widen intervals by half. Few seeds tell little of it, so it is widened as Student's t is, with `freedom`
    degrees, over the normal distribution.
    """
    seeds, rows = side_SN.shape
    if seeds == 1:
        return np.ones((samples, 1))
    spread, by_row = side_SN.mean(1).var(ddof=1), side_SN.var(0, ddof=1).mean() / rows
    own = np.sqrt(max(0.0, 1 - by_row / spread)) if spread else 0.0
    return 1 / seeds + own * student.ppf(0.975, freedom) / norm.ppf(0.975) * (_redrawn(seeds, samples, rng) - 1 / seeds)


def _redrawn(seeds: int, samples: int, rng: np.random.Generator) -> Floats:
    """What each of several seeds counts when they are redrawn: (samples, seeds).

    S - 1 are drawn of S: with S draws the spread of a few would read too small by the factor (S - 1) / S (Rao & Wu
    1988, doi 10.1080/01621459.1988.10478591).
    """
    return rng.multinomial(seeds - 1, [1 / seeds] * seeds, samples) / (seeds - 1)


def _checked(correct_a: ArrayLike, correct_b: ArrayLike) -> tuple[Bools, Bools]:
    """Both sides as (S, N)."""
    a, b = (np.atleast_2d(np.asarray(side, dtype=bool)) for side in (correct_a, correct_b))
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or not a.size or not b.size:
        raise DataError(f"expected right or wrong (N,) of the same rows, got {a.shape}, {b.shape}", "use one split")
    return a, b
