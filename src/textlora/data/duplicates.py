"""Equal and nearly equal texts, exactly: word 3-gram Jaccard of 0.8 or more, found by prefix filtering.

Two sets whose Jaccard similarity is t or more share at least a share t of each, so, with the 3-grams in one global
order, they meet within the first `n - ceil(t n) + 1` of each (Bayardo et al., WWW 2007: AllPairs). With the rarest
3-grams first such prefixes seldom meet by chance; where they do, the place of the first meeting bounds the overlap
(Xiao et al., WWW 2008: PPJoin), and what is left is counted. No hashing, no sampling: as if all pairs were compared.
"""

from __future__ import annotations

import re
import unicodedata
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components

from textlora.clean import clean

# Jaccard threshold as a fraction, compared in whole numbers, so that 0.8 itself isn't lost to rounding. With
# t = o / (a + b - o) and a >= b, the overlap o is at least t a and 2t / (1 + t) b.
SHARE = (4, 5)
SHARE_OF_SMALLER = (8, 9)
GRAM = 3  # words
MIN_WORDS = 8  # shorter texts are compared for equality only: one word changes too much of their 3-grams

CHUNK_PAIRS = 1 << 20  # candidate pairs held at a time, about 100 MB
CHUNK_GRAMS = 1 << 21  # 3-grams gathered at a time to count overlaps, about 50 MB

# Python's \w lacks the vowel signs of Indic, Thai, Lao and Burmese script and combining accents: part of the word here.
_WORD = re.compile(r"[\w\u0300-\u036f\u064b-\u065f\u0900-\u0963\u0966-\u0dff\u0e00-\u0eff\u1000-\u1049]+")


def normalise(text: str) -> str:
    """The form in which texts are compared: entities undone, case folded, words joined by one blank.

    A text without a word (emoji, punctuation) is its own characters: two of them aren't equal for lack of words.
    """
    text = clean(text, ("entities",))
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    text = text.casefold()
    return " ".join(_WORD.findall(text)) or " ".join(text.split())


def near(texts: Sequence[str], others: Sequence[str]) -> np.ndarray:
    """For each of `texts` (normalised), whether it is near one of `others`: (len(texts),) bool."""
    grams = _Grams.of([*texts, *others])
    is_text = np.arange(grams.rows) < len(texts)
    found = np.zeros(grams.rows, dtype=bool)

    others_index = _Index.of(grams, ~is_text)
    text_probes = _Probes.of(grams, is_text, others_index)
    for text, _ in _near_pairs(grams, text_probes, others_index, settled=lambda p: found[p.row]):
        found[text] = True

    text_index = _Index.of(grams, is_text & ~found)
    other_probes = _Probes.of(grams, ~is_text, text_index)
    for _, text in _near_pairs(grams, other_probes, text_index, settled=lambda p: text_index.all_within(p, found)):
        found[text] = True
    return found[: len(texts)]


def clusters(texts: Sequence[str]) -> np.ndarray:
    """Cluster number of each of `texts` (normalised), in order of first appearance: (len(texts),) int64.

    Equal texts, near texts, and those connected through others have one number.
    """
    places: dict[str, int] = {}
    equal = np.array([places.setdefault(text, len(places)) for text in texts], dtype=np.int64)
    grams = _Grams.of(list(places))
    everywhere = np.ones(grams.rows, dtype=bool)
    index = _Index.of(grams, everywhere)
    probes = _Probes.of(grams, everywhere, index)
    group = np.arange(grams.rows)
    for left, right in _near_pairs(grams, probes, index, settled=lambda p: index.is_one_group(p, group)):
        edges = coo_array((np.ones(len(left), dtype=bool), (group[left], group[right])), shape=(len(group), len(group)))
        group[:] = connected_components(edges, directed=False)[1][group]
    return _by_first_appearance(group[equal])


# ---------------------------------------------------------------------------------------------------- prefix filtering
# An entry is one 3-gram in the prefix of one row's set; `place` is where in the set it stands (rarest first). A pair is
# looked for from its larger set, so the other, indexed one is known to share more of itself and has a shorter prefix:
# without that, thousands of texts just under the threshold to each other would all meet.


