"""Tokens: the tokenizer's own cut, every row in one batch of each epoch, and orders that repeat when they should.

B texts, T tokens.
"""

from __future__ import annotations

import itertools
import json
import shutil
from contextlib import suppress

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from laws import tokens_of

from textlora import tokens as tok
from textlora.errors import DamagedError, ResourceError, UsageError
from textlora.tokens import (
    Collator,
    EqualBatches,
    Rows,
    SortedSteps,
    TokenBatches,
    Tokens,
    cut_by_tokens,
    sorted_batches,
    tokenize,
    widths,
)

rows_of = st.lists(st.integers(1, 64), min_size=1, max_size=80).map(np.array)  # lengths of texts: (B,)
budgets = st.integers(1, 600)
roomy = st.integers(128, 600)  # two of the longest texts fit: batches can be halved for any number of processes
seeds = st.integers(0, 2**32 - 1)
FAMILIES = ("bert", "roberta")


def batches_of(sampler: TokenBatches, epoch: int = 0) -> list[list[int]]:
    sampler.set_epoch(epoch)
    return list(sampler)


def flat(batches) -> list[int]:
    return [int(row) for batch in batches for row in batch]


@pytest.fixture(scope="module")
def tokenizer_of(tiny_base):
    return {family: tok.load_tokenizer(tiny_base(family)) for family in FAMILIES}


# ------------------------------------------------------------------------------------------------------------- batches


@given(rows_of, roomy, seeds, st.integers(0, 5), st.integers(1, 4))
def test_each_epoch_takes_every_row_exactly_once(lengths, budget, seed, epoch, world):
    world = min(world, len(lengths))
    batches = batches_of(TokenBatches(lengths, budget, seed, world), epoch)
    assert sorted(flat(batches)) == list(range(len(lengths)))
    assert all(batches)


@given(rows_of, roomy, seeds, st.integers(1, 4))
def test_every_epoch_has_the_same_number_of_batches_a_multiple_of_the_processes(lengths, budget, seed, world):
    world = min(world, len(lengths))
    sampler = TokenBatches(lengths, budget, seed, world)
    assert {len(batches_of(sampler, epoch)) for epoch in range(4)} == {len(sampler)}
    assert len(sampler) % world == 0


@given(rows_of, budgets, seeds, st.integers(0, 3))
def test_a_batch_keeps_to_the_budget(lengths, budget, seed, epoch):
    for batch in batches_of(TokenBatches(lengths, budget, seed), epoch):
        assert len(batch) == 1 or len(batch) * max(widths(lengths[batch])) <= budget


@given(rows_of, budgets, seeds)
def test_every_epoch_has_the_same_shapes(lengths, budget, seed):
    sampler = TokenBatches(lengths, budget, seed)
    shapes = [sorted((len(b), max(widths(lengths[b]))) for b in batches_of(sampler, epoch)) for epoch in range(3)]
    assert shapes[0] == shapes[1] == shapes[2]


def test_an_epoch_has_hardly_more_shapes_than_widths():
    lengths = np.random.default_rng(0).gamma(6, 9, 20_000).astype(int).clip(8, 128)
    shapes = {(len(b), max(widths(lengths[b]))) for b in batches_of(TokenBatches(lengths, 2048, 0))}
    assert len(shapes) <= len(set(widths(lengths).tolist())) + 1


@given(rows_of, budgets, seeds, st.integers(0, 3))
@example(np.array([1, 1, 49, 50, 50, 1, 50, 54]), 156, 0, 2)  # batches of 50, 50, 50 and of 49, 54
def test_the_texts_of_a_batch_are_of_similar_length(lengths, budget, seed, epoch):
    """Batches follow each other in width: none starts narrower than the one before it ends."""
    each = [widths(lengths[batch]) for batch in batches_of(TokenBatches(lengths, budget, seed), epoch)]
    spans = sorted((min(own), max(own)) for own in each)
    for (_, widest), (narrowest, _) in itertools.pairwise(spans):
        assert widest <= narrowest


@given(rows_of, budgets, seeds, st.integers(0, 1000))
def test_an_order_depends_on_seed_and_epoch_alone(lengths, budget, seed, epoch):
    first, second = TokenBatches(lengths, budget, seed), TokenBatches(lengths, budget, seed)
    for earlier in range(3):
        batches_of(second, earlier)  # another history
    assert batches_of(first, epoch) == batches_of(second, epoch)


