"""A memory of training texts: counted, empty until filled, then attention over the texts by their signs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import FAMILIES
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import assert_built_is_saved, assert_planned_is_built, assert_same_logits, tokens_of
from safetensors.torch import save_file
from scipy.special import softmax

from textlora import adapter, bases, budget, engine, predict, tables
from textlora import config as configs
from textlora import model as models
from textlora.blend import Shares, blend, put
from textlora.counts import memory_parameters, memory_rows, memory_words
from textlora.errors import BudgetError, DamagedError, UsageError
from textlora.fitting import for_rows
from textlora.inspect import inspect_adapter
from textlora.memory import DOUBT, Memory
from textlora.prepare import prepare

LABELS = ("a", "b", "c")


def built(config, labels=LABELS, dtype=torch.float32):
    base = bases.find(config.base)
    plan = budget.plan(config, bases.shapes(base, config.base_weights), len(labels), base.hub_id)
    return plan, models.build(config, plan, labels, dtype)[0]


def filled(network, rng, rows=40):
    """The texts of random tokens that `network` now remembers, and their labels."""
    tokens, labels = tokens_of(rng, rng.integers(3, 30, rows).tolist()), rng.integers(0, 3, rows)
    put(network, tokens, labels, network.config.pad_token_id, Shares(0.7, memory=0.4, sharpness=20.0))
    return tokens, labels


# ----------------------------------------------------------------------------------------------------------- the module


@settings(deadline=None)
@given(st.integers(1, 70), st.integers(1, 12), st.integers(2, 5), st.integers(0, 2**32 - 1))
def test_it_is_attention_over_the_signs_of_what_it_kept(width, rows, num_labels, seed):
    rng = np.random.default_rng(seed)
    kept, asked = rng.normal(size=(rows, width)).astype(np.float32), rng.normal(size=(3, width)).astype(np.float32)
    labels = rng.integers(0, num_labels, rows)
    memory = Memory(rows, width, num_labels)
    memory.keep(kept, labels)
    memory.weigh(7.0, 0.3)

    mean = kept.mean(0)
    signs = np.where(kept > mean, 1.0, -1.0)
    query = (asked - mean) / np.linalg.norm(asked - mean, axis=1, keepdims=True)
    found = softmax(7 * query @ signs.T / np.sqrt(width), axis=1) @ np.eye(num_labels)[labels]
    expected = 0.3 * np.log((1 - DOUBT) * found + DOUBT / num_labels)
    np.testing.assert_allclose(memory.says(asked), expected, atol=1e-4)


def test_a_text_that_it_knows_gets_its_label_at_a_high_sharpness():
    rng = np.random.default_rng(0)
    vectors, labels = rng.normal(size=(200, 64)).astype(np.float32), rng.integers(0, 4, 200)
    memory = Memory(200, 64, 4)
    memory.keep(vectors, labels)
    memory.weigh(100.0, 1.0)
    assert (memory.says(vectors).argmax(1) == labels).all()


def test_of_more_texts_than_it_holds_some_are_drawn_and_of_fewer_it_is_refused():
    rng = np.random.default_rng(0)
    vectors, labels = rng.normal(size=(300, 40)).astype(np.float32), np.repeat([0, 1, 2], 100)
    memory = Memory(90, 40, 3)
    memory.keep(vectors, labels)
    assert int(memory.counts.sum()) == 90
    assert memory.counts.min() > 15  # a lot, not the first ones
    with pytest.raises(ValueError, match="10 texts for a memory of 90"):
        memory.keep(vectors[:10], labels[:10])


def test_what_was_kept_last_counts():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 30, 40)).astype(np.float32)
    labels, fresh, memory = rng.integers(0, 3, 30), Memory(30, 40, 3), Memory(30, 40, 3)
    assert memory.is_empty
    memory.keep(other, labels[::-1].copy())
    memory.says(one)  # unpacks
    for one_of in (memory, fresh):
        one_of.keep(one, labels)
        one_of.weigh(20.0, 1.0)
    np.testing.assert_array_equal(memory.says(other), fresh.says(other))


@given(st.integers(1, 4096), st.integers(0, 10**6), st.integers(2, 30))
def test_as_many_rows_as_there_is_room_for(width, room, num_labels):
    shapes = bases.find("minilm").shapes.__class__(**{**vars(bases.find("minilm").shapes), "hidden_size": width})
    rows = memory_rows(shapes, room, num_labels)
    assert memory_parameters(shapes, rows, num_labels) <= room
    assert memory_parameters(shapes, rows + 1, num_labels) > room
    assert 32 * memory_words(width) >= width


# ------------------------------------------------------------------------------------------------- inside an adapter


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("head", ["linear", "low-rank"])
def test_planned_is_built_is_saved(family, head, tiny_config, tmp_path):
    plan, network = built(tiny_config(family, head=head, memory=50, bag_of_tokens=True))
    assert plan.memory_rows == 50
    assert_planned_is_built(plan, network)
    filled(network, np.random.default_rng(0), 60)
    assert_built_is_saved(plan, network, tmp_path)


def test_before_it_is_filled_it_says_nothing(tiny_config):
    tokens = tokens_of(np.random.default_rng(0), [3, 9, 14, 30])
    (_, without), (_, network) = (built(tiny_config(memory=rows)) for rows in (0, 50))
    assert_same_logits(without, network, tokens)


@pytest.mark.parametrize("family", FAMILIES)
def test_blended_logits_are_the_shares_of_both(family, tiny_config):
    rng = np.random.default_rng(1)
    asked = tokens_of(rng, [3, 9, 14, 30, 30, 31])
    _, network = built(tiny_config(family, memory=40))
    pad = network.config.pad_token_id
    before = predict.logits(network, asked, pad)
    filled(network, rng)
    with models.unread(network):
        vectors = predict.logits(network, asked, pad)
    expected = 0.7 * before + models.memory_of(network).says(vectors)
    assert np.abs(expected - 0.7 * before).max() > 0.01
    np.testing.assert_allclose(predict.logits(network, asked, pad), expected, atol=1e-4)
    one_by_one = np.concatenate([predict.logits(network, asked.take([i]), pad) for i in range(len(asked))])
    np.testing.assert_allclose(one_by_one, expected, atol=1e-4)  # padding and company change nothing


@pytest.mark.parametrize("family", FAMILIES)
def test_its_vectors_are_the_mean_of_what_enters_the_first_layer(family, tiny_config):
    _, network = built(tiny_config(family, memory=40))
    tokens = tokens_of(np.random.default_rng(2), [12])
    ids = torch.from_numpy(tokens.ids.astype(np.int64))[None]
    inner = network.base_model.model
    with models.unread(network):
        vectors = predict.logits(network, tokens, network.config.pad_token_id)
    with torch.inference_mode():
        first = inner.embeddings(input_ids=ids)
    np.testing.assert_allclose(vectors, first.mean(1).numpy(), atol=1e-5)
    assert predict.logits(network, tokens, 0).shape == (1, 3)  # as it was before


def test_merged_and_engine_give_the_same_logits(tiny_config):
    rng = np.random.default_rng(3)
    asked = tokens_of(rng, [5, 17, 40])
    _, network = built(tiny_config(memory=40, bag_of_tokens=True))
    filled(network, rng)
    plain = predict.logits(network, asked, 0)
    engine.swap_in(network)
    np.testing.assert_allclose(predict.logits(network, asked, 0), plain, atol=2e-2)
    merged = models.merged(network, torch.float32)
    np.testing.assert_allclose(predict.logits(merged, asked, 0), plain, atol=2e-2)


def test_it_lifts_a_head_that_knows_nothing_and_windows_are_remembered_apart(tiny_config):
    rng = np.random.default_rng(2)
    stories, labels = tokens_of(rng, [20] * 30), rng.integers(0, 3, 30)
    story_of = rng.integers(0, 30, 300)
    texts = stories.take(story_of)
    ids = texts.ids.copy()
    ids[rng.random(len(ids)) < 0.3] = 7
    texts = type(texts)(ids, texts.offsets, np.arange(300), texts.cut)
    train, held, labels = texts.take(range(200)), texts.take(range(200, 300)), labels[story_of]
    _, network = built(tiny_config(memory=150))
    shares, line = blend(network, train, labels[:200], held, labels[200:], 0)
    assert (predict.logits(network, held, 0).argmax(1) == labels[200:]).mean() > 0.9
    assert shares.memory > 0.3
    assert line.startswith("memory 0.9") or line.startswith("memory 1.0")

    pairs = type(texts)(train.ids, train.offsets, np.repeat(np.arange(100), 2), train.cut)  # two windows a text
    put(network, pairs, labels[:100], 0, shares)
    assert int(models.memory_of(network).counts.sum()) == 150


def test_labels_that_count_more_are_told_so_in_the_heads_bias(tiny_config):
    rng, asked = np.random.default_rng(4), tokens_of(np.random.default_rng(5), [9, 12])
    tokens, labels = tokens_of(rng, [8] * 50), rng.integers(0, 3, 50)
    found = []
    for class_weight in (None, {0: 1.0, 1: 1.0, 2: 4.0}):
        _, network = built(tiny_config(memory=50))
        put(network, tokens, labels, 0, Shares(memory=0.5, sharpness=20.0), class_weight)
        found.append(predict.logits(network, asked, 0))
    np.testing.assert_allclose(found[1] - found[0], [[0, 0, 0.5 * np.log(4)]] * 2, atol=1e-5)


@pytest.mark.slow
def test_a_run_saves_it_reloads_it_and_counts_it(trained):
    run = trained("bert", memory=150)
    plan = json.loads((run / "plan.json").read_text())
    told = json.loads((run / "adapter" / "textlora.json").read_text())
    tensors = adapter.read_weights(run / "adapter")
    kept = {name: t for name, t in tensors.items() if ".memory." in name}
    assert (plan["memory_rows"], told["memory"]) == (150, 150)
    assert plan["memory"] == sum(t.numel() for t in kept.values())
    assert kept["base_model.model.memory.codes"].dtype == torch.int32
    assert kept["base_model.model.memory.counts"].sum() == 150
    assert inspect_adapter(run)["memory"] == plan["memory"]
    assert "It remembers 150 training texts" in (run / "adapter" / "README.md").read_text()
    assert f"memory    {plan['memory']:>12,}" in tables.plan_table(plan)


@pytest.mark.slow
@pytest.mark.parametrize("spoil", ["settings", "counts", "negative", "codes"])
def test_a_memory_that_is_not_what_it_says_is_damaged(spoil, trained, tmp_path):
    folder = Path(shutil.copytree(trained("bert", memory=150) / "adapter", tmp_path / "adapter"))
    told, tensors = json.loads((folder / "textlora.json").read_text()), adapter.read_weights(folder)
    codes, counts = (tensors[f"base_model.model.memory.{name}"] for name in ("codes", "counts"))
    if spoil == "settings":
        (folder / "textlora.json").write_text(json.dumps(told | {"memory": 10**12}))
    if spoil == "counts":
        counts[0] += 1
    if spoil == "negative":
        counts[:2] += torch.tensor([1000, -1000], dtype=torch.int32)
    if spoil == "codes":
        tensors["base_model.model.memory.codes"] = codes[1:].clone()
    save_file(tensors, folder / adapter.WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(DamagedError, match="remembered texts by its settings"):
        models.load(folder, dtype=torch.float32)


# ----------------------------------------------------------------------------------------------------------- the plan


def test_left_to_the_data_it_gets_what_the_budget_leaves():
    shapes, config = bases.find("minilm").shapes, configs.load("minilm-fast")
    plan = budget.plan(for_rows(config, 20_000), shapes, 4, "b")
    assert plan.bag_of_tokens == 30522 * 4
    assert 0 <= config.budget - plan.trainable < 12
    assert plan.memory_rows == 17_702
    assert budget.plan(for_rows(config, 12_345), shapes, 4, "b").memory_rows == 12_345
    assert budget.plan(for_rows(config, 9_999), shapes, 4, "b").memory == 0  # not measured on few rows
    other = for_rows(configs.load("minilm-fast", {"base": "roberta", "lora_r": 2}), 20_000)
    assert other.memory == 0  # nor on another base
    crowded = for_rows(configs.load("minilm-fast", {"lora_r": 21}), 20_000)
    assert budget.plan(crowded, shapes, 4, "b").memory == 0  # room for a few hundred isn't worth it


def test_named_it_is_kept_or_refused():
    shapes = bases.find("minilm").shapes
    config = configs.load("minilm-fast", {"memory": 30_000})
    with pytest.raises(BudgetError, match="the largest rank that fits is 15"):
        budget.plan(config, shapes, 4, "b")
    assert budget.plan(configs.load("minilm-fast", {"memory": 5_000}), shapes, 4, "b").memory_rows == 5_000
    assert for_rows(config, 100).memory == 30_000


def test_more_texts_than_training_rows_are_refused_before_anything_is_trained(tiny_config):
    with pytest.raises(UsageError, match="a memory of 5,000 texts is more than the"):
        prepare(tiny_config(memory=5_000), lambda line: None)
    with pytest.raises(UsageError, match="memory"):
        configs.load("minilm-fast", {"memory": -1})


def test_the_bases_own_head_takes_none():
    with pytest.raises(UsageError, match="a memory goes with head linear or low-rank"):
        configs.load("minilm-fast", {"head": "full", "pooling": "cls", "memory": 100})
    left_to_the_data = configs.load("minilm-fast", {"head": "full", "pooling": "cls"})
    assert budget.plan(left_to_the_data, bases.find("minilm").shapes, 4, "b").memory == 0
