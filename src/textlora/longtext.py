"""What becomes of a text that is longer than the model reads: its end is cut, its middle is, or it is read in windows.

A text's tokens are its special ones before and after (`Frame`) and its content between them; content longer than the
room that `max_length` leaves is handled by one of three modes:

- truncate: the first tokens.
- head-tail: the first quarter of the room from the beginning, the rest from the end. 128 and 382 of 510, the split that
  served best in Sun et al. 2019 (arXiv 1905.05583, section 5.3.1); texts often open and close with what they are about.
- window-mean: as many windows as cover all of it, spread evenly, each full, each sharing at least a quarter with the
  next. The text's logits are the mean of its windows'. The quarter is our choice: a sentence at a seam is whole in one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from textlora.config import CHOICES

TRUNCATE, HEAD_TAIL, WINDOW_MEAN = CHOICES["long_text"]
SHARE = 4  # of the room: a quarter is head, a quarter is what neighbouring windows share

# Widths of batches are multiples of this. oneDNN compiles every product once for each shape: with widths and counts as
# they come, nearly every step had shapes of its own (docs/log.md 2026-11-22). 8 would pad 4 % more.
WIDTH_STEP = 4

Span = tuple[int, int]  # from, to (exclusive), in a text's content


@dataclass(frozen=True)
class Frame:
    """How many special tokens a tokenizer puts before and after a text's content."""

    before: int
    after: int

    @classmethod
    def of(cls, special: Sequence[int]) -> Frame:
        """From the mask of special tokens (1) of any text that has content."""
        before = next((i for i, one in enumerate(special) if not one), len(special))
        return cls(before, len(special) - before - sum(not one for one in special))

    def room(self, max_length: int) -> int:
        """Content tokens that fit into `max_length`; at least one of each end."""
        return max(2, max_length - self.before - self.after)


def spans(content: int, room: int, mode: str) -> list[list[Span]]:
    """The rows that a text of `content` tokens is read in, each as its spans: together at most `room` tokens."""
    if content <= room:
        return [[(0, content)]]
    if mode == HEAD_TAIL:
        head = head_of(room)
        return [[(0, head), (content - room + head, content)]]
    if mode == WINDOW_MEAN:
        return [[(start, start + room)] for start in window_starts(content, room)]
    return [[(0, room)]]


def head_of(room: int) -> int:
    """Tokens that head-tail takes from the beginning; the rest of `room` is the end's."""
    return max(1, round(room / SHARE))


def window_starts(content: int, room: int) -> list[int]:
    """Where the windows of a text begin that is longer than `room`: the first at 0, the last at its end, evenly."""
    last = content - room
    steps = -(-last // (room - room // SHARE))
    return [last * number // steps for number in range(steps + 1)]


@dataclass(frozen=True)
class Cut:
    """What was done to how many texts: always told to the user."""

    mode: str
    max_length: int
    texts: int = 0
    longer: int = 0  # texts longer than max_length
    tokens: int = 0  # of all texts, special ones included
    lost: int = 0  # tokens that the model never sees
    windows: int = 0  # rows that the longer texts are read in, with window-mean

    def __add__(self, other: Cut) -> Cut:
        counts = {name: getattr(self, name) + getattr(other, name) for name in COUNTS}
        return Cut(self.mode, self.max_length, **counts)

    def line(self, what: str = "") -> str:
        """One line for people: `what` names the texts (train, validation, ...)."""
        kind = f"{what} text".strip()
        if not self.longer:
            return f"no {kind} is cut at {self.max_length} tokens"
        share = f"{self.longer:,} of {self.texts:,} {kind}s ({100 * self.longer / self.texts:.1f} %)"
        if self.mode == WINDOW_MEAN:
            return f"{share} are longer than {self.max_length} tokens and read in {self.windows:,} windows; none is cut"
        lost = f"{100 * self.lost / self.tokens:.1f} % of all tokens are lost"
        if self.mode == HEAD_TAIL:
            return f"{share} are cut in the middle to {self.max_length} tokens; {lost}"
        return f"{share} are cut at {self.max_length} tokens; {lost}"


COUNTS = ("texts", "longer", "tokens", "lost", "windows")
