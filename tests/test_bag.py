"""The bag of tokens: what it counts, what it learns, how much it may say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix, diags

from textlora import bag

VOCAB = 12
RARER = np.arange(VOCAB - 1, 0, -1) / (VOCAB * (VOCAB - 1) / 2)  # the last token never occurs


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


# --------------------------------------------------------------------------------------------------------- few rows


def random_rows(seed: int, texts: int = 60) -> tuple[csr_matrix, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, texts)
    told = [[int(label), *rng.choice(VOCAB - 1, 5, p=RARER).tolist()] for label in labels]
    return bag.features(*flat(told), VOCAB), labels


def test_rarity_is_the_log_of_the_inverse_share_of_texts() -> None:
    rows, _ = random_rows(0)
    expected = 1 + np.log(61 / (1 + (rows.toarray() > 0).sum(0)))
    np.testing.assert_allclose(bag.rarity(rows), expected / expected.mean())


def test_rarity_goes_into_the_weights() -> None:
    rows, labels = random_rows(1)
    scaled = csr_matrix(rows @ diags(bag.rarity(rows)))
    expected = scaled @ bag.fit(scaled, labels, 3)
    np.testing.assert_allclose(rows @ bag.fit_tokens(rows, labels, 3), expected, atol=1e-5)


def test_of_many_rows_tokens_count_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, labels = random_rows(2)
    assert not np.allclose(bag.fit_tokens(rows, labels, 3), bag.fit(rows, labels, 3))
    monkeypatch.setattr(bag, "FEW", 60)
    np.testing.assert_array_equal(bag.fit_tokens(rows, labels, 3), bag.fit(rows, labels, 3))
