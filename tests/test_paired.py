"""Differences between classifiers on the same rows: laws, references, and how often chance is taken for one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar
from statsmodels.stats.multitest import multipletests

from textlora import paired
from textlora.errors import DataError, UsageError

seeds = st.integers(0, 2**32 - 1)
sides = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 40))


def right(rng: np.random.Generator, runs: int, chance_N: np.ndarray, spread: float = 0.0) -> np.ndarray:
    """Which rows several seeds of one recipe get right, (runs, N): each row by chance, each seed a little off."""
    off = rng.normal(0, spread, (runs, 1))
    return rng.random((runs, len(chance_N))) < np.clip(chance_N + off, 0, 1)


def rows_of_a_good_classifier(rng: np.random.Generator, n: int) -> np.ndarray:
    """Most rows are sure, some are a coin's throw: about 0.92 in all."""
    return rng.beta(2.3, 0.2, n)


# ---------------------------------------------------------------------------------------------------------------- laws


@settings(max_examples=40, deadline=None)
@given(shape=sides, seed=seeds)
def test_swapping_the_sides_negates_the_gain_and_keeps_the_p(shape, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.random((shape[0], shape[2])) < 0.7, rng.random((shape[1], shape[2])) < 0.8
    there, back = (paired.paired_gain(*pair, samples=300, seed=seed) for pair in ((a, b), (b, a)))
    assert there == pytest.approx((-back.gain, -back.high, -back.low), abs=1e-12)
    assert there.low <= there.high
    assert there.gain == pytest.approx(b.mean() - a.mean())
    assert paired.p_value(a, b, samples=300) == pytest.approx(paired.p_value(b, a, samples=300))


def test_a_model_gains_nothing_on_itself():
    same = [True, False, True]
    assert paired.paired_gain(same, same) == (0, 0, 0)
    assert paired.mcnemar(same, same) == paired.p_value([same, same], [same]) == 1.0


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0, 1), max_size=12))
def test_holms_correction_is_statsmodels(p):
    found = paired.holm(p)
    assert found == pytest.approx(multipletests(p, method="holm")[1] if p else [], abs=1e-9)
    assert all(1 >= after >= before for before, after in zip(p, found, strict=True))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=200))
def test_mcnemar_is_statsmodels(rows):
    a, b = np.array(rows).T
    table = [[(a & b).sum(), (a & ~b).sum()], [(~a & b).sum(), (~a & ~b).sum()]]
    assert paired.mcnemar(a, b) == pytest.approx(reference_mcnemar(table, exact=True).pvalue, abs=1e-9)


# ---------------------------------------------------------------------------------------------------------- references


def test_the_interval_is_scipys_bootstrap_of_rows():
    rng = np.random.default_rng(1)
    a, b = rng.random(400) < 0.8, rng.random(400) < 0.85
    drawn = bootstrap(
        (a.astype(float), b.astype(float)),
        lambda x, y, axis=-1: y.mean(axis) - x.mean(axis),
        paired=True,
        vectorized=True,
        n_resamples=10_000,
        method="percentile",
        rng=0,
    )
    assert paired.paired_gain(a, b)[1:] == pytest.approx(tuple(drawn.confidence_interval), abs=0.004)


def test_with_several_seeds_rows_are_redrawn_and_the_seeds_own_spread():
    """Against the same thing done slowly, row by row; the seeds' part by the textbook's two-way components."""
    rng = np.random.default_rng(2)
    a, b = (right(rng, k, np.full(300, 0.8), 0.1) for k in (3, 2))
    slow = []
    for _ in range(6000):
        rows = rng.integers(0, 300, 300)
        gain = b[:, rows].mean() - a[:, rows].mean()
        for side in (a, b):
            centred = side - side.mean(0) - side.mean(1, keepdims=True) + side.mean()
            mean_square = (centred**2).sum() / ((len(side) - 1) * 299)  # of what is neither the row's nor the seed's
            own = max(0.0, side.mean(1).var(ddof=1) - mean_square / 300)
            gain += rng.normal(0, np.sqrt(own / len(side)) * 3.1824 / 1.96)  # Student's t, 3 degrees
        slow.append(gain)
    spread = np.diff(np.quantile(slow, [0.025, 0.975]))
    assert np.diff(paired.paired_gain(a, b)[1:]) == pytest.approx(spread, rel=0.15)
    rows_alone = np.diff(paired.paired_gain(a.mean(0) > 0.5, b.mean(0) > 0.5)[1:])
    assert spread > 1.5 * rows_alone


