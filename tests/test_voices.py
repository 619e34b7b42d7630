"""How much each voice may say: as much as held-out rows bear out."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from textlora import voices


def test_a_useless_voice_gets_next_to_nothing_and_a_good_one_more() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 2000)
    right = np.eye(3)[labels]
    head, noise, other = (rng.normal(size=(2000, 3)) for _ in range(3))
    a, useless = voices.shares([2 * right + head, noise], labels)
    _, useful = voices.shares([2 * right + head, 2 * right + other], labels)
    assert useless < 0.1 < 0.5 < useful
    assert 0.5 < a < 3


def test_by_few_rows_the_head_stays_as_it_was() -> None:
    head, other = np.array([[2.0, 0.0]]), np.array([[0.0, 3.0]])
    a, b = voices.shares([head, other], np.array([0]))
    assert abs(a - 1) < 0.3
    assert b < 0.3


def test_a_row_that_counts_three_times_is_three_rows() -> None:
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 3, 200)
    head, other = (np.eye(3)[labels] + rng.normal(size=(200, 3)) for _ in range(2))
    rows = np.repeat(np.arange(200), np.where(labels == 2, 3, 1))
    weighted = voices.shares([head, other], labels, {0: 1.0, 1: 1.0, 2: 3.0})
    np.testing.assert_allclose(weighted, voices.shares([head[rows], other[rows]], labels[rows]), atol=1e-3)
    assert abs(weighted[1] - voices.shares([head, other], labels)[1]) > 1e-3


def test_the_blend_is_never_less_likely_than_the_head_alone() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 4, 300)
    head, other = (np.eye(4)[labels] + rng.normal(size=(300, 4)) for _ in range(2))
    a, b = voices.shares([head, other], labels)
    assert voices.surprise(a * head + b * other, labels) < voices.surprise(head, labels)


def test_a_third_voice_that_repeats_the_second_changes_little() -> None:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 3, 1000)
    head, other = (np.eye(3)[labels] + rng.normal(size=(1000, 3)) for _ in range(2))
    a, b = voices.shares([head, other], labels)
    first, *rest = voices.shares([head, other, other], labels)
    assert abs(first - a) < 0.02
    assert abs(sum(rest) - b) < 0.02


def test_surprise_is_scikit_learns_log_loss() -> None:
    from sklearn.metrics import log_loss

    rng = np.random.default_rng(4)
    labels, logits = rng.integers(0, 3, 50), rng.normal(size=(50, 3))
    expected = log_loss(labels, softmax(logits, axis=1), sample_weight=1.0 + labels, normalize=False)
    assert voices.surprise(logits, labels, {0: 1.0, 1: 2.0, 2: 3.0}) == pytest.approx(expected)
