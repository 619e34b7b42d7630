"""Which words moved a decision: each word is left out once, and the predicted label's odds are read again (occlusion).

What is measured is the model's answer to a shorter text, not its reasons: words that say the same twice each read low.
B texts, W words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.special import logsumexp

from textlora.predict import Predictor

MOST_VARIANTS = 64  # predictions a text may cost, the whole text's included; a longer one is taken in groups of words
# Scripts without blanks between words: each character stands alone, as WordPiece and XLM-R's tokenizers nearly have it.
ALONE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
WORD = re.compile(rf"[{ALONE}]|[^\s{ALONE}]+")


@dataclass(frozen=True, slots=True)
class Word:
    """A word, or in a long text a group of neighbours, and what leaving it out does.

    `drop`: of the predicted label's log-odds (nats): above 0 the word speaks for that label, below 0 against it.
    `without`: that label's probability in the text without the word.
    """

    text: str
    start: int  # characters of the text, as a slice
    end: int
    drop: float
    without: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """The predicted label of a text, and each of its words in order."""

    label: str
    probability: float
    words: tuple[Word, ...]

    def strongest(self, count: int = 8) -> list[Word]:
        """The words that moved most, whichever way; equals in the text's order."""
        return sorted(self.words, key=lambda word: -abs(word.drop))[:count]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"words": [asdict(word) for word in self.words]}


def explain(predictor: Predictor, texts: Sequence[str], most_variants: int = MOST_VARIANTS) -> list[Explanation]:
    """What each word of each text does to its predicted label; all variants go through the model together.

    A text of W words costs 1 + W predictions, at most `most_variants`: beyond, neighbours are left out together.
    """
    pieces = [spans(text, most_variants - 1) for text in texts]
    variants = [text[:a] + text[b:] for text, parts in zip(texts, pieces, strict=True) for a, b in [(0, 0), *parts]]
    logits_VC = predictor.predict_logits(predictor.tokens(variants)).astype(np.float64)
    ends = np.cumsum([1 + len(parts) for parts in pieces])
    return [
        _explained(text, parts, logits_VC[end - 1 - len(parts) : end], predictor.labels)
        for text, parts, end in zip(texts, pieces, ends.tolist(), strict=True)
    ]


def spans(text: str, most: int) -> list[tuple[int, int]]:
    """Where the words of a text are; groups of equally many neighbours, the last maybe smaller, if over `most`."""
    words = [match.span() for match in WORD.finditer(text)]
    size = max(1, -(-len(words) // max(1, most)))
    groups = [words[i : i + size] for i in range(0, len(words), size)]
    return [(group[0][0], group[-1][1]) for group in groups]


def _explained(text: str, parts: list[tuple[int, int]], logits: np.ndarray, labels: Sequence[str]) -> Explanation:
    """From the logits (1 + W, C) of the whole text and of those with a part left out."""
    best = int(logits[0].argmax())
    odds = logits[:, best] - logsumexp(np.delete(logits, best, axis=1), axis=1)
    shares = 1 / (1 + np.exp(-odds))
    drops = odds[0] - odds[1:]
    words = (
        Word(text[a:b], a, b, float(drop), float(share))
        for (a, b), drop, share in zip(parts, drops, shares[1:], strict=True)
    )
    return Explanation(labels[best], float(shares[0]), tuple(words))
