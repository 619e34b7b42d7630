"""Laws and bad input of baseline.py."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest

from textlora import baseline
from textlora.errors import DataError

AG_TRAIN = Path(__file__).parents[1].parent / "shared" / "data" / "ag_news" / "train.csv"
TEXTS = ["the cup final was won", "shares fell again", "a goal in the cup", "the bank cut its rate"]
LABELS = [0, 1, 0, 1]


def test_majority_predicts_the_most_frequent_label_with_the_training_shares():
    found = baseline.majority([2, 0, 2, 2], n_rows=3, num_labels=4)
    assert found.name == "majority"
    np.testing.assert_array_equal(found.probabilities, [[0.25, 0, 0.75, 0]] * 3)
    assert math.isnan(found.accuracy)
    assert found.scored([2, 2, 0]).accuracy == pytest.approx(2 / 3)


def test_words_tell_labels_apart():
    found = baseline.tfidf_logreg(TEXTS, LABELS, ["they won the cup", "rate of the shares"], 2)
    assert found.name == "tfidf-logreg"
    assert found.probabilities.argmax(1).tolist() == [0, 1]


def test_every_label_has_a_column_and_every_row_sums_to_one():
    found = baseline.tfidf_logreg(TEXTS, [1, 3, 1, 3], [*TEXTS, "unseen words only"], 5)
    assert found.probabilities.shape == (5, 5)
    np.testing.assert_allclose(found.probabilities.sum(1), 1, atol=1e-9)
    assert not found.probabilities[:, [0, 2, 4]].any()
    assert found.probabilities[0].argmax() == 1


def test_the_same_call_gives_the_same_probabilities():
    rng = np.random.default_rng(0)  # enough rows for the solver that draws at random
    words = np.array([f"w{k}" for k in range(300)])
    labels = rng.integers(0, 3, baseline.FEW)
    texts = [" ".join(words[rng.integers(100 * y, 100 * y + 150, 6) % 300]) for y in labels]
    first, second = (baseline.tfidf_logreg(texts, labels, texts[:50], 3).probabilities for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert (first.argmax(1) == labels[:50]).mean() > 0.9


@pytest.mark.parametrize(
    ("texts", "labels"),
    [
        (["...", "?!", "--"], [0, 1, 1]),
        (["", " ", "\n"], [0, 1, 1]),
        (["a word", "another word", "a third"], [1, 1, 1]),
        ([f"word{k}" for k in range(baseline.FEW)], [0, *[1] * (baseline.FEW - 1)]),  # no word occurs twice
    ],
)
def test_without_words_or_with_one_label_it_answers_as_majority(texts, labels):
    found = baseline.tfidf_logreg(texts, labels, ["a word", "!!"], 2)
    np.testing.assert_array_equal(found.probabilities, baseline.majority(labels, 2, 2).probabilities)


def test_a_text_without_words_is_judged_all_the_same():
    assert baseline.tfidf_logreg(TEXTS, LABELS, ["!!", ""], 2).probabilities.shape == (2, 2)


def test_chinese_is_read_by_characters():
    found = baseline.tfidf_logreg(["今天天气很好", "足球比赛开始"] * 3, [0, 1] * 3, ["天气", "足球"], 2)
    assert found.probabilities.argmax(1).tolist() == [0, 1]


def test_no_row_to_predict_is_no_error():
    assert baseline.tfidf_logreg(TEXTS, LABELS, [], 2).probabilities.shape == (0, 2)


def test_both_are_scored_on_the_rows_they_judge():
    found = baseline.fit_baselines(TEXTS, np.array(LABELS), ["the cup", "the bank rate", "a goal"], [0, 1, 0], 2)
    assert [b.name for b in found] == ["majority", "tfidf-logreg"]
    assert [b.accuracy for b in found] == pytest.approx([2 / 3, 1])
    assert all(b.seconds >= 0 and b.probabilities.shape == (3, 2) for b in found)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((TEXTS, LABELS, [], [], 2), "no labelled row"),
        (([], [], ["x"], [0], 2), "no labelled row"),
        ((TEXTS, [0, 1], ["x"], [0], 2), "4 texts and 2 labels"),
        ((TEXTS, LABELS, ["x"], [0, 1], 2), "1 texts and 2 labels"),
        ((TEXTS, [0, 1, 2, 3], ["x"], [0], 2), "labels 0 to 1"),
        ((TEXTS, LABELS, ["x"], [-1], 2), "labels 0 to 1"),
        ((TEXTS, ["a"] * 4, ["x"], [0], 2), "labels 0 to 1"),
    ],
)
def test_rows_that_cannot_be_fitted_are_refused(arguments, words):
    with pytest.raises(DataError, match=words):
        baseline.fit_baselines(*arguments)


@pytest.mark.slow
def test_on_ag_news_the_bar_stands_at_about_90_percent_and_takes_seconds():
    if not AG_TRAIN.is_file():
        pytest.skip(f"{AG_TRAIN} is missing: the shared data aren't part of the repository")
    with AG_TRAIN.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    texts, labels = [row["text"] for row in rows], np.array([int(row["label"]) for row in rows])
    _, found = baseline.fit_baselines(texts[2000:], labels[2000:], texts[:2000], labels[:2000], 4)
    print(f"AG News, 2,000 rows carved from train: {found.accuracy:.4f} in {found.seconds:.1f} s")
    assert 0.88 <= found.accuracy <= 0.93
    assert found.seconds < 15
