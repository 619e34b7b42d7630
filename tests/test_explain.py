"""Explanations: the words that were planted are found, alone or in company, the same each time."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from textlora import cli, explain, predict

LABELS = ("calm", "loud", "odd")


class Bag:
    """A Predictor's look: logits are sums of what words weigh, so what each word does is known exactly."""

    labels = LABELS
    weights = {"bang": (0.0, 3.0, 0.0), "hush": (1.0, -1.0, 0.0), "bang,": (0.0, 2.0, 0.0)}  # noqa: RUF012

    def __init__(self):
        self.seen = 0

    def tokens(self, texts):
        return list(texts)

    def predict_logits(self, texts):
        self.seen += len(texts)
        return np.array([np.sum([self.weights.get(w, (0, 0, 0)) for w in t.split()] or [(0, 0, 0)], 0) for t in texts])


def test_the_planted_word_is_found_with_its_sign():
    found = explain.explain(Bag(), ["a bang then hush in the night"])[0]
    assert found.label == "loud"
    first, second = found.strongest(2)
    assert (first.text, second.text) == ("bang", "hush")
    assert first.drop > 2 > 0 > second.drop
    assert {word.drop for word in found.words} - {first.drop, second.drop} == {0.0}
    assert first.without < found.probability < second.without


def test_two_labels_read_as_a_difference_of_logits():
    """With two labels the log-odds are their logits' difference: a word's drop is what it weighs, exactly."""

    class Two(Bag):
        labels = ("calm", "loud")
        weights = {"bang": (0.0, 3.0), "hush": (0.5, 0.0)}  # noqa: RUF012

        def predict_logits(self, texts):
            return np.array([np.sum([self.weights.get(w, (0, 0)) for w in t.split()], 0) for t in texts])

    words = explain.explain(Two(), ["bang and hush"])[0].words
    np.testing.assert_allclose([word.drop for word in words], [3.0, 0.0, -0.5], atol=1e-12)


@settings(max_examples=50, deadline=None)
@given(st.text(), st.integers(1, 70))
def test_spans_hold_all_but_blanks_and_keep_to_their_number(text, most):
    parts = explain.spans(text, most)
    assert len(parts) <= most
    assert all(a < b for a, b in parts)
    assert all(b <= c for (_, b), (c, _) in itertools.pairwise(parts))
    outside = "".join(
        text[a:b] for a, b in zip([0, *(b for _, b in parts)], [*(a for a, _ in parts), len(text)], strict=True)
    )
    assert not outside.strip()


def test_a_long_text_costs_no_more_than_64_predictions():
    bag = Bag()
    words = ["word"] * 999 + ["bang"]
    found = explain.explain(bag, [" ".join(words)])[0]
    assert bag.seen <= explain.MOST_VARIANTS
    assert found.strongest(1)[0].text.endswith("bang")
    assert "".join(word.text for word in found.words).count("word") == 999


def test_scripts_without_blanks_are_taken_by_character():
    assert [("東京は雨 rain"[a:b]) for a, b in explain.spans("東京は雨 rain", 63)] == ["東", "京", "は", "雨", "rain"]


def test_texts_without_words_have_nothing_to_explain():
    assert explain.explain(Bag(), ["", " \n"])[0].words == ()
    assert explain.explain(Bag(), []) == []


# ------------------------------------------------------------------------------------------------------- a real model


@pytest.fixture(scope="module")
def predictor(trained, tiny_base):
    return predict.load(trained("bert"), base_weights=str(tiny_base("bert")), precision="fp32")


def test_company_and_repetition_change_nothing(predictor, texts):
    some = [text for text in texts[:40] if text.strip()][:6]
    together = explain.explain(predictor, some)
    assert [one.to_dict() for one in explain.explain(predictor, some)] == [one.to_dict() for one in together]
    for text, one in zip(some, together, strict=True):
        alone = explain.explain(predictor, [text])[0]
        assert [(w.text, w.start, w.end) for w in alone.words] == [(w.text, w.start, w.end) for w in one.words]
        np.testing.assert_allclose([w.drop for w in alone.words], [w.drop for w in one.words], atol=1e-4)
        assert all(text[w.start : w.end] == w.text for w in one.words)


def test_a_drop_is_what_the_model_says_of_the_shorter_text(predictor, texts):
    text = next(text for text in texts if 4 <= len(text.split()) <= 30)
    found = explain.explain(predictor, [text])[0]
    for word in found.words:
        shorter = predictor.predict_proba([text[: word.start] + text[word.end :]])[0]
        assert word.without == pytest.approx(shorter[predictor.labels.index(found.label)], abs=1e-5)


def test_classify_prints_the_words(trained, tiny_base, capsys):
    run = [str(trained("bert")), "--base-weights", str(tiny_base("bert")), "the chip maker and the goal", "--explain"]
    assert cli.main(["classify", *run]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 6
    assert lines[1].split()[0][0] in "+-"
    assert cli.main(["classify", *run, "--json"]) == 0
    words = json.loads(capsys.readouterr().out)["results"][0]["words"]
    assert [word["text"] for word in words] == ["the", "chip", "maker", "and", "the", "goal"]
    assert set(words[0]) == {"text", "start", "end", "drop", "without"}
