"""The figures of validation and of training rows while a run trains, on as many rows as a time limit allows."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from textlora import metrics, predict
from textlora.clock import Clock
from textlora.prepare import Prepared

TIMED_TEXTS = 64  # whose scoring tells how many more there is time for


def measuring(prepared: Prepared, clock: Clock | None) -> Callable[[], dict[str, float]]:
    """A function that scores validation (all, or a fixed sample) and a fixed sample of the training rows with the
    model as it is."""
    config, labels, held = prepared.config, prepared.data.train.labels, prepared.data.validation.labels
    most = _rows_within(prepared, clock) if clock else len(labels) + len(held)
    rng = np.random.default_rng(config.split_seed)
    rows = np.sort(rng.permutation(len(labels))[: min(most, max(1, config.train_sample_size))])
    judged = np.sort(rng.permutation(len(held))[: min(most, config.max_eval_samples or len(held))])
    sets = {
        "eval": (prepared.validation.take(judged), held[judged]),
        "eval_train_sample": (prepared.train.take(rows), labels[rows]),
    }

    def measure() -> dict[str, float]:
        figures, began = {}, time.monotonic()
        for prefix, (tokens, truth) in sets.items():
            scores = metrics.summary_scores(truth, predict.logits(prepared.network, tokens, prepared.pad_id))
            figures |= {f"{prefix}_{key}": value for key, value in {"n": len(truth), **scores}.items()}
        if clock:
            clock.measured(len(rows) + len(judged), time.monotonic() - began)
        return figures

    return measure


def _rows_within(prepared: Prepared, clock: Clock) -> int:
    """How many rows an evaluation may score, from the seconds that a few take; first time they are slow, so again.

    Texts of middling length, which make a batch with as little padding as those of a whole split do.
    """
    held = prepared.validation
    by_length = np.argsort(np.bincount(held.text_of, held.lengths), kind="stable")
    middle = max(0, held.texts - TIMED_TEXTS) // 2
    sample = held.take(by_length[middle : middle + TIMED_TEXTS])
    for _ in range(2):
        began = time.monotonic()
        predict.logits(prepared.network, sample, prepared.pad_id)
        clock.measured(sample.texts, time.monotonic() - began)
    return clock.rows_within
