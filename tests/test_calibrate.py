"""A temperature in the head: the right one, folded exactly, counted as nothing, never a change of label."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import FAMILIES, OTHERS
from hypothesis import given
from hypothesis import strategies as st
from laws import assert_built_is_saved, assert_planned_is_built, pad_id, tokens_of
from scipy.optimize import minimize

from textlora import adapter, bases, budget, calibrate, predict
from textlora import model as models
from textlora.errors import UsageError

LABELS = ("a", "b", "c")


def rows(rng: np.random.Generator, n: int, right: float, strength: float = 7.0) -> tuple[np.ndarray, np.ndarray]:
    """Labels (n,) drawn as softmax(logits / right) says, and the logits (n, 4) of a classifier of accuracy 0.9."""
    true = rng.normal(0, strength, (n, 4))
    labels = (rng.random((n, 1)) < predict.probabilities(true).cumsum(1)).argmax(1)
    return true * right, labels


def built(config):
    base = bases.find(config.base)
    plan = budget.plan(config, bases.shapes(base, config.base_weights), len(LABELS), base.hub_id)
    return plan, models.build(config, plan, LABELS, torch.float32)[0]


# ------------------------------------------------------------------------------------------------------- the number


@given(seed=st.integers(0, 999), right=st.sampled_from([0.5, 1.0, 2.5]))
def test_it_is_found_where_it_is_known(seed, right):
    logits, labels = rows(np.random.default_rng(seed), 20_000, right)
    found = calibrate.temperature(logits, labels)
    assert found == pytest.approx(right, rel=0.05)
    assert calibrate.loss(logits / found, labels) <= calibrate.loss(logits, labels) + 1e-9


def test_it_is_the_least_of_the_loss_and_the_prior():
    logits, labels = rows(np.random.default_rng(1), 500, 1.7)
    cost = lambda a: 500 * calibrate.loss(a[0] * logits, labels) + (a[0] - 1) ** 2 / 2  # noqa: E731
    assert 1 / calibrate.temperature(logits, labels) == pytest.approx(minimize(cost, [1.0]).x[0], abs=1e-4)


def test_rows_that_are_all_right_or_all_wrong_keep_it_finite():
    logits = 8 * np.eye(4)[np.arange(300) % 4]
    assert 0.1 <= calibrate.temperature(logits, np.arange(300) % 4) <= 1
    assert 1 <= calibrate.temperature(logits, (np.arange(300) + 1) % 4) <= 10
    assert calibrate.temperature(np.zeros((300, 4)), np.arange(300) % 4) == pytest.approx(1, abs=1e-4)


def test_so_many_rows_are_enough_for_it():
    """What `enough` says of 200 rows."""
    rng, found, worse = np.random.default_rng(2), [], []
    for _ in range(300):
        logits, labels = rows(rng, 200, 1.0)
        found.append(calibrate.temperature(logits, labels))
        held, truth = rows(rng, 4000, 1.0)
        worse.append(calibrate.loss(held / found[-1], truth) - calibrate.loss(held, truth))
    spread, cost = np.std(np.log(found)), np.mean(worse)
    accuracy = (held.argmax(1) == truth).mean()
    print(f"accuracy {accuracy:.3f}: temperatures within a factor of {np.exp(spread):.3f}, loss +{cost:.4f}")
    assert spread < 0.15
    assert cost < 0.004
    assert calibrate.enough(200)
    assert not calibrate.enough(199)


# -------------------------------------------------------------------------------------------------------- the folding


TOLD = '{"World": 0.1, "Sports": 0.2, "Business": 0.3, "Sci/Tech": 0.4}'
OURS = [(family, head) for family in FAMILIES for head in ("linear", "low-rank")]


@pytest.mark.parametrize(("family", "head"), OURS + [(family, "full") for family in (*FAMILIES, *OTHERS)])
def test_the_head_is_scaled_and_nothing_else(family, head, tiny_config, tmp_path):
    config = tiny_config(family, head=head, pooling="cls" if head == "full" else "mean")
    plan, network = built(config)
    tokens = tokens_of(np.random.default_rng(0), [3, 9, 14, 30])
    before = predict.logits(network, tokens, pad_id(network))
    models.scale_head(network, 0.4)
    after = predict.logits(network, tokens, pad_id(network))
    np.testing.assert_allclose(after, 0.4 * before, rtol=1e-5, atol=1e-6)
    assert (after.argmax(1) == before.argmax(1)).all()
    assert_planned_is_built(plan, network)
    assert_built_is_saved(plan, network, tmp_path)


def test_calibrating_lowers_the_loss_on_the_rows_and_keeps_their_labels(tiny_config):
    _, network = built(tiny_config())
    rng = np.random.default_rng(3)
    tokens, labels = tokens_of(rng, [12] * 300), rng.integers(0, 3, 300)
    models.scale_head(network, 9.0)  # far too sure
    before = predict.logits(network, tokens, 0)
    found, line = calibrate.calibrate(network, tokens, labels, 0)
    after = predict.logits(network, tokens, 0)
    assert found > 1
    np.testing.assert_allclose(after * found, before, rtol=1e-4, atol=1e-5)
    assert calibrate.loss(after, labels) < calibrate.loss(before, labels)
    assert line.startswith(f"temperature {found:.3f}, in the head now")


# --------------------------------------------------------------------------------------------------------------- a run


@pytest.fixture(scope="module")
def many_rows(tmp_path_factory):
    """A folder whose validation has 200 rows and more: mini-news turned around."""
    from conftest import CORPUS

    folder = tmp_path_factory.mktemp("many")
    for name, source in {"train": "validation", "validation": "test"}.items():
        (folder / f"{name}.csv").write_text((CORPUS / f"{source}.csv").read_text(encoding="utf-8"), encoding="utf-8")
    return str(folder)


@pytest.mark.slow
@pytest.mark.parametrize("form", [{}, {"head": "full", "pooling": "cls"}])
def test_a_run_folds_it_writes_it_down_and_keeps_its_labels(form, many_rows, trained, tiny_base):
    loading = {"base_weights": str(tiny_base("bert")), "precise": True}
    with_it, without = (trained(data=many_rows, calibrate=on, **form) for on in (True, False))
    settings, plain = (json.loads((run / "adapter" / "textlora.json").read_text()) for run in (with_it, without))
    summary = json.loads((with_it / "summary.json").read_text())
    assert settings["temperature"] == summary["temperature"] != 1
    assert plain["temperature"] is None
    assert settings["trainable_parameters"] == plain["trainable_parameters"]
    texts = [f"Rain stopped play on day {i}" for i in range(9)]
    after, before = (predict.load(run, **loading).predict_logits(texts) for run in (with_it, without))
    np.testing.assert_allclose(after * settings["temperature"], before, rtol=1e-4, atol=1e-5)
    losses = [json.loads((run / "summary.json").read_text())["best_validation_loss"] for run in (with_it, without)]
    assert losses[0] < losses[1]


@pytest.mark.slow
def test_a_bag_of_tokens_needs_none_and_few_rows_give_none(many_rows, trained):
    for run in (trained(data=many_rows, bag_of_tokens=True), trained()):
        assert json.loads((run / "summary.json").read_text())["temperature"] is None


def test_a_head_that_can_t_hold_one_is_trained_without(many_rows, tiny_config, tmp_path, monkeypatch):
    """As Perceiver's own head, of which no linear has an output for each label: known before training, and said."""
    from textlora.train import train

    monkeypatch.setattr(models, "last_linear", lambda network: None)
    said = []
    config = tiny_config(data=many_rows, max_steps=2)
    run = train(config, out=tmp_path / "run", say=said.append)
    assert run.summary()["temperature"] is None
    lines = [line.startswith("no temperature is fitted") for line in said]
    assert lines.index(True) < next(i for i, line in enumerate(said) if line.startswith("to beat"))
    with pytest.raises(UsageError, match="this head has none"):
        train(replace(config, label_shares=TOLD), out=tmp_path / "told")
    assert not (tmp_path / "told").exists()


@pytest.mark.slow
def test_a_resumed_run_finds_the_same(many_rows, trained, tiny_config, tmp_path):
    from textlora.train import train

    config = tiny_config(data=many_rows, eval_steps=2)
    whole = trained(data=many_rows, eval_steps=2)
    half = tmp_path / "run"
    train(config, out=half, say=lambda _: None)
    for path in (half / "summary.json", *(half / "checkpoints" / "checkpoint-6").iterdir()):
        path.unlink()
    run = train(replace(config), out=half, resume=True, say=lambda _: None).folder
    for name in (adapter.WEIGHTS, "textlora.json"):
        assert (run / "adapter" / name).read_bytes() == (whole / "adapter" / name).read_bytes()