@pytest.mark.parametrize("runs", [2, 3, 5])
def test_redrawn_seeds_spread_as_their_mean_does(runs):
    """One draw fewer than there are seeds: the variance of the mean is then unbiased."""
    rng = np.random.default_rng(runs)
    estimates = []
    for _ in range(4000):
        accuracy = rng.normal(0, 1, runs)
        shares = paired._redrawn(runs, 60, rng)
        estimates.append(((shares @ accuracy - accuracy.mean()) ** 2).mean())
    assert np.mean(estimates) == pytest.approx(1 / runs, rel=0.06)


def test_the_interval_holds_the_true_gain_about_95_times_in_100():
    rng = np.random.default_rng(2)
    held = 0
    for _ in range(300):
        u = rng.random(500)  # one difficulty for both, so that they err on the same rows
        low, high = paired.paired_gain(u < 0.85, (u < 0.80) | (rng.random(500) < 0.5) & (u > 0.8), samples=1000)[1:]
        held += low <= 0.05 <= high
    print("coverage", held / 300)
    assert 0.90 <= held / 300 <= 0.99


# ---------------------------------------------------------------------------------------------- chance and difference


@pytest.mark.parametrize("n", [200, 1000, 3600])
def test_two_seeds_of_one_recipe_are_no_difference_in_about_95_of_100_pairs(n):
    rng = np.random.default_rng(n)
    pairs = 1000
    chance = [rows_of_a_good_classifier(rng, n) for _ in range(pairs)]
    same = np.mean([paired.p_value(right(rng, 1, c), right(rng, 1, c)) >= 0.05 for c in chance])
    print(f"n {n:,}: {same:.3f} of {pairs} pairs are no difference")
    assert 0.94 <= same <= 0.99  # an exact test errs to this side: its p are steps


@pytest.mark.parametrize("spread", [0.0, 0.003, 0.01])
@pytest.mark.parametrize("runs", [2, 3])
def test_one_recipe_against_itself_with_several_seeds_each(runs, spread):
    rng = np.random.default_rng(10 * runs)
    pairs, found = 200, 0
    for _ in range(pairs):
        chance = rows_of_a_good_classifier(rng, 1000)
        sides = right(rng, runs, chance, spread), right(rng, runs, chance, spread)
        found += paired.p_value(*sides, samples=600) >= 0.05
    print(f"{runs} seeds each, seeds spread by {spread}: {found / pairs:.3f} no difference")
    assert found / pairs >= 0.92


@pytest.mark.parametrize("runs", [1, 3])
def test_a_broken_and_a_good_run_are_different(runs):
    rng = np.random.default_rng(5)
    for _ in range(50):
        chance = rows_of_a_good_classifier(rng, 200)
        broken = right(rng, runs, np.full(200, 0.25))
        assert paired.p_value(broken, right(rng, runs, chance)) < 0.01


# ----------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: paired.paired_gain([True], [True, False]), DataError),
        (lambda: paired.paired_gain([], []), DataError),
        (lambda: paired.paired_gain([[[True]]], [True]), DataError),
        (lambda: paired.paired_gain([True], [True], confidence=0), UsageError),
        (lambda: paired.mcnemar([True], [True, False]), DataError),
        (lambda: paired.holm([0.2, 1.2]), DataError),
        (lambda: paired.holm([float("nan")]), DataError),
    ],
)
def test_what_is_no_pair_is_refused(call, error):
    with pytest.raises(error):
        call()
