"""Curves over a run as pure functions of the step: learning rate and dropout."""

from __future__ import annotations

from math import ceil, cos, pi


def warmup_steps(steps: int, ratio: float, fixed: int = 0) -> int:
    """Steps in which the rate rises: `fixed` if given, else `ratio` of all `steps`, rounded up as transformers does."""
    return min(steps, fixed or ceil(steps * ratio))


def by_steps(step: float, steps: int) -> float:
    """Where a run of `steps` stands without a time limit: at its step. With one, `clock.Clock.place` says."""
    return step


def learning_rate_factor(step: float, steps: int, warmup: int, kind: str, cycles: int = 1) -> float:
    """Share of the peak learning rate at `step` of `steps`: a straight rise over `warmup`, then `kind` down to zero.

    The formulas are those of transformers' get_{linear,cosine,cosine_with_hard_restarts}_schedule_with_warmup (a test
    compares them), so the first optimizer step of a run with warm-up has rate 0, as there.
    """
    if step < warmup:
        return step / max(1, warmup)
    done = (step - warmup) / max(1, steps - warmup)
    if done >= 1:
        return 0.0
    if kind == "linear":
        return 1 - done
    if kind == "cosine_with_restarts":
        done = (done * cycles) % 1
    return (1 + cos(pi * done)) / 2


def dropout(step: float, steps: int, start: float, end: float, curve: str) -> float:
    """Dropout at `step` in [0, steps): `start` at the first step, `end` at the last, straight or as half a cosine."""
    if curve == "constant" or steps <= 1:
        return start
    done = min(1.0, step / (steps - 1))
    if curve == "cosine":
        done = (1 - cos(pi * done)) / 2
    return start + (end - start) * done
