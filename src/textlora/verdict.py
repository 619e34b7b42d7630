"""A judgement in at most four sentences, made of numbers only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from textlora.baseline import Baseline
from textlora.metrics import Scores
from textlora.paired import paired_gain

NAMED = 5  # classes that a sentence lists


def verdict(
    split: str,
    scores: Scores,
    labels: np.ndarray,
    probabilities: np.ndarray,
    baselines: Sequence[Baseline],
    next_command: str,
) -> list[str]:
    """Gain over the strongest baseline (and where macro-F1 is below one), worst confusion, weakest class, what next."""
    baseline = max(baselines, key=lambda b: b.accuracy)
    right = probabilities.argmax(1) == labels
    gain = paired_gain(baseline.probabilities.argmax(1) == labels, right)
    mean, low, high = (f"{round(100 * value, 1) + 0.0:+.1f}" for value in gain)  # + 0.0: never "-0.0"
    points = f"{mean} points on {baseline.name} ({low} to {high})"
    no_gain = "; worse than the baseline" if gain.high < 0 else "; no gain is shown: the interval holds 0"
    sure = "" if gain.low > 0 else no_gain
    first = f"{100 * scores.accuracy:.1f} % of {scores.n} {split} rows are right, {points}{sure}"
    first += f"{_below(scores, baselines)}."
    return [first, *weaknesses(scores.to_dict()), f"Next: {next_command}"]


def weaknesses(judged: Mapping[str, Any]) -> list[str]:
    """The worst confusion and the weakest class, of a report's dictionary."""
    return [*_confusion(judged), _weakest(judged)]


def _below(scores: Scores, baselines: Sequence[Baseline]) -> str:
    """Words on macro-F1 where a baseline's is higher: on skewed labels accuracy can hide it."""
    strongest, ours = max(baselines, key=lambda b: b.f1_macro), scores.f1_macro
    if ours >= strongest.f1_macro:
        return ""
    return f"; macro-F1 {ours:.3f} is below {strongest.name}'s {strongest.f1_macro:.3f}"


def _confusion(judged: Mapping[str, Any]) -> list[str]:
    matrix = np.array(judged["confusion_matrix"])
    np.fill_diagonal(matrix, 0)
    names = [row["label"] for row in judged["per_class"]]
    if not matrix.any():
        return []
    true, predicted = np.unravel_index(matrix.argmax(), matrix.shape)
    count, mistakes = int(matrix.max()), int(matrix.sum())
    if count == 1 < mistakes:  # each of another kind: naming the first would say nothing
        return []
    return [f"Most confused: {names[true]} taken for {names[predicted]}, {count} of {mistakes} mistakes."]


def _weakest(judged: Mapping[str, Any]) -> str:
    there = [row for row in judged["per_class"] if row["total"]]
    missed = [row["label"] for row in there if not row["correct"]]
    if len(missed) > 1:
        named = ", ".join(missed[:NAMED]) + (f" and {len(missed) - NAMED} more" if len(missed) > NAMED else "")
        rows = sum(row["total"] for row in there if not row["correct"])
        return f"Never found: {len(missed)} of {len(there)} classes ({named}), {rows} rows in all."
    weakest = min(there, key=lambda row: row["f1"])
    return (
        f"Weakest class: {weakest['label']}, F1 {weakest['f1']:.3f} ({weakest['correct']} of {weakest['total']} found)."
    )
