"""A bag of tokens inside the adapter: counted, silent until fitted, and then exactly what was blended in."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import FAMILIES
from laws import assert_built_is_saved, assert_planned_is_built, assert_same_logits, tokens_of

from textlora import adapter, bag, bases, budget, predict
from textlora import config as configs
from textlora import model as models
from textlora.blend import blend
from textlora.errors import BudgetError, UsageError

LABELS = ("a", "b", "c")


def built(config, labels=LABELS, dtype=torch.float32):
    base = bases.find(config.base)
    plan = budget.plan(config, bases.shapes(base, config.base_weights), len(labels), base.hub_id)
    return plan, models.build(config, plan, labels, dtype)[0]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("head", ["linear", "low-rank"])
def test_planned_is_built_is_saved(family, head, tiny_config, tmp_path):
    plan, network = built(tiny_config(family, head=head, bag_of_tokens=True))
    assert plan.bag_of_tokens == 400 * 3
    assert_planned_is_built(plan, network)
    assert_built_is_saved(plan, network, tmp_path)


@pytest.mark.parametrize("head", ["linear", "low-rank"])
def test_before_it_is_fitted_it_says_nothing_and_gets_no_gradient(head, tiny_config):
    tokens = tokens_of(np.random.default_rng(0), [3, 9, 14, 30])
    (_, without), (_, network) = (built(tiny_config(head=head, bag_of_tokens=on)) for on in (False, True))
    assert_same_logits(without, network, tokens)
    ids = torch.from_numpy(tokens[1].astype(np.int64))[None]
    network(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.square().sum().backward()
    assert not any(p.requires_grad for name, p in network.named_parameters() if "bag_of_tokens" in name)


@pytest.mark.parametrize("head", ["linear", "low-rank"])
@pytest.mark.parametrize("family", FAMILIES)
def test_blended_logits_are_the_shares_of_both(family, head, tiny_config):
    rng = np.random.default_rng(1)
    tokens = tokens_of(rng, [3, 9, 14, 30, 30, 31])
    _, network = built(tiny_config(family, head=head, bag_of_tokens=True))
    pad = network.config.pad_token_id
    before = predict.logits(network, tokens, pad)
    weights = rng.normal(size=(400, 3)).astype(np.float32)
    models.scale_head(network, 0.7)
    models.set_bag(network, 0.4 * weights)
    expected = 0.7 * before + 0.4 * (bag.features(tokens.ids, tokens.offsets, 400) @ weights)
    np.testing.assert_allclose(predict.logits(network, tokens, pad), expected, atol=1e-4)
    one_by_one = np.concatenate([predict.logits(network, tokens.take([i]), pad) for i in range(len(tokens))])
    np.testing.assert_allclose(one_by_one, expected, atol=1e-4)  # padding and company change nothing


def test_it_is_fitted_on_training_rows_and_lifts_a_head_that_knows_nothing(tiny_config):
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 3, 300)
    tokens = tokens_of(rng, [12] * 300)
    ids = tokens.ids.reshape(300, 12).copy()
    ids[:, 4] = 91 + labels  # the one token that tells
    tokens = replace(tokens, ids=ids.ravel())
    train, held = tokens.take(range(200)), tokens.take(range(200, 300))
    _, network = built(tiny_config(bag_of_tokens=True))
    _, line = blend(network, train, labels[:200], held, labels[200:], 0)
    assert (predict.logits(network, held, 0).argmax(1) == labels[200:]).mean() > 0.95
    assert line.startswith("bag of tokens 1.0000 by itself")


@pytest.mark.slow
def test_a_run_saves_it_reloads_it_and_counts_it(trained):
    run = trained("bert", bag_of_tokens=True)
    plan = json.loads((run / "plan.json").read_text())
    settings = json.loads((run / "adapter" / "textlora.json").read_text())
    assert plan["bag_of_tokens"] == 400 * 4
    assert settings["bag_of_tokens"] is True
    weights = adapter.read_weights(run / "adapter")["base_model.model.bag_of_tokens.weight"]
    assert weights.shape == (400, 4)
    assert weights.any()


def test_listed_in_auto_it_is_left_out_where_it_does_not_fit():
    shapes = bases.find("minilm").shapes
    config = configs.load("minilm-fast")
    assert budget.plan(config, shapes, 4, "b").bag_of_tokens == 30522 * 4
    assert budget.plan(config, shapes, 23, "b").bag_of_tokens == 0
    asked = configs.load("minilm-fast", {"bag_of_tokens": True})
    with pytest.raises(BudgetError, match="the largest rank that fits is 6"):
        budget.plan(asked, shapes, 23, "b")


def test_the_bases_own_head_takes_none():
    with pytest.raises(UsageError, match="bag of tokens goes with head linear or low-rank"):
        configs.load("minilm-fast", {"head": "full", "pooling": "cls", "bag_of_tokens": True})
    left_to_the_data = configs.load("minilm-fast", {"head": "full", "pooling": "cls"})
    assert budget.plan(left_to_the_data, bases.find("minilm").shapes, 4, "b").bag_of_tokens == 0
