"""Confident learning: suspects and counts are cleanlab's; wrong labels that were planted are found."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from textlora import confident


def rows(seed, n=400, num_labels=4, noise=0.15, sharpness=2.0):
    """Labels, some wrong, and probabilities that know the true ones fairly well."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, num_labels, n)
    wrong = rng.random(n) < noise
    given_labels = np.where(wrong, (true + rng.integers(1, num_labels, n)) % num_labels, true)
    logits = rng.normal(size=(n, num_labels)) + sharpness * np.eye(num_labels)[true]
    p = np.exp(logits)
    return given_labels, p / p.sum(1, keepdims=True), true


@pytest.mark.parametrize(("seed", "num_labels", "noise"), [(0, 4, 0.15), (1, 2, 0.3), (2, 9, 0.05), (3, 3, 0.0)])
def test_suspects_and_counts_are_cleanlabs(seed, num_labels, noise):
    pytest.importorskip("cleanlab", reason="cleanlab isn't installed: confident learning has no reference here")
    from cleanlab.count import compute_confident_joint
    from cleanlab.filter import find_label_issues

    labels, p, _ = rows(seed, num_labels=num_labels, noise=noise)
    found = confident.find(labels, p)
    assert (found.joint == compute_confident_joint(labels, p, calibrate=False)).all()
    calibrated = compute_confident_joint(labels, p, calibrate=True)  # rounded to whole rows
    assert np.abs(found.estimate - calibrated).max() <= 1
    wanted = {"filter_by": "confident_learning", "return_indices_ranked_by": "self_confidence", "n_jobs": 1}
    assert found.rows[found.sure].tolist() == find_label_issues(labels, p, **wanted).tolist()


@given(st.integers(0, 10_000), st.integers(2, 6))
def test_the_laws_of_suspects(seed, num_labels):
    labels, p, _ = rows(seed, n=60, num_labels=num_labels)
    found = confident.find(labels, p)
    own = p[np.arange(len(p)), labels]
    assert (found.likely != labels[found.rows]).all()
    assert (np.diff(own[found.rows]) >= 0).all()
    assert (p[found.rows, found.likely] > own[found.rows]).all()
    there = np.bincount(labels, minlength=num_labels)
    assert found.estimate.sum(1) == pytest.approx(there)
    again = np.random.default_rng(seed).permutation(len(labels))
    assert set(found.rows) == set(np.flatnonzero(p.argmax(1) != labels))
    assert set(again[confident.find(labels[again], p[again]).rows]) == set(found.rows)


def test_planted_wrong_labels_are_found_and_their_number_estimated():
    labels, p, true = rows(7, n=4000, noise=0.1, sharpness=5.0)
    found = confident.find(labels, p)
    wrong = labels != true
    assert wrong[found.rows[found.sure]].mean() > 0.95
    assert wrong[found.rows[found.sure]].sum() > 0.8 * wrong.sum()
    off = found.estimate.sum() - np.trace(found.estimate)
    assert off == pytest.approx(wrong.sum(), rel=0.15)


def test_a_label_that_no_row_has_is_never_suggested():
    labels, p, _ = rows(1, num_labels=3)
    p = np.concatenate([p / 2, np.full((len(p), 1), 0.5)], axis=1)
    assert 3 not in confident.find(labels, p).likely