def test_another_epoch_and_another_seed_have_another_order():
    lengths = np.arange(200) % 50 + 1
    orders = [batches_of(TokenBatches(lengths, 256, seed), epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert all(a != b for i, a in enumerate(orders) for b in orders[:i])


def test_the_order_of_batches_does_not_follow_their_length():
    lengths = np.arange(1, 1001) % 64 + 1
    firsts = [int(lengths[batch[0]]) for batch in batches_of(TokenBatches(lengths, 256, 0))]
    assert abs(np.corrcoef(np.arange(len(firsts)), firsts)[0, 1]) < 0.25


@given(rows_of, budgets, seeds, st.integers(0, 3))
def test_equal_batches_are_as_many_texts_each_to_one(lengths, budget, seed, epoch):
    sampler = EqualBatches(lengths, budget, seed)
    batches = batches_of(sampler, epoch)
    assert sorted(flat(batches)) == list(range(len(lengths)))
    assert max(map(len, batches)) - min(map(len, batches)) <= 1
    assert len(batches) == len(sampler) == min(len(lengths), -(-int(lengths.sum()) // budget))


@given(rows_of, roomy, seeds, st.integers(2, 4))
def test_equal_batches_too_are_a_multiple_of_the_processes(lengths, budget, seed, world):
    world = min(world, len(lengths))
    batches = batches_of(EqualBatches(lengths, budget, seed, world))
    assert sorted(flat(batches)) == list(range(len(lengths)))
    assert len(batches) % world == 0


def test_more_processes_than_rows_is_a_clear_refusal():
    with pytest.raises(UsageError, match="3 training rows can't feed 4 processes"):
        TokenBatches(np.array([1, 2, 3]), 100, 0, world_size=4)


@given(rows_of.map(np.sort), budgets)
def test_a_cut_keeps_to_the_budget_and_is_greedy(lengths, budget):
    ends = cut_by_tokens(lengths, budget)
    assert ends == sorted(set(ends))
    assert ends[-1] == len(lengths)
    wide = widths(lengths)
    for start, end in zip([0, *ends], ends, strict=False):
        count = end - start
        assert count * wide[end - 1] <= budget or count == 1
        if end < len(lengths):
            assert (count + 1) * wide[end] > budget  # one more would not have fitted


@given(rows_of, budgets)
def test_sorted_batches_cover_every_row_once_from_short_to_long(lengths, budget):
    order = flat(sorted_batches(lengths, budget))
    assert sorted(order) == list(range(len(lengths)))
    assert list(lengths[order]) == sorted(lengths)


def test_no_rows_are_no_batches():
    assert cut_by_tokens(np.zeros(0, np.int64), 10) == []
    assert list(sorted_batches(np.zeros(0, np.int64), 10)) == []


# ------------------------------------------------------------------------------------------------------------ tokenize


@pytest.mark.parametrize("family", FAMILIES)
@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=60), max_size=6), st.integers(4, 40))
def test_tokens_are_the_tokenizers_own_cut(tokenizer_of, family, batch, max_length):
    tokenizer = tokenizer_of[family]
    ours = tokenize(tokenizer, batch, max_length)
    assert len(ours) == len(batch)
    for row, text in enumerate(batch):
        expected = tokenizer(text, truncation=True, max_length=max_length)["input_ids"]
        assert ours[row].tolist() == expected
    full = [len(tokenizer(text)["input_ids"]) for text in batch]
    assert ours.cut.longer == sum(length > max_length for length in full)
    assert ours.lengths.tolist() == [min(length, max_length) for length in full]


def test_tokenizing_in_chunks_changes_nothing(tokenizer_of, texts, monkeypatch):
    tokenizer = tokenizer_of["bert"]
    whole = tokenize(tokenizer, texts, 24)
    monkeypatch.setattr(tok, "CHUNK", 7)
    parts = tokenize(tokenizer, texts, 24)
    np.testing.assert_array_equal(whole.ids, parts.ids)
    np.testing.assert_array_equal(whole.offsets, parts.offsets)
    assert whole.cut == parts.cut
    assert whole.cut.longer > 0


def test_tokenizing_leaves_the_tokenizer_as_it_was(tokenizer_of, texts):
    tokenizer = tokenizer_of["bert"]
    tokenizer(texts, truncation=True, max_length=8, padding=True)  # transformers sets both on the shared backend
    assert tokenize(tokenizer, texts, 500).lengths.max() > 8


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_and_truncation_saved_in_a_tokenizer_file_are_cleared(tiny_base, tokenizer_of, texts, tmp_path, family):
    """sentence-transformers' files carry both: every text would have 128 tokens, and none more."""
    folder = tmp_path / "tokenizer"
    shutil.copytree(tiny_base(family), folder)
    file = folder / "tokenizer.json"
    saved = json.loads(file.read_text(encoding="utf-8"))
    pad = {
        "strategy": {"Fixed": 20},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "[PAD]",
    }
    saved |= {
        "padding": pad,
        "truncation": {"direction": "Right", "max_length": 20, "strategy": "LongestFirst", "stride": 0},
    }
    file.write_text(json.dumps(saved), encoding="utf-8")
    loaded = tok.load_tokenizer(folder)
    assert loaded.backend_tokenizer.padding is loaded.backend_tokenizer.truncation is None  # nor saved with an adapter
    found = tokenize(loaded, [*texts[:20], "a"], 500)
    plain = tokenize(tokenizer_of[family], [*texts[:20], "a"], 500)
    np.testing.assert_array_equal(found.offsets, plain.offsets)
    np.testing.assert_array_equal(found.ids, plain.ids)
    assert found.lengths.max() > 20 > found.lengths.min()


def test_no_empty_tokenizer_is_made_of_a_config_alone(tmp_path):
    """transformers 5.23 makes a DeBERTa tokenizer of seven tokens of such a folder and says nothing."""
    (tmp_path / "config.json").write_text('{"model_type": "deberta-v2"}')
    (tmp_path / "tokenizer_config.json").write_text('{"vocab_type": "spm"}')
    with pytest.raises(UsageError, match="no tokenizer in"):
        tok.load_tokenizer(tmp_path)


def test_a_sentencepiece_model_without_its_package_is_a_clear_refusal(tmp_path, monkeypatch):
    monkeypatch.setattr(tok, "find_spec", lambda name: None)
    (tmp_path / "spm.model").write_bytes(b"a SentencePiece model")
    with pytest.raises(ResourceError, match=r"textlora\[sentencepiece\].*--tokenizer") as caught:
        tok.load_tokenizer(tmp_path)
    assert caught.value.code == 7


def test_a_folder_without_a_tokenizer_is_a_clear_refusal(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UsageError, match="there is no tokenizer in"):
            tok.load_tokenizer(folder)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"version": "1.0", "model": {"type": "Riddle"}}'])