@dataclass(frozen=True)
class _Grams:
    """The set of 3-grams of each text as a row of a 0/1 matrix, columns ordered from rare to frequent."""

    matrix: csr_array
    size: np.ndarray  # (rows,) number of different 3-grams; 0 for a text that is too short

    @property
    def rows(self) -> int:
        return len(self.size)

    @classmethod
    def of(cls, texts: Sequence[str]) -> _Grams:
        row, gram = _distinct_grams(*_word_numbers(texts))
        frequency = np.bincount(gram, minlength=1)
        rank = np.empty(len(frequency), dtype=np.int64)
        rank[np.argsort(frequency, kind="stable")] = np.arange(len(frequency))
        order = np.argsort(row * len(rank) + rank[gram])
        size = np.bincount(row, minlength=len(texts))
        starts = np.concatenate([[0], np.cumsum(size)])
        ones = np.ones(len(gram), dtype=np.int32)
        return cls(csr_array((ones, rank[gram][order], starts), shape=(len(texts), len(rank))), size)

    def prefixes(self, chosen: np.ndarray, share: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Row, place and 3-gram of each entry of the rows where `chosen` (rows,) bool, of which `share` is shared."""
        n, (over, under) = self.size, share
        length = np.where(chosen & (n > 0), n - -(-over * n // under) + 1, 0)
        row = np.repeat(np.arange(self.rows), length)
        place = np.arange(len(row)) - np.repeat(np.cumsum(length) - length, length)
        return row, place, self.matrix.indices[self.matrix.indptr[row] + place]

    def are_near(self, left: np.ndarray, right: np.ndarray, overlap: np.ndarray) -> np.ndarray:
        """Whether pairs of rows with that many 3-grams in common reach the threshold: (pairs,) bool."""
        over, under = SHARE  # J = o / (a + b - o) >= over / under, in whole numbers
        return (over + under) * overlap >= over * (self.size[left] + self.size[right])

    def overlaps(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Number of 3-grams that each pair of rows has in common: (pairs,) int."""
        block = np.cumsum(self.size[left] + self.size[right]) // CHUNK_GRAMS
        cuts = np.flatnonzero(np.diff(block)) + 1
        pieces = zip(np.split(left, cuts), np.split(right, cuts), strict=True)
        return np.concatenate([self.matrix[a].multiply(self.matrix[b]).sum(axis=1) for a, b in pieces])


@dataclass(frozen=True)
class _Index:
    """Entries ordered by 3-gram, then by size of their set: those of one 3-gram and a range of sizes are neighbours."""

    row: np.ndarray
    place: np.ndarray
    key: np.ndarray
    sizes: int  # above every size: key = gram * sizes + size

    @classmethod
    def of(cls, grams: _Grams, chosen: np.ndarray) -> _Index:
        row, place, gram = grams.prefixes(chosen, SHARE_OF_SMALLER)
        sizes = int(grams.size.max(initial=0)) + 1
        key = gram.astype(np.int64) * sizes + grams.size[row]
        order = np.argsort(key, kind="stable")
        return cls(row[order], place[order], key[order], sizes)

    def all_within(self, probes: _Probes, found: np.ndarray) -> np.ndarray:
        """Whether all that a probe would meet is `found` (rows,) already: (probes,) bool."""
        missing = np.concatenate([[0], np.cumsum(~found[self.row])])
        return missing[probes.low] == missing[probes.high]

    def is_one_group(self, probes: _Probes, group: np.ndarray) -> np.ndarray:
        """Whether all that a probe would meet is in its own group already: (probes,) bool."""
        met = group[self.row]
        run = np.concatenate([[0], np.cumsum(met[1:] != met[:-1])])
        return (run[probes.low] == run[probes.high - 1]) & (met[probes.low] == group[probes.row])


@dataclass(frozen=True)
class _Probes:
    """Entries to look up, each with the range of an index that holds its 3-gram in sets as large or little smaller."""

    row: np.ndarray
    place: np.ndarray
    low: np.ndarray
    high: np.ndarray  # one past the last; above `low`

    @classmethod
    def of(cls, grams: _Grams, chosen: np.ndarray, index: _Index) -> _Probes:
        row, place, gram = grams.prefixes(chosen, SHARE)
        first = gram.astype(np.int64) * index.sizes
        smallest = -(-SHARE[0] * grams.size // SHARE[1])
        low = np.searchsorted(index.key, first + smallest[row])
        high = np.searchsorted(index.key, first + grams.size[row], side="right")
        return cls(row, place, low, high).only(high > low)

    def only(self, chosen: np.ndarray | slice) -> _Probes:
        return _Probes(self.row[chosen], self.place[chosen], self.low[chosen], self.high[chosen])


def _near_pairs(
    grams: _Grams, probes: _Probes, index: _Index, settled: Callable[[_Probes], np.ndarray]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs (probe's row, index's row) that are near, some at a time.

    `settled` says which probes need no look-up any more, given the pairs yielded so far: it keeps thousands of texts
    from one template from costing millions of comparisons.
    """
    while len((probes := probes.only(~settled(probes))).row):
        total = np.cumsum(probes.high - probes.low)
        count = max(1, int(np.searchsorted(total, CHUNK_PAIRS, side="right")))
        left, right = _candidates(grams, probes.only(slice(count)), index)
        probes = probes.only(slice(count, None))
        if len(left):
            near = grams.are_near(left, right, grams.overlaps(left, right))
            yield left[near], right[near]


def _candidates(grams: _Grams, probes: _Probes, index: _Index) -> tuple[np.ndarray, np.ndarray]:
    """Pairs that the probes meet, once each, without those that can't be near given where they first meet."""
    length = probes.high - probes.low
    probe = np.repeat(np.arange(len(length)), length)
    met = np.arange(len(probe)) + np.repeat(probes.low - (np.cumsum(length) - length), length)
    left, right = probes.row[probe], index.row[met]

    # A probe comes rarest first, so the first of equal pairs is the first meeting: nothing before it is shared. A pair
    # met again in a later chunk was decided in the earlier one; judging it anew from a later meeting does no harm.
    first = np.unique(left * grams.rows + right, return_index=True)[1]
    first = first[left[first] != right[first]]
    left, right = left[first], right[first]
    left_rest = grams.size[left] - probes.place[probe[first]]
    right_rest = grams.size[right] - index.place[met[first]]
    possible = grams.are_near(left, right, np.minimum(left_rest, right_rest))
    return left[possible], right[possible]


# ------------------------------------------------------------------------------------------------------------- 3-grams


def _word_numbers(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Words of all texts as numbers in one (words,) int64, and the number of words of each text."""
    vocabulary: dict[str, int] = {}
    numbers = array("q")
    lengths = np.zeros(len(texts), dtype=np.int64)
    for i, text in enumerate(texts):
        words = text.split()
        lengths[i] = len(words)
        numbers.extend([vocabulary.setdefault(word, len(vocabulary)) for word in words])
    return np.frombuffer(numbers, dtype=np.int64) if numbers else np.zeros(0, np.int64), lengths


def _distinct_grams(words: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row and 3-gram number of each different 3-gram of each text of MIN_WORDS words or more, by row."""
    row = np.repeat(np.arange(len(lengths)), lengths)
    left_in_text = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(words))
    start = np.flatnonzero((left_in_text >= GRAM) & (lengths[row] >= MIN_WORDS))
    row = row[start]
    gram = words[start]
    for further in range(1, GRAM):  # numbers stay below the count of words, so their products fit 64 bits
        pair = gram * (words.max(initial=0) + 1) + words[start + further]
        gram = np.unique(pair, return_inverse=True)[1]
    grams = int(gram.max(initial=0)) + 1
    key = np.unique(row * grams + gram)
    return key // grams, key % grams


def _by_first_appearance(group: np.ndarray) -> np.ndarray:
    _, first, number = np.unique(group, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[number]
