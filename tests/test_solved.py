"""A head that is solved for: rows left out in turn, and what they let a bag of tokens say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from conftest import few
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from textlora import adapter, bag, solved
from textlora.fitting import CHOOSING
from textlora.prepare import prepare
from textlora.train import train


def quiet(_: str) -> None:
    pass


def rows_of(seed: int, each: int = 12, labels: int = 4) -> tuple[np.ndarray, csr_matrix, np.ndarray]:
    """Vectors and tokens that tell nothing, and labels."""
    rng = np.random.default_rng(seed)
    ids = np.repeat(np.arange(labels), each)
    return rng.normal(size=(len(ids), 16)), csr_matrix(rng.poisson(0.2, (len(ids), 40)) / 4.0), ids


def ratio(shares: tuple[float, float]) -> float:
    return shares[1] / shares[0]


def telling(tokens: csr_matrix, ids: np.ndarray) -> csr_matrix:
    """The same, and one token a label that only its rows have."""
    return csr_matrix(np.hstack([tokens.toarray(), np.eye(int(ids.max()) + 1)[ids] / 2]))


@given(st.lists(st.integers(4, 9), min_size=2, max_size=5), st.randoms(use_true_random=False))
def test_each_row_is_left_out_once_and_every_label_learned_from(counts, random):
    labels = np.repeat(np.arange(len(counts)), counts)
    random.shuffle(labels)
    parts = list(solved.folds(labels))
    assert sorted(np.concatenate([held for _, held in parts]).tolist()) == list(range(len(labels)))
    for rest, held in parts:
        assert not np.intersect1d(rest, held).size
        assert set(labels[rest]) == set(labels)


def test_of_three_rows_none_is_left_out_and_a_bag_says_nothing():
    vectors, tokens, ids = rows_of(0, each=3)
    assert list(solved.folds(ids)) == []
    assert solved.shares(vectors, telling(tokens, ids), ids, 4) == (1, 0)


@given(st.integers(0, 200))
def test_a_bag_that_tells_more_may_say_more(seed):
    vectors, tokens, ids = rows_of(seed)
    plain, more = (ratio(solved.shares(vectors, t, ids, 4)) for t in (tokens, telling(tokens, ids)))
    assert 0 <= plain < more


def test_beside_vectors_that_tell_all_chance_says_little():
    rng = np.random.default_rng(1)
    ids = np.repeat(np.arange(4), 12)
    vectors = np.eye(4)[ids] + 0.02 * rng.normal(size=(48, 4))
    found = [solved.shares(vectors, rows_of(seed)[1], ids, 4) for seed in range(10)]
    assert np.mean([ratio(one) for one in found]) < 0.2
    assert {head for head, _ in found} == {1.0}  # surer than it is fitted to be none is made


@given(st.integers(0, 50))
def test_a_head_that_rows_left_out_find_too_sure_is_made_less_so(seed):
    vectors, tokens, ids = rows_of(seed)
    head, _ = solved.shares(vectors, tokens, ids, 4)
    assert head < 0.5  # these vectors tell nothing


def test_class_weights_and_a_label_without_rows_are_taken():
    vectors, tokens, ids = rows_of(2, labels=3)
    weights = {0: 0.5, 1: 1.0, 2: 1.5, 3: 1.0}
    assert ratio(solved.shares(vectors, telling(tokens, ids), ids, 4, weights)) > 0


def test_few_rows_have_a_bag_of_the_share_that_rows_left_out_gave(tiny_config, tmp_path):
    config = tiny_config("bert", loss="contrastive", bag_of_tokens=True, refit=True)
    said: list[str] = []
    prepared = prepare(config.checked(), said.append, few(20))
    assert prepared.shares is not None
    assert 0 < prepared.shares.head <= 1
    assert prepared.shares.bag > 0
    assert any(f"{prepared.shares.bag / prepared.shares.head:.2f} of the head's weight" in line for line in said)
    run = train(config, rows=few(20), out=tmp_path / "run", say=said.append)
    assert not any("on validation" in line for line in said if "blended" in line)
    train_rows, held = prepared.train, prepared.validation
    rows = [bag.features(t.ids, t.offsets, 400).toarray() for t in (train_rows, held)]
    labels = np.concatenate([prepared.data.train.labels, prepared.data.validation.labels])
    expected = prepared.shares.bag * bag.fit_tokens(csr_matrix(np.vstack(rows)), labels, 4)
    saved = adapter.read_weights(run.adapter)["base_model.model.bag_of_tokens.weight"]
    assert saved == pytest.approx(expected, abs=1e-3)


def test_validation_rows_tell_where_there_are_enough_of_them(tiny_config):
    rows = few(60)
    many = replace(rows, train=few(10).train, validation=rows.train)
    assert len(many.validation) > CHOOSING
    assert prepare(tiny_config("bert", loss="contrastive", bag_of_tokens=True).checked(), quiet, many).shares is None


@pytest.mark.parametrize(
    ("changes", "each"), [({"bag_of_tokens": False}, 6), ({"loss": "cross-entropy"}, 6), ({}, 120)]
)
def test_otherwise_validation_rows_tell(tiny_config, changes, each):
    config = tiny_config("bert", **{"loss": "contrastive", "bag_of_tokens": True, **changes})
    assert prepare(config.checked(), quiet, few(each)).shares is None