def test_a_damaged_tokenizer_file_is_refused(tiny_base, tmp_path, content):
    folder = tmp_path / "tokenizer"
    shutil.copytree(tiny_base("bert"), folder)
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(DamagedError, match="can't be read"):
        tok.load_tokenizer(folder)


@pytest.mark.parametrize("content", ["{", "[]", '{"model": {"type": "Riddle"}}'])
def test_a_damaged_tokenizer_config_is_refused(tiny_base, tmp_path, content):
    folder = tmp_path / "tokenizer"
    shutil.copytree(tiny_base("bert"), folder)
    (folder / "tokenizer_config.json").write_text(content)
    with pytest.raises(DamagedError, match="can't be read"):
        tok.load_tokenizer(folder)


def test_a_tokenizer_that_names_code_of_its_own_is_not_run(tiny_base, tmp_path):
    folder = tmp_path / "tokenizer"
    shutil.copytree(tiny_base("bert"), folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config |= {"auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}, "tokenizer_class": "Evil"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    with suppress(DamagedError):
        tok.load_tokenizer(folder)
    assert not (tmp_path / "ran").exists()


# ------------------------------------------------------------------------------------------------- rows, take, collator


@given(rows_of, st.data())
def test_taking_rows_gives_them_in_that_order(lengths, data):
    whole = tokens_of(np.random.default_rng(0), lengths.tolist())
    rows = data.draw(st.lists(st.integers(0, len(lengths) - 1)))
    part = whole.take(rows)
    assert len(part) == len(rows)
    assert [part[i].tolist() for i in range(len(part))] == [whole[row].tolist() for row in rows]
    assert part.ids.dtype == whole.ids.dtype
    assert part.offsets.dtype == whole.offsets.dtype


def test_taking_nothing_is_empty():
    part = tokens_of(np.random.default_rng(0), [3, 4]).take([])
    assert (len(part), part.lengths.tolist()) == (0, [])


@given(rows_of.filter(lambda lengths: len(lengths) <= 20), st.integers(0, 3))
def test_a_padded_batch_holds_just_its_texts_under_its_mask(lengths, pad):
    tokens = tokens_of(np.random.default_rng(0), lengths.tolist())
    labels = np.arange(len(lengths)) % 4
    data = Rows(tokens, labels)
    assert len(data) == len(lengths)
    batch = Collator(pad)([data[i] for i in range(len(data))])
    shape = (len(lengths), max(widths(lengths)))
    assert batch["input_ids"].shape == batch["attention_mask"].shape == shape
    assert batch["labels"].tolist() == labels.tolist()
    assert batch["labels"].dtype == batch["input_ids"].dtype == torch.int64
    for row in range(len(lengths)):
        mask = batch["attention_mask"][row].bool()
        assert batch["input_ids"][row][mask].tolist() == tokens[row].tolist()
        assert mask.tolist() == [True] * lengths[row] + [False] * (shape[1] - lengths[row])
        assert set(batch["input_ids"][row][~mask].tolist()) <= {pad}


def test_rows_without_labels_make_a_batch_without_labels():
    tokens: Tokens = tokens_of(np.random.default_rng(0), [2, 3])
    assert set(Collator(0)([{"input_ids": tokens[i]} for i in range(2)])) == {"input_ids", "attention_mask"}


@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=90),
    batch_size=st.integers(1, 9),
    accumulated=st.integers(1, 5),
)
def test_sorted_steps_move_rows_within_their_step_only(lengths, batch_size, accumulated):
    order = np.random.default_rng(0).permutation(len(lengths)).tolist()
    batches = SortedSteps(order, np.array(lengths), batch_size, accumulated)
    found = list(batches)
    assert len(found) == len(batches) == -(-len(lengths) // batch_size)
    assert all(len(batch) == batch_size for batch in found[:-1])
    size = batch_size * accumulated
    for step in range(0, len(order), size):
        rows = list(itertools.chain(*found[step // batch_size : (step + size) // batch_size]))
        assert sorted(rows) == sorted(order[step : step + size])
        wide = widths(np.array(lengths))[rows]
        assert (np.diff(wide) >= 0).all()
