"""Changes that shouldn't change a text's label, each a pure function from text to text: how robust is a classifier?

`headline` and `first half` do take words away, so a drop there is partly what those words told.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Callable

WORDS_PER_TYPO = 15
LONG_ENOUGH = 4  # letters of a word that may get a typo: its first and last stay
BOILERPLATE = "Please read our terms of use before you copy or share this page."
_WORD = re.compile(r"\w+")
_HEADLINE_END = re.compile(r"\s[-\u2013\u2014]\s|\n|(?<=[.!?])\s")


def typos(text: str) -> str:
    """Two inner letters change places in one word of 15, at least in one; which ones, the text itself decides."""
    drawn = random.Random(zlib.crc32(text.encode("utf-8", "surrogatepass")))
    spots = [spot for spot in map(_swappable, _WORD.finditer(text)) if spot]
    count = max(1, round(len(text.split()) / WORDS_PER_TYPO))
    letters = list(text)
    for spot in drawn.sample(spots, min(count, len(spots))):
        at = drawn.choice(spot)
        letters[at], letters[at + 1] = letters[at + 1], letters[at]
    return "".join(letters)


def first_half(text: str) -> str:
    """The first half of the words, rounded up."""
    words = text.split()
    return " ".join(words[: (len(words) + 1) // 2])


def headline(text: str) -> str:
    """Up to the first line break, dash between blanks, or end of a sentence, whichever comes first."""
    end = _HEADLINE_END.search(text.strip())
    return text.strip()[: end.start()].strip() if end and end.start() else text.strip()


def boilerplate(text: str) -> str:
    """The text and a sentence about something else."""
    return f"{text} {BOILERPLATE}"


CHANGES: dict[str, Callable[[str], str]] = {
    "typos": typos,
    "lower case": str.lower,
    "upper case": str.upper,
    "first half": first_half,
    "headline": headline,
    "boilerplate": boilerplate,
}


def _swappable(word: re.Match[str]) -> list[int]:
    """Where two inner letters that differ stand side by side; [] for a short word."""
    start, letters = word.start(), word[0]
    if len(letters) < LONG_ENOUGH:
        return []
    return [start + i for i in range(1, len(letters) - 2) if letters[i] != letters[i + 1]]
