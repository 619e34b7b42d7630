"""Work in rounds: a side warms up, waits, works for some seconds when told, waits again.

The long run (one `Trainer.train()`, say) goes on through all rounds; between them it stands still in `done`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from textlora.bench.figures import Round

# Takes a report (None: ready), answers how many seconds the next round takes; None: stop.
Ask = Callable[[dict[str, Any] | None], float | None]


class Pace:
    """Counts steps, texts and tokens of a round, and stops the clock between rounds."""

    def __init__(self, ask: Ask, warm_up: int, least: int = 1) -> None:
        self.ask, self.warm_up, self.least = ask, warm_up, least
        self.done_steps = 0
        self.seconds: float | None = None  # of this round; None: no round is on
        self.texts, self.tokens, self.steps, self.began = 0.0, 0, 0, 0.0

    def begin(self) -> bool:
        """Before the first step. Whether to go on."""
        return self.warm_up > 0 or self._next(None)

    def done(self, texts: float, tokens: int) -> bool:
        """After a step. Whether to go on."""
        self.done_steps += 1
        if self.done_steps < self.warm_up:
            return True
        if self.done_steps == self.warm_up:
            return self._next(None)
        self.texts, self.tokens, self.steps = self.texts + texts, self.tokens + tokens, self.steps + 1
        seconds = time.perf_counter() - self.began
        if self.steps < self.least or seconds < (self.seconds or 0):
            return True
        return self._next(asdict(Round(seconds, self.texts, self.tokens, self.steps)))

    def _next(self, report: dict[str, Any] | None) -> bool:
        self.seconds = self.ask(report)
        self.texts, self.tokens, self.steps, self.began = 0.0, 0, 0, time.perf_counter()
        return self.seconds is not None


def probe(seconds: float) -> tuple[Ask, list[Round]]:
    """One round of `seconds` for a trial inside a process, and where its Round will be."""
    found: list[Round] = []

    def ask(report: dict[str, Any] | None) -> float | None:
        if report is None:
            return seconds
        found.append(Round(**report))
        return None

    return ask, found
