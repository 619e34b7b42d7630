"""duplicates.py: exactly what comparing all pairs gives, only faster."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from textlora.data import duplicates

WORDS = [f"w{i}" for i in range(12)]


@st.composite
def families(draw):
    """A text and edited copies of it: pairs on both sides of the threshold."""
    base = draw(st.lists(st.sampled_from(WORDS), min_size=5, max_size=45))
    family = [" ".join(base)]
    for _ in range(draw(st.integers(0, 4))):
        words = list(base)
        for _ in range(draw(st.integers(0, 4))):
            at = draw(st.integers(0, len(words) - 1))
            words[at : at + draw(st.integers(0, 1))] = draw(st.lists(st.sampled_from(["x", "y", "z"]), max_size=1))
            words = words or ["w0"]
        family.append(" ".join(words))
    return family


collections = st.lists(families(), min_size=1, max_size=4).map(
    lambda found: [text for family in found for text in family]
)


def grams(text):
    words = text.split()
    return {tuple(words[i : i + 3]) for i in range(len(words) - 2)} if len(words) >= 8 else set()


def are_near(a, b):
    common, union = len(grams(a) & grams(b)), len(grams(a) | grams(b))
    return union > 0 and 10 * common >= 8 * union


def brute_clusters(texts):
    group = list(range(len(texts)))
    for i, a in enumerate(texts):
        for j, b in enumerate(texts[:i]):
            if a == b or are_near(a, b):
                group = [group[j] if g == group[i] else g for g in group]
    numbers = {}
    return [numbers.setdefault(g, len(numbers)) for g in group]


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20], ids="{} pairs at a time".format)
def test_clusters_are_those_of_all_pairs(monkeypatch, chunk):
    monkeypatch.setattr(duplicates, "CHUNK_PAIRS", chunk)
    monkeypatch.setattr(duplicates, "CHUNK_GRAMS", 10 * chunk)

    @settings(max_examples=50, deadline=None)
    @given(collections)
    def law(texts):
        assert duplicates.clusters(texts).tolist() == brute_clusters(texts)

    law()


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20], ids="{} pairs at a time".format)
def test_near_is_that_of_all_pairs(monkeypatch, chunk):
    monkeypatch.setattr(duplicates, "CHUNK_PAIRS", chunk)
    monkeypatch.setattr(duplicates, "CHUNK_GRAMS", 10 * chunk)

    @settings(max_examples=50, deadline=None)
    @given(collections, st.integers(0, 20))
    def law(texts, cut):
        left, right = texts[:cut], texts[cut:]
        assert duplicates.near(left, right).tolist() == [any(are_near(a, b) for b in right) for a in left]

    law()


def test_the_threshold_itself_is_near():
    base = [f"b{i}" for i in range(10)]  # 8 grams of 10 words; a ninth and tenth at the end of the other: 8/10
    assert duplicates.near([" ".join(base)], [" ".join([*base, "x", "y"])]).tolist() == [True]
    assert duplicates.near([" ".join(base)], [" ".join([*base, "x", "y", "z"])]).tolist() == [False]


def test_texts_below_eight_words_are_only_compared_for_equality():
    short = "one two three four five six seven"
    assert duplicates.near([short], [short]).tolist() == [False]
    assert duplicates.clusters([short, "other", short]).tolist() == [0, 1, 0]


def test_nothing_is_near_nothing():
    assert duplicates.near([], ["a"]).tolist() == []
    assert duplicates.near(["a"], []).tolist() == [False]
    assert duplicates.clusters([]).tolist() == []


@pytest.mark.parametrize(
    ("left", "right", "equal"),
    [
        ("Kobe #39;s  comments!", "kobe's comments", True),
        ("&lt;b&gt;Oil&lt;/b&gt; rose", "OIL ROSE.", True),
        ("Stra\u00dfe", "STRASSE", True),
        ("caf\u00e9", "cafe\u0301", True),
        ("good", "bad", False),
        ("\U0001f600", "\U0001f622", False),  # no words: the characters themselves
        ("\u0939\u0948", "\u0939\u094b", False),  # Hindi vowel signs are part of the word
    ],
)
def test_normal_form_keeps_words_and_nothing_else(left, right, equal):
    assert (duplicates.normalise(left) == duplicates.normalise(right)) is equal


def test_ten_thousand_texts_of_one_template_are_quick():
    """Near all of each other, or all just under the threshold: where comparing what meets would be quadratic."""
    base = [f"b{i}" for i in range(36)]
    near = [" ".join([*base[:18], f"u{i}", *base[18:]]) for i in range(10_000)]
    under = [" ".join([*base[:18], f"u{i}", f"v{i}", f"x{i}", *base[18:]]) for i in range(10_000)]
    start = time.perf_counter()
    assert duplicates.clusters(near).max() == 0
    assert duplicates.clusters(under).max() == len(under) - 1
    assert not duplicates.near(under[:9_000], under[9_000:]).any()
    assert time.perf_counter() - start < 30  # 2 s on a free machine; quadratic would be minutes


# In a process of its own: the peak of this one is that of whichever test took most.
LOAD = """
import json, resource, sys, time
from textlora import data
start = time.perf_counter()
found = data.load(sys.argv[1])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps([time.perf_counter() - start, peak, found.counts, len(found.validation)]))
"""


@pytest.mark.slow
def test_120_000_rows_load_in_a_minute(tmp_path):
    pytest.importorskip("resource", reason="Windows does not tell the peak memory")
    rng = np.random.default_rng(0)
    rows, words = 120_000, 60_000
    share = 1 / np.arange(1, words + 1)  # Zipf's law, as in language
    drawn = rng.choice(words, size=(rows, 40), p=share / share.sum())
    texts = [" ".join(f"w{w}" for w in line) for line in drawn.tolist()]
    for i in range(6_000):  # one copy in twenty, a word changed
        texts[rows - 1 - i] = texts[i].replace(f"w{drawn[i, 7]} ", "zz ", 1)
    held = texts[:500]  # test rows that train has nearly: texts[-500:]
    lines = [f"{text},{i % 4}" for i, text in enumerate(texts[500:])]
    (tmp_path / "train.csv").write_text("\n".join(["text,label", *lines]), encoding="utf-8")
    (tmp_path / "test.csv").write_text(
        "\n".join(["text,label", *(f"{t},{i % 4}" for i, t in enumerate(held))]), "utf-8"
    )

    done = subprocess.run([sys.executable, "-c", LOAD, str(tmp_path)], capture_output=True, text=True, check=True)
    seconds, peak, counts, held_out = json.loads(done.stdout)
    print(f"load of {rows:,} rows of 40 words: {seconds:.1f} s, peak {peak / 1e9:.2f} GB; {counts}")
    assert seconds < 60
    assert peak < 1.5e9
    assert counts["leaks_near"] == 500
    assert abs(held_out - 11_900) < 20
