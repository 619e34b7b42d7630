"""The bag of tokens: what it counts, what it learns, how much it may say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from textlora import bag

VOCAB = 12


def flat(texts: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([token for text in texts for token in text], np.int32), np.cumsum([0, *map(len, texts)]).astype(
        np.int64
    )


@given(st.lists(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=20), min_size=1, max_size=8))
def test_a_row_is_its_counts_over_the_root_of_its_length(texts: list[list[int]]) -> None:
    found = bag.features(*flat(texts), VOCAB).toarray()
    for row, text in zip(found, texts, strict=True):
        np.testing.assert_allclose(row, np.bincount(text, minlength=VOCAB) / np.sqrt(len(text)))


def test_the_tokens_are_left_as_they_were() -> None:
    ids, offsets = flat([[7, 3, 7, 1], [2, 2]])
    bag.features(ids, offsets, VOCAB)
    assert ids.tolist() == [7, 3, 7, 1, 2, 2]


@given(st.permutations([3, 3, 5, 7, 7, 7, 11]))
def test_the_order_of_tokens_does_not_matter(text: list[int]) -> None:
    sorted_one, shuffled = (bag.features(*flat([t]), VOCAB).toarray() for t in (sorted(text), text))
    np.testing.assert_allclose(sorted_one, shuffled)


@pytest.mark.parametrize("num_labels", [2, 3])
def test_it_learns_which_token_means_which_label(num_labels: int) -> None:
    texts = [[label, 9, 10] for label in range(num_labels)] * 5
    labels = np.array(list(range(num_labels)) * 5)
    rows = bag.features(*flat(texts), VOCAB)
    weights = bag.fit(rows, labels, num_labels)
    assert weights.shape == (VOCAB, num_labels)
    assert ((rows @ weights).argmax(1) == labels).all()
    assert not weights[11].any()  # never seen


def test_a_label_without_training_rows_gets_no_say() -> None:
    rows = bag.features(*flat([[1], [2], [1], [2]]), VOCAB)
    assert not bag.fit(rows, np.array([0, 2, 0, 2]), 3)[:, 1].any()


def test_two_labels_give_the_probabilities_of_scikit_learn() -> None:
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    rows = bag.features(rng.integers(0, VOCAB, 400).astype(np.int32), np.arange(0, 401, 8), VOCAB)
    labels = (rows.toarray()[:, 3] > 0.2).astype(int)
    logits = rows @ bag.fit(rows, labels, 2)
    reference = LogisticRegression(C=bag.STRENGTH, fit_intercept=False, tol=1e-3, max_iter=300).fit(rows, labels)
    np.testing.assert_allclose(logits[:, 1] - logits[:, 0], reference.decision_function(rows), atol=1e-5)
