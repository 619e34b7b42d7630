"""Label shift: what must hold on calibrated probabilities, where the truth is known by construction."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import softmax

from textlora import shift
from textlora.errors import DataError, UsageError


def calibrated(
    n: int, shares: np.ndarray, seed: int, trained: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Labels drawn by `shares`, and the exact posterior of a classifier whose training had `trained` shares.

    Each label's texts are a point with unit Gaussian noise, so Bayes' rule gives the posterior.
    """
    rng = np.random.default_rng(seed)
    trained = np.full(len(shares), 1 / len(shares)) if trained is None else trained
    centres = 2.0 * np.eye(len(shares))
    labels = rng.choice(len(shares), n, p=shares)
    points = centres[labels] + rng.normal(size=(n, len(shares)))
    log_likelihood = -((points[:, None, :] - centres) ** 2).sum(2) / 2
    return labels, softmax(log_likelihood + np.log(trained), axis=1)


def accuracy(probabilities: np.ndarray, labels: np.ndarray) -> float:
    return float((probabilities.argmax(1) == labels).mean())


SKEWED = np.array([0.85, 0.05, 0.05, 0.05])


@pytest.mark.parametrize("trained", [np.full(4, 0.25), np.array([0.1, 0.2, 0.3, 0.4])])
def test_finds_the_shares_and_all_that_the_true_ones_would_mend(trained: np.ndarray) -> None:
    labels, p = calibrated(20_000, SKEWED, 0, trained)
    corrected, found = shift.correct(p, trained)
    assert found.applied
    assert np.abs(np.array(found.found) - SKEWED).max() < 0.01
    known = shift.reweighted(p, SKEWED / trained)
    gained, possible = (accuracy(q, labels) - accuracy(p, labels) for q in (corrected, known))
    assert possible > 0.05
    assert gained > 0.9 * possible
    np.testing.assert_allclose(corrected.sum(1), 1)


def test_where_nothing_has_shifted_nothing_is_changed_but_rarely() -> None:
    even = np.full(3, 1 / 3)
    applied = [shift.correct(calibrated(400, even, seed)[1], even)[1].applied for seed in range(400)]
    assert np.mean(applied) < 0.03  # the test's level is 0.01, of 400 draws


def test_the_shares_are_the_most_likely_ones() -> None:
    """EM's answer beside a general optimiser's on the same likelihood."""
    _, p = calibrated(2_000, np.array([0.6, 0.3, 0.1]), 1)
    even = np.full(3, 1 / 3)
    found = shift.most_likely_shares(p, even)
    free = minimize(lambda z: -np.log(p @ (softmax(z) / even)).mean(), np.zeros(3), tol=1e-12)
    np.testing.assert_allclose(found, softmax(free.x), atol=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 6), st.integers(0, 10_000))
def test_the_likelihood_never_falls_and_order_does_not_matter(num_labels: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    p, trained = softmax(rng.normal(size=(150, num_labels)) * 3, axis=1), rng.dirichlet(np.ones(num_labels)) + 1e-3
    trained /= trained.sum()
    found = shift.most_likely_shares(p, trained)
    assert found.sum() == pytest.approx(1)
    assert np.log(p @ (found / trained)).sum() >= -1e-9
    order = rng.permutation(len(p))
    np.testing.assert_allclose(shift.correct(p, trained)[0][order], shift.correct(p[order], trained)[0], atol=1e-9)


def test_few_texts_are_left_alone() -> None:
    _, p = calibrated(shift.FEWEST - 1, SKEWED, 0)
    same, found = shift.correct(p, np.full(4, 0.25))
    assert not found.applied
    assert np.array_equal(same, p)
    assert str(shift.FEWEST) in found.reason


def test_shares_that_do_not_fit_are_refused() -> None:
    _, p = calibrated(200, SKEWED, 0)
    with pytest.raises(DataError, match="share for each label"):
        shift.correct(p, np.full(3, 1 / 3))
    with pytest.raises(UsageError, match="above 0"):
        shift.correct(p, np.array([0.5, 0.5, 0.0, 0.0]))
