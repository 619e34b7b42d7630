"""A time limit is kept whatever the steps take, and the learning rate is down to nothing when it ends."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import TrainerControl, TrainerState

from textlora import config as configs
from textlora.clock import CHANCE, PICTURES_SECONDS, Clock
from textlora.config import Config
from textlora.errors import UsageError
from textlora.schedule import learning_rate_factor, warmup_steps
from textlora.train import train


class Time:
    """Seconds that pass when told to."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def trained(clock: Clock, now: Time, steps: int, seconds, evaluate_every: int = 0, row_seconds: float = 0.0):
    """The Trainer's loop without a model: learning-rate factors of the steps, whether the clock stopped it."""
    warmup, factors, control = warmup_steps(steps, 0.06), [], TrainerControl()
    for step, taken in zip(range(steps), seconds, strict=False):
        factors.append(learning_rate_factor(clock.place(step, steps), steps, warmup, "linear"))
        now.now += taken
        clock.on_step_end(None, TrainerState(global_step=step + 1), control)
        if control.should_training_stop:
            break
        if evaluate_every and (step + 1) % evaluate_every == 0:
            now.now += 100 * row_seconds
            clock.measured(100, 100 * row_seconds)
            clock.on_evaluate()
    return factors, control.should_training_stop


@given(
    limit=st.floats(10, 10_000),
    shares=st.lists(st.floats(1e-4, 0.02), min_size=1, max_size=50),
    prepared=st.floats(0, 0.5),
    judging=st.floats(0, 0.2),
    steps=st.integers(1, 3_000),
    every=st.integers(0, 50),
)
def test_the_limit_is_kept_and_the_rate_ends_near_zero(limit, shares, prepared, judging, steps, every):
    now = Time()
    clock = Clock(limit, now.now, now=now)
    now.now += prepared * limit
    rows, row_seconds = 1_000, judging * limit / 1_000
    clock.measured(64, 64 * row_seconds)
    try:
        clock.start(rows, 0.0)
    except UsageError:
        assert prepared * limit + CHANCE * judging * limit + PICTURES_SECONDS >= limit * (1 - 1e-9)
        return
    rng = np.random.default_rng(0)
    seconds = rng.choice(shares, steps) * limit
    factors, stopped = trained(clock, now, steps, seconds, every, row_seconds)
    total = now.now + rows * row_seconds - 1000.0
    window = limit - prepared * limit - clock.reserve
    assert total <= limit * 1.1
    if stopped and len(factors) > 2 and not every:
        assert factors[-1] <= max(2 * max(shares) * limit / window / 0.94, 1 / steps / 0.94) + 1e-6
    if not stopped:
        assert len(factors) == steps  # there was time for all of them


def test_with_time_to_spare_the_schedule_is_the_one_by_steps():
    now = Time()
    clock = Clock(1e6, now.now, now=now)
    clock.measured(1, 0.0)
    clock.start(10, 0.0)
    factors, stopped = trained(clock, now, 100, [1.0] * 100)
    assert not stopped
    assert factors == pytest.approx([learning_rate_factor(s, 100, 6, "linear") for s in range(100)], abs=1e-3)


def test_progress_never_goes_back_when_judging_turns_out_quicker():
    now = Time()
    clock = Clock(100, now.now, now=now)
    clock.measured(10, 4.0)
    clock.start(100, 0.0)
    now.now += 20
    before = clock.place(1, 1000)
    clock.measured(10, 0.1)
    assert clock.place(2, 1000) == before
    now.now += 40
    assert clock.place(3, 1000) > before


def test_a_resumed_run_gets_the_remaining_time_and_goes_on_with_its_rate():
    now = Time()
    first = Clock(100, now.now, now=now)
    first.measured(1, 0.0)
    first.start(1, 0.0)
    now.now += 60
    half = first.place(5, 1000)
    saved = first.state()["attributes"]
    assert saved["used"] == 60
    now.now += 10_000
    second = Clock(100, now.now, **saved, now=now)
    second.measured(1, 0.0)
    second.start(1, 0.0)
    assert second.left == pytest.approx(100 - 60 - PICTURES_SECONDS)
    assert second.place(5, 1000) == pytest.approx(half)
    now.now += second.left
    assert second.place(6, 1000) == pytest.approx(1000)


def test_a_limit_that_leaves_nothing_is_refused_with_one_that_will_do():
    now = Time()
    clock = Clock(10, now.now, now=now)
    now.now += 9
    clock.measured(10, 1.0)
    with pytest.raises(UsageError, match="leaves none to train: 9 s went into") as refused:
        clock.start(10, 0.0)
    assert "--time-limit 26s" in refused.value.fix


@pytest.mark.parametrize(("text", "seconds"), [("", 0), ("90s", 90), ("10m", 600), ("1.5h", 5400)])
def test_times_are_read(text, seconds):
    assert replace(configs.load(), time_limit=text).time_limit_seconds == seconds


@pytest.mark.parametrize("text", ["10", "m", "-5s", "0s", "1:30", "ten minutes", "1e3s", "10 m"])
def test_what_is_no_time_is_told(text):
    assert any("time_limit must be" in line for line in Config(batch_tokens=2048, time_limit=text).problems())


@pytest.mark.slow
def test_a_run_ends_in_its_time_judged_and_saved(tiny_config, tmp_path):
    config = tiny_config("bert", max_steps=1_000_000, max_eval_samples=20, time_limit="14s")
    began = time.monotonic()
    run = train(config, out=tmp_path / "run", say=lambda line: None)
    print(f"{time.monotonic() - began:.1f} s of 14")
    summary = run.summary()
    assert 0 < summary["steps"] < summary["planned_steps"] == 1_000_000
    rates = [r["learning_rate"] for r in run.metrics() if r["split"] == "train"]
    assert rates[-1] < 0.1 * max(rates)
    report = json.loads((run.evaluation / "report.json").read_text())["splits"]["validation"]
    assert report["n"] > 20


def test_a_run_without_time_for_a_step_leaves_a_sentence(tiny_config, tmp_path):
    with pytest.raises(UsageError, match="leaves none to train"):
        train(tiny_config("bert", time_limit="1s"), out=tmp_path / "run", say=lambda line: None)
