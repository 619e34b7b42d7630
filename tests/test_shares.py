"""Known shares of labels: told clearly, met exactly, and put into the head without anything new."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CORPUS, FAMILIES
from hypothesis import given
from hypothesis import strategies as st
from laws import assert_built_is_saved, assert_planned_is_built, pad_id, tokens_of
from scipy.special import softmax

from textlora import bases, budget, cli, predict, runs, shares
from textlora import model as models
from textlora.errors import DataError, UsageError
from textlora.train import train

LABELS = ("a", "b", "c")


# --------------------------------------------------------------------------------------------------------- what is told


def test_equal_and_shares_by_name():
    assert shares.known("equal", LABELS).tolist() == [1 / 3] * 3
    assert shares.known('{"b": 0.5, "a": 0.3, "c": 0.2}', LABELS) == pytest.approx([0.3, 0.5, 0.2])
    rounded = shares.known('{"a": 0.333, "b": 0.333, "c": 0.333}', LABELS)
    assert rounded.sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ("balanced", "got 'balanced'"),
        ("[0.5, 0.5]", "a share above 0 for each label"),
        ('{"a": 0.5, "b": 0.5}', "no share for c"),
        ('{"a": 0.5, "b": 0.3, "C": 0.2}', "'C', which is no label"),
        ('{"a": 0.5, "b": 0.5, "c": 0.5}', "sum up to 1.5"),
        ('{"a": 1.0, "b": 0.0, "c": 0.0}', "above 0"),
        ('{"a": NaN, "b": 0.5, "c": 0.5}', "above 0"),
        ('{"a": true, "b": 0.0, "c": 0.0}', "above 0"),
    ],
)
def test_what_is_no_share_is_refused(told, said):
    with pytest.raises(UsageError, match=said):
        shares.known(told, LABELS)


# ---------------------------------------------------------------------------------------------------------- the offsets


@given(seed=st.integers(0, 999), labels=st.integers(2, 8), sharp=st.sampled_from([0.1, 1.0, 5.0]))
def test_the_moved_probabilities_have_the_shares(seed, labels, sharp):
    rng = np.random.default_rng(seed)
    logits = sharp * rng.normal(size=(500, labels))
    wanted = rng.dirichlet([5.0] * labels)
    moved = shares.offsets(logits, wanted)
    assert moved.sum() == pytest.approx(0, abs=1e-9)
    assert softmax(logits + moved, axis=1).mean(0) == pytest.approx(wanted, abs=1e-5)


def test_shares_that_are_there_move_nothing():
    logits = np.random.default_rng(0).normal(size=(300, 4))
    assert shares.offsets(logits, softmax(logits, axis=1).mean(0)) == pytest.approx(np.zeros(4), abs=1e-6)


def test_labels_that_lean_are_put_right():
    """A fifth of each other label's rows is given label 0: offsets from the true shares bring most of them back."""
    rng = np.random.default_rng(1)
    true = rng.integers(0, 3, 4_000)
    evidence = 2.0 * np.eye(3)[true] + rng.normal(size=(4_000, 3))
    leaning = evidence + np.array([1.5, 0, 0])
    moved = leaning + shares.offsets(leaning, np.full(3, 1 / 3))
    before, after, best = ((each.argmax(1) == true).mean() for each in (leaning, moved, evidence))
    assert before < best - 0.03
    assert after > best - 0.005


def test_a_label_that_is_never_likely_keeps_it_finite():
    logits = np.zeros((200, 3)) - [0, 0, 1e4]
    assert np.abs(shares.offsets(logits, np.full(3, 1 / 3))).max() < 2 * shares.LARGEST


def test_too_few_texts_are_refused():
    with pytest.raises(DataError, match="100 texts or more, these are 99"):
        shares.offsets(np.zeros((99, 2)), np.array([0.5, 0.5]))


