"""Label shift: what must hold on calibrated probabilities, where the truth is known by construction."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import softmax

from textlora import cli, data, predict, runs, shift
from textlora.errors import DataError, UsageError
from textlora.evaluate import evaluate


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


# ---------------------------------------------------------------------------------------------- in predict, evaluate


@pytest.fixture
def shifted_file(tmp_path: Path) -> tuple[Path, list[str]]:
    """120 texts of mini-news, nine in ten of them sports."""
    rows = data.load("mini-news").train
    sports, rest = (np.flatnonzero((rows.labels == 1) == wanted) for wanted in (True, False))
    texts = [rows.texts[i] for i in [*sports[:108], *rest[:12]]]
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path, texts


def test_a_file_is_predicted_as_its_probabilities_corrected(trained, tiny_base, shifted_file, tmp_path, monkeypatch):
    """In chunks, and in the file's order."""
    path, texts = shifted_file
    predictor = predict.load(trained(), tokenizer=str(tiny_base("bert")), base_weights=str(tiny_base("bert")))
    shares = [
        0.7,
        0.1,
        0.1,
        0.1,
    ]  # a tiny model's probabilities are flat: shares that they will be found to differ from
    monkeypatch.setattr(data, "CHUNK_ROWS", 50)
    said: list[str] = []
    out = tmp_path / "out.jsonl"
    assert predict.predict_file(predictor, str(path), out, trained_shares=shares, say=said.append) == 120
    expected, found = shift.correct(predictor.predict_proba(texts), shares)
    written = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert found.applied
    assert found.line(predictor.labels) in said
    got = [[row["probabilities"][label] for label in predictor.labels] for row in written]
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert [row["id"] for row in written] == list(range(120))


def test_evaluate_says_what_it_did(trained, tiny_base, tmp_path):
    report = evaluate(
        trained(),
        "mini-news",
        "test",
        out=tmp_path,
        label_shift=True,
        base_weights=str(tiny_base("bert")),
        tokenizer=str(tiny_base("bert")),
    )
    assert report.to_dict()["label_shift"]["trained"] == pytest.approx([0.25] * 4, abs=0.02)


def test_a_bare_adapter_does_not_know_the_shares(trained, tiny_base, tmp_path):
    with pytest.raises(UsageError, match="how frequent each label was"):
        evaluate(
            trained() / "adapter",
            "mini-news",
            "test",
            label_shift=True,
            base_weights=str(tiny_base("bert")),
            tokenizer=str(tiny_base("bert")),
        )


def test_weights_in_the_loss_are_part_of_what_was_trained(trained):
    """Balanced weights make every label as frequent as the others, whatever the rows."""
    shares = runs.label_shares(trained(class_weights="balanced"))
    assert shares == pytest.approx([1 / len(shares)] * len(shares), abs=1e-6)


@pytest.mark.parametrize("verb", ["evaluate", "predict"])
def test_a_label_without_training_rows_is_refused_before_anything_is_loaded(verb, tmp_path, capsys):
    """No base is at hand here: whoever loaded first would say that instead."""
    run, rows = tmp_path / "run", tmp_path / "rows.csv"
    run.mkdir()
    runs.write_json(run / "environment.json", {"data": {"label_shares": [0.5, 0.5, 0.0]}})
    rows.write_text("text,label\na,b\n", encoding="utf-8")
    flags = {"evaluate": ["--data", str(rows)], "predict": ["--input", str(rows)]}[verb]
    assert cli.main([verb, str(run), *flags, "--label-shift"]) == 2
    assert "1 of " in (said := capsys.readouterr().err)
    assert "3 labels had no training rows" in said
