"""Schedules: transformers' own learning rates step by step, and a dropout that moves from one end to the other."""

from __future__ import annotations

import itertools
from math import ceil

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    get_cosine_schedule_with_warmup,
    get_cosine_with_hard_restarts_schedule_with_warmup,
    get_linear_schedule_with_warmup,
)

from textlora.config import CHOICES
from textlora.schedule import dropout, learning_rate_factor, warmup_steps

THEIRS = {
    "linear": lambda optimizer, warmup, steps, cycles: get_linear_schedule_with_warmup(optimizer, warmup, steps),
    "cosine": lambda optimizer, warmup, steps, cycles: get_cosine_schedule_with_warmup(optimizer, warmup, steps),
    "cosine_with_restarts": get_cosine_with_hard_restarts_schedule_with_warmup,
}
kinds = st.sampled_from(CHOICES["lr_scheduler_type"])
curves = st.sampled_from(CHOICES["lora_dropout_curve"])
shares = st.floats(0, 1, exclude_max=True)


@st.composite
def runs_(draw) -> tuple[int, int]:
    """Steps, and a warm-up that leaves one step at least."""
    steps = draw(st.integers(1, 400))
    return steps, draw(st.integers(0, steps - 1))


@given(runs_(), kinds, st.integers(1, 5))
def test_the_learning_rate_is_transformers_at_every_step(run, kind, cycles):
    steps, warmup = run
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    (theirs,) = THEIRS[kind](optimizer, warmup, steps, cycles).lr_lambdas
    for step in range(steps + 1):
        assert learning_rate_factor(step, steps, warmup, kind, cycles) == pytest.approx(theirs(step), abs=1e-12), step


def test_every_kind_of_schedule_is_compared():
    assert set(THEIRS) == set(CHOICES["lr_scheduler_type"])


@given(runs_(), kinds, st.integers(1, 5), st.integers(0, 500))
def test_the_learning_rate_is_a_share_of_the_peak_reached_after_warm_up(run, kind, cycles, step):
    steps, warmup = run
    assert 0 <= learning_rate_factor(step, steps, warmup, kind, cycles) <= 1
    assert learning_rate_factor(warmup, steps, warmup, kind, cycles) == 1
    assert learning_rate_factor(steps + step, steps, warmup, kind, cycles) == 0


@given(runs_(), kinds)
def test_the_learning_rate_rises_and_then_only_falls(run, kind):
    steps, warmup = run
    rates = [learning_rate_factor(step, steps, warmup, kind) for step in range(steps + 1)]
    assert rates[: warmup + 1] == sorted(rates[: warmup + 1])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)


@given(st.integers(1, 10**5), shares)
def test_warm_up_is_a_share_of_the_steps_rounded_up(steps, ratio):
    assert warmup_steps(steps, ratio) == min(steps, ceil(steps * ratio))


@given(st.integers(1, 100), shares, st.integers(1, 200))
def test_warm_up_in_steps_wins_over_the_share_and_ends_with_the_run(steps, ratio, fixed):
    assert warmup_steps(steps, ratio, fixed) == min(steps, fixed)


@given(st.integers(2, 500), shares, shares, st.sampled_from(["linear", "cosine"]))
def test_dropout_goes_from_start_to_end_without_turning_or_leaving_the_range(steps, start, end, curve):
    values = [dropout(step, steps, start, end, curve) for step in range(steps)]
    assert values[0] == start
    assert values[-1] == pytest.approx(end, abs=1e-12)
    assert all(min(start, end) - 1e-12 <= value <= max(start, end) + 1e-12 for value in values)
    falling = start > end
    assert all((a >= b - 1e-12) if falling else (a <= b + 1e-12) for a, b in itertools.pairwise(values))


@given(st.integers(2, 500).filter(lambda n: n % 2), shares, shares)
def test_both_curves_meet_in_the_middle(steps, start, end):
    middle = steps // 2
    line, wave = (dropout(middle, steps, start, end, curve) for curve in ("linear", "cosine"))
    assert line == pytest.approx((start + end) / 2, abs=1e-12) == wave


@given(st.integers(4, 500))
def test_the_cosine_leaves_its_start_more_slowly_than_the_line(steps):
    assert dropout(1, steps, 0.15, 0.05, "cosine") > dropout(1, steps, 0.15, 0.05, "linear")


@given(st.integers(1, 500), st.integers(0, 500), shares, shares)
def test_a_constant_dropout_stays(steps, step, start, end):
    assert dropout(step, steps, start, end, "constant") == start


@given(shares, shares, curves, st.integers(0, 3))
def test_a_run_of_one_step_has_the_start(start, end, curve, step):
    assert dropout(step, 1, start, end, curve) == start


@given(st.integers(2, 500), st.integers(0, 500), shares, shares)
def test_dropout_stays_at_its_end_after_the_last_step(steps, more, start, end):
    assert dropout(steps - 1 + more, steps, start, end, "linear") == dropout(steps - 1, steps, start, end, "linear")


def test_the_second_seeds_dropout_falls_by_the_same_amount_each_step():
    values = [dropout(step, 101, 0.15, 0.05, "linear") for step in range(101)]
    assert all(a - b == pytest.approx(0.001) for a, b in itertools.pairwise(values))