# ---------------------------------------------------------------------------------------------------------- the folding


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("head", ["linear", "low-rank", "full"])
def test_the_head_gives_the_moved_logits(family, head, tiny_config, tmp_path):
    own = tiny_config(family, head=head, pooling="cls" if head == "full" else "mean")
    base = bases.find(own.base)
    plan = budget.plan(own, bases.shapes(base, own.base_weights), len(LABELS), base.hub_id)
    network, _ = models.build(own, plan, LABELS, torch.float32)
    tokens, moved = tokens_of(np.random.default_rng(0), [3, 9, 14, 30]), np.array([1.0, -2.0, 0.5])
    before = predict.logits(network, tokens, pad_id(network))
    models.shift_head(network, moved)
    np.testing.assert_allclose(predict.logits(network, tokens, pad_id(network)), before + moved, rtol=1e-5, atol=1e-5)
    assert_planned_is_built(plan, network)
    assert_built_is_saved(plan, network, tmp_path)


# ---------------------------------------------------------------------------------------------------------------- a run


TOLD = '{"World": 0.1, "Sports": 0.2, "Business": 0.3, "Sci/Tech": 0.4}'


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """A folder of mini-news, 120 rows to train on and 200 for validation."""
    folder = tmp_path_factory.mktemp("rows")
    for name, source in {"train": "validation", "validation": "test"}.items():
        (folder / f"{name}.csv").write_text((CORPUS / f"{source}.csv").read_text(encoding="utf-8"), encoding="utf-8")
    return str(folder)


@pytest.mark.slow
def test_a_run_has_the_shares_and_nothing_more(rows, trained, tiny_base):
    with_them, without = (trained(data=rows, **settings) for settings in ({"label_shares": TOLD}, {}))
    loading = {"base_weights": str(tiny_base("bert")), "precise": True}
    with (CORPUS / "test.csv").open(newline="", encoding="utf-8") as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    after, before = (predict.load(run, **loading).predict_logits(texts) for run in (with_them, without))
    wanted = [json.loads(TOLD)[label] for label in predict.load(with_them, **loading).labels]
    assert softmax(after.astype(float), axis=1).mean(0) == pytest.approx(wanted, abs=1e-3)
    moved = after - before
    np.testing.assert_allclose(moved, np.broadcast_to(moved[0], moved.shape), atol=1e-4)  # offsets, nothing else
    told, plain = (json.loads((run / "summary.json").read_text()) for run in (with_them, without))
    assert told["trainable_parameters"] == plain["trainable_parameters"]
    assert "shares were told" in told["verdict"][0]
    assert "shares were told" not in plain["verdict"][0]
    assert runs.label_shares(with_them) == pytest.approx(wanted)  # what --label-shift starts from


def test_what_can_t_be_done_is_refused_before_training(rows, tiny_config, tmp_path):
    with pytest.raises(UsageError, match="'Wrld', which is no label"):
        train(tiny_config(data=rows, label_shares=TOLD.replace("World", "Wrld")), out=tmp_path / "run")
    few = str(Path(rows, "train.csv"))
    with pytest.raises(DataError, match="100 texts or more, these are 12"):
        train(tiny_config(data=few, label_shares="equal"), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_suspects_know_of_the_shares(tmp_path, tiny_base, capsys):
    """Half of the Sports rows are given World: told that labels are alike, more of them come first."""
    with (CORPUS / "train.csv").open(newline="", encoding="utf-8") as file:
        read = [row for row in csv.DictReader(file) if row["label"] in ("World", "Sports")]
    gold = [row["label"] for row in read]
    given = ["World" if label == "Sports" and number % 2 else label for number, label in enumerate(gold)]
    path = tmp_path / "rows.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *((r["text"], g) for r, g in zip(read, given, strict=True))])
    weights = ["--base-weights", str(tiny_base("bert")), "--json"]
    wrong = []
    for flags in ([], ["--label-shares", "equal"]):
        assert cli.main(["data", "suspects", str(path), *weights, *flags]) == 0
        found = json.loads(capsys.readouterr().out)["suspects"]
        wrong.append(sum(gold[one["row"]] != one["given"] for one in found))
    assert wrong[1] > 1.5 * wrong[0]
    assert cli.main(["data", "check", str(path), "--label-shares", "equal"]) == 2
