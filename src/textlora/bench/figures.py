"""Rounds to figures: medians, spreads, ratios. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Round:
    """What a side did in one round."""

    seconds: float
    texts: float
    tokens: int  # real ones, no padding
    steps: int


def rates(rounds: Sequence[Round], tokens_per_text: float, by_length: bool) -> dict[str, Any]:
    """Texts and real tokens a second: the median of the rounds and their spread (least, most).

    Sides whose batches hold texts of one length (`by_length`) see other lengths in each round: their texts a second are
    tokens a second over the data's mean number of tokens, which is how fast an epoch passes. Batches of random order
    are a fair sample of the texts: these are counted.
    """
    tokens = [r.tokens / r.seconds for r in rounds]
    texts = [t / tokens_per_text for t in tokens] if by_length else [r.texts / r.seconds for r in rounds]
    return {
        "samples_per_second": round(median(texts), 3),
        "spread": [round(min(texts), 3), round(max(texts), 3)],
        "tokens_per_second": round(median(tokens), 1),
        "steps": sum(r.steps for r in rounds),
    }


def ratios(ours: float, peers: Mapping[str, Mapping[str, Any]], key: str) -> dict[str, float]:
    """Ours over each peer that was measured."""
    return {name: round(ours / peer[key], 2) for name, peer in peers.items() if peer.get(key)}


def share(ours: float, limit: float) -> float:
    """Ours as a share of the limit."""
    return round(ours / limit, 3)


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that `percent` of `values` don't exceed, by the nearest rank."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100).__int__() - 1)]
