"""Changes of texts: pure, the same each time, and each what its name says."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from textlora import perturb


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=80).filter(lambda text: text.strip()))
def test_every_change_is_the_same_each_time_and_leaves_a_text(text):
    for change in perturb.CHANGES.values():
        assert change(text) == change(text)
        assert change(text).strip()


@given(st.lists(st.sampled_from(["market", "of", "Reuters", "gained"]), min_size=1, max_size=90))
def test_typos_move_letters_of_one_word_in_fifteen(words):
    text = " ".join(words)
    changed = perturb.typos(text)
    moved = [(a, b) for a, b in zip(text.split(), changed.split(), strict=True) if a != b]
    long = sum(word != "of" for word in words)
    assert len(moved) == min(long, max(1, round(len(words) / perturb.WORDS_PER_TYPO)))
    for a, b in moved:
        assert Counter(a) == Counter(b)
        assert (a[0], a[-1]) == (b[0], b[-1])


@pytest.mark.parametrize(
    ("text", "headline"),
    [
        ("Stocks rise again Reuters - Shares rose. Much.", "Stocks rise again Reuters"),
        ("Rain stops play\nThe match was left drawn", "Rain stops play"),
        ("It is 3.5 per cent. No more - said he", "It is 3.5 per cent."),
        ("a well-known name", "a well-known name"),
        (" - dash first", "- dash first"),
    ],
)
def test_a_headline_ends_at_a_dash_a_line_or_a_sentence(text, headline):
    assert perturb.headline(text) == headline


def test_half_and_boilerplate():
    assert perturb.first_half("one two three") == "one two"
    assert perturb.boilerplate("one") == f"one {perturb.BOILERPLATE}"
