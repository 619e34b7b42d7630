"""Adapters that learn from pairs, and the head that is solved for: what is judged is what is saved."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import few
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from textlora import adapter, data, engine, model, predict, solved
from textlora.callbacks import Meter
from textlora.contrast import pair_loss, solve_head
from textlora.errors import UsageError
from textlora.prepare import prepare
from textlora.runs import Run
from textlora.tokens import Rows
from textlora.train import fit, train
from textlora.trial import Shared, run_trial


def quiet(_: str) -> None:
    pass


@pytest.fixture(scope="module")
def run(tiny_config, tmp_path_factory) -> Run:
    folder = tmp_path_factory.mktemp("pairs") / "run"
    return train(tiny_config("bert", loss="contrastive"), out=folder, say=quiet)


# --------------------------------------------------------------------------------------------------------- the loss


def by_hand(pooled, labels) -> float:
    """Pair by pair, as the docstring has it."""
    alike, apart = [], []
    for i in range(len(labels)):
        for j in range(len(labels)):
            if i != j:
                cosine = pooled[i] @ pooled[j] / np.linalg.norm(pooled[i]) / np.linalg.norm(pooled[j])
                (alike if labels[i] == labels[j] else apart).append((cosine - (labels[i] == labels[j])) ** 2)
    return (np.mean(alike or [0.0]) + np.mean(apart or [0.0])) / 2


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.integers(0, 1000))
def test_the_loss_is_that_of_all_pairs_whatever_labels_a_batch_has(labels, seed):
    pooled = np.random.default_rng(seed).normal(size=(len(labels), 5))
    found = float(pair_loss(torch.tensor(pooled), torch.tensor(labels)))
    assert found == pytest.approx(by_hand(pooled, labels), abs=1e-6)


@given(st.integers(0, 1000), st.floats(0.1, 10))
def test_neither_order_nor_length_of_the_vectors_matters(seed, factor):
    rng = np.random.default_rng(seed)
    pooled, labels, order = rng.normal(size=(9, 4)), rng.integers(0, 3, 9), rng.permutation(9)
    one = pair_loss(torch.tensor(pooled), torch.tensor(labels))
    other = pair_loss(torch.tensor(factor * pooled[order]), torch.tensor(labels[order]))
    assert float(one) == pytest.approx(float(other), abs=1e-6)


def test_labels_at_right_angles_cost_nothing_and_one_text_gives_no_gradient():
    axes = torch.eye(3)[[0, 0, 1, 2]]
    assert float(pair_loss(axes, torch.tensor([0, 0, 1, 2]))) == pytest.approx(0, abs=1e-6)
    alone = torch.ones(1, 3, requires_grad=True)
    pair_loss(alone, torch.tensor([0])).backward()
    assert alone.grad is not None
    assert not alone.grad.any()


# --------------------------------------------------------------------------------------------------------- the head


def test_the_head_is_logistic_regression_on_pooled_texts(tiny_config):
    prepared = prepare(tiny_config("bert", loss="contrastive").checked(), quiet)
    labels = prepared.data.train.labels
    with model.headless(prepared.network):
        pooled = predict.logits(prepared.network, prepared.train, prepared.pad_id)
    assert pooled.shape == (len(labels), 32)
    solve_head(prepared.network, Rows(prepared.train, labels), prepared.pad_id)
    rows = np.column_stack([pooled / np.linalg.norm(pooled, axis=1).mean(), np.ones(len(pooled))])
    reference = LogisticRegression(C=solved.STRENGTH, fit_intercept=False, tol=1e-3, max_iter=300).fit(rows, labels)
    sharper = 1 + 16 / len(labels) ** 0.5
    found = predict.logits(prepared.network, prepared.train, prepared.pad_id)
    assert found == pytest.approx(sharper * reference.decision_function(rows), abs=1e-3)


@pytest.mark.parametrize("labels", [(0, 1), (0, 2)])
def test_a_label_without_rows_is_no_answer(tiny_config, labels):
    prepared = prepare(tiny_config("bert", loss="contrastive").checked(), quiet)
    rows = np.flatnonzero(np.isin(prepared.data.train.labels, labels))[:40]
    few = prepared.train.take(rows)
    solve_head(prepared.network, Rows(few, prepared.data.train.labels[rows]), prepared.pad_id)
    answers = predict.logits(prepared.network, prepared.validation, prepared.pad_id).argmax(1)
    assert set(answers.tolist()) <= set(labels)


# ---------------------------------------------------------------------------------------------------------- the run


def test_training_lowers_the_loss_and_moves_adapters_alone(tiny_config, tmp_path):
    config = tiny_config("bert", loss="contrastive", max_steps=40, batch_tokens=1024)
    prepared = prepare(config.checked(), quiet)
    engine.use(prepared.network, config.engine, quiet)
    labels = torch.tensor(prepared.validation.text_of * 0 + prepared.data.validation.labels)

    def loss() -> float:
        with model.headless(prepared.network):
            pooled = predict.logits(prepared.network, prepared.validation, prepared.pad_id)
        return float(pair_loss(torch.tensor(pooled), labels))

    before, folder = loss(), Run(tmp_path / "run")
    folder.checkpoints.mkdir(parents=True)
    fit(folder, prepared, Meter(), say=quiet)
    assert loss() < before


def test_what_is_judged_is_what_is_saved_and_trained_again(run, tiny_base, tmp_path):
    rows = data.load("mini-news").validation
    last = [record for record in run.metrics() if record["split"] == "validation"][-1]
    saved = predict.load(run.folder, base_weights=str(tiny_base("bert")), precise=True)
    assert (saved.predict_proba(rows.texts).argmax(1) == rows.labels).mean() == pytest.approx(last["accuracy"])
    again = train(run.config(), out=tmp_path / "again", say=quiet)
    one, other = (adapter.read_weights(folder.adapter) for folder in (run, again))
    assert all((one[name] == other[name]).all() for name in one)


def test_it_goes_with_refit_accumulation_dropout_and_a_bag(tiny_config, tiny_base, tmp_path):
    more = {"refit": True, "gradient_accumulation_steps": 2, "lora_dropout": 0.1, "bag_of_tokens": True}
    run = train(tiny_config("bert", loss="contrastive", **more), out=tmp_path / "run", say=quiet)
    found = predict.load(run.folder, base_weights=str(tiny_base("bert")))
    assert found.predict_proba(["the match ended in a draw"]).shape == (1, 4)


@pytest.mark.parametrize(
    "changes",
    [
        {"head": "low-rank"},
        {"head": "full", "pooling": "cls"},
        {"label_smoothing_factor": 0.1},
        {"long_text": "window-mean"},
    ],
)
def test_what_it_does_not_go_with_is_refused(tiny_config, changes):
    with pytest.raises(UsageError, match="loss contrastive"):
        tiny_config("bert", loss="contrastive", **changes)


def test_the_model_has_its_head_again_when_headless_ends(tiny_config):
    network = prepare(tiny_config("bert").checked(), quiet).network
    before = network.base_model.model.classifier
    with pytest.raises(RuntimeError, match="inside"), model.headless(network):
        raise RuntimeError("inside")
    assert network.base_model.model.classifier is before
    assert replace(tiny_config("bert"), loss="contrastive").problems() == []


def test_trials_are_compared_by_a_head_that_fits(tiny_config, tmp_path):
    rows, seen = few(20), []
    config = tiny_config("bert", loss="contrastive", max_steps=4, learning_rate=1e-9, eval_steps=4)

    def worse(score: float, texts: int) -> bool:
        return bool(seen.append(score))

    outcome = run_trial(lambda: config, Shared(rows, "loss", (1, 2)), tmp_path / "run", worse, lambda: 1e3)
    assert seen == pytest.approx([outcome.scores["loss"]], abs=1e-3)  # nothing moved but the head
