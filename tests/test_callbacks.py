"""Callbacks: dropout follows its curve, time is counted once, and metrics.jsonl has the keys that are promised."""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import TrainerControl, TrainerState

from textlora import callbacks, runs
from textlora.callbacks import DropoutScheduler, Meter, MetricsTracker, Progress, StopOnInterrupt
from textlora.schedule import dropout

WHERE = {"step", "epoch", "split"}
TRAIN_LINE = WHERE | {"loss", "learning_rate", "grad_norm", "dropout", "samples_per_second", "tokens_per_second"}
SCORE_LINE = WHERE | {"n", "loss", "accuracy", "precision", "recall", "f1", "f1_macro"}
SCORES = {f"{prefix}_{key}": 0.5 for prefix in ("eval", "eval_train_sample") for key in callbacks.SCORE_KEYS}


def at(step: int, steps: int = 10) -> TrainerState:
    return TrainerState(global_step=step, max_steps=steps, epoch=step / steps)


class Clock:
    """A stand-in for time: it stands still until told."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now

    monotonic = perf_counter


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(callbacks, "time", clock)
    return clock


def adapted() -> nn.Module:
    """Names as PEFT gives them, beside a dropout of the base."""
    layer = nn.ModuleDict({"lora_dropout": nn.ModuleDict({"default": nn.Dropout(0.15)}), "dropout": nn.Dropout(0.1)})
    return nn.ModuleDict(
        {"query": layer, "value": nn.ModuleDict({"lora_dropout": nn.ModuleDict({"default": nn.Identity()})})}
    )


# -------------------------------------------------------------------------------------------------------------- dropout


@given(st.integers(1, 30), st.floats(0, 0.9), st.floats(0, 0.9), st.sampled_from(["constant", "linear", "cosine"]))
def test_the_adapters_dropout_follows_the_curve_and_the_bases_stays(steps, start, end, curve):
    model = adapted()
    scheduler = DropoutScheduler(model, start, end, curve)
    for step in range(steps):
        scheduler.on_step_begin(None, at(step, steps), TrainerControl())
        expected = dropout(step, steps, start, end, curve)
        assert model["query"]["lora_dropout"]["default"].p == scheduler.value == expected
        assert model["query"]["dropout"].p == 0.1


def test_every_adapter_of_a_real_model_is_scheduled(tiny_config):
    from textlora import model as models
    from textlora.prepare import plan_for

    config = tiny_config(lora_dropout=0.15, lora_dropout_end=0.05, lora_dropout_curve="linear", base_dropout=0.1)
    plan = plan_for(config, 4)
    network, _ = models.build(config, plan, ("a", "b", "c", "d"), torch.float32)
    scheduler = DropoutScheduler(network, 0.15, 0.05, "linear")
    assert len(scheduler.modules) == len(plan.modules)
    scheduler.on_step_begin(None, at(9), TrainerControl())
    rates = sorted({round(m.p, 6) for m in network.modules() if isinstance(m, nn.Dropout)})
    assert rates == [0.05, 0.1]


def test_a_rising_dropout_from_zero_has_modules_to_set(tiny_config):
    from textlora import model as models
    from textlora.prepare import plan_for

    config = tiny_config(lora_dropout=0.0, lora_dropout_end=0.2, lora_dropout_curve="cosine")
    network, _ = models.build(config, plan_for(config, 4), ("a", "b", "c", "d"), torch.float32)
    assert len(DropoutScheduler(network, 0.0, 0.2, "cosine").modules) > 0


# ---------------------------------------------------------------------------------------------------------------- meter


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 500)), max_size=10))
def test_the_meter_adds_up_texts_and_tokens(batches):
    meter = Meter()
    for texts, tokens in batches:
        meter.count(texts, tokens)
    assert (meter.texts, meter.tokens) == (sum(t for t, _ in batches), sum(n for _, n in batches))


def test_evaluating_and_saving_are_no_training_time(clock):
    meter = Meter()
    clock.now += 7  # before training
    meter.on_train_begin()
    for event, seconds in [
        (meter.on_step_end, 2),
        (meter.on_step_end, 3),
        (meter.on_evaluate, 50),
        (meter.on_save, 60),
        (meter.on_step_end, 4),
    ]:
        clock.now += seconds
        event(None, at(1), TrainerControl())
    assert meter.seconds == 2 + 3 + 4


# -------------------------------------------------------------------------------------------------------- metrics.jsonl


@pytest.fixture
def tracker(tmp_path) -> MetricsTracker:
    return MetricsTracker(runs.create(tmp_path / "run"), Meter(), DropoutScheduler(adapted(), 0.15, 0.05, "linear"))


def test_a_logged_step_is_one_line_with_rates_since_the_last(tracker, clock):
    meter, logs = tracker.meter, {"loss": 1.0, "learning_rate": 0.1, "grad_norm": 2.0, "epoch": 0.1}
    meter.on_train_begin()
    for step, (texts, seconds) in enumerate([(10, 2), (30, 3)], 1):
        meter.count(texts, 5 * texts)
        clock.now += seconds
        meter.on_step_end()
        tracker.scheduler.on_step_begin(None, at(step), TrainerControl())
        tracker.on_log(None, at(step), TrainerControl(), logs)
    first, second = tracker.run.metrics()
    assert set(first) == set(second) == TRAIN_LINE
    assert (first["samples_per_second"], second["samples_per_second"]) == (5.0, 10.0)
    assert (first["tokens_per_second"], second["tokens_per_second"]) == (25.0, 50.0)
    assert (second["step"], second["split"], second["loss"]) == (2, "train", 1.0)
    assert second["dropout"] == dropout(2, 10, 0.15, 0.05, "linear")


@pytest.mark.parametrize("logs", [{"train_runtime": 3.0, "train_loss": 1.0}, SCORES])
def test_the_trainers_other_logs_are_no_training_lines(tracker, logs):
    tracker.on_log(None, at(1), TrainerControl(), logs)
    assert tracker.run.metrics() == []


def test_an_evaluation_is_two_lines_that_name_their_split(tracker):
    figures = SCORES | {"eval_accuracy": 0.7, "eval_train_sample_accuracy": 0.9}
    tracker.on_evaluate(None, at(4), TrainerControl(), metrics=figures)
    validation, sample = tracker.run.metrics()
    assert set(validation) == set(sample) == SCORE_LINE
    assert (validation["split"], validation["accuracy"]) == ("validation", 0.7)
    assert (sample["split"], sample["accuracy"]) == ("train_sample", 0.9)


def test_a_real_runs_metrics_have_just_these_keys(trained):
    lines = runs.open_run(trained()).metrics()
    by_split: dict[str, list[dict]] = {}
    for line in lines:
        by_split.setdefault(line["split"], []).append(line)
    assert set(by_split) == {"train", "validation", "train_sample"}
    assert all(set(line) == TRAIN_LINE for line in by_split["train"])
    assert all(set(line) == SCORE_LINE for line in by_split["validation"] + by_split["train_sample"])
    assert [line["step"] for line in by_split["train"]] == [1, 2, 3, 4, 5, 6]
    assert by_split["validation"][-1]["n"] == 120
    assert by_split["train_sample"][-1]["n"] == 500


def test_the_dropout_of_a_real_run_is_seen_in_its_metrics(trained):
    run = trained(lora_dropout=0.15, lora_dropout_end=0.05, lora_dropout_curve="linear")
    seen = [line["dropout"] for line in runs.open_run(run).metrics() if line["split"] == "train"]
    assert seen == pytest.approx([0.15, 0.13, 0.11, 0.09, 0.07, 0.05])


# ----------------------------------------------------------------------------------------------- progress, interruption


def test_without_a_terminal_progress_is_a_line_an_evaluation_with_the_time_left(clock, monkeypatch):
    monkeypatch.setattr(callbacks.sys, "stderr", SimpleNamespace(isatty=lambda: False))
    said: list[str] = []
    progress = Progress(said.append)
    progress.on_train_begin(None, at(0), TrainerControl())
    for _ in range(5):
        clock.now += 2
        progress.on_step_end(None, at(1), TrainerControl())
    assert said == []
    progress.on_evaluate(
        None, at(5), TrainerControl(), metrics={"eval_loss": 1.25, "eval_accuracy": 0.5, "eval_f1_macro": 0.4}
    )
    progress.on_train_end()
    assert said == ["  step 5/10  validation loss 1.250  accuracy 0.5000  macro-F1 0.4000  10 s left"]


def test_a_resumed_runs_time_left_counts_its_own_steps_only(clock, monkeypatch):
    monkeypatch.setattr(callbacks.sys, "stderr", SimpleNamespace(isatty=lambda: False))
    said: list[str] = []
    progress = Progress(said.append)
    progress.on_train_begin(None, at(8), TrainerControl())
    clock.now += 3
    progress.on_evaluate(
        None, at(9), TrainerControl(), metrics={"eval_loss": 1.0, "eval_accuracy": 0.5, "eval_f1_macro": 0.4}
    )
    assert said[0].endswith("3 s left")


def test_the_first_interrupt_saves_and_stops_and_the_second_is_pythons_own():
    before = signal.getsignal(signal.SIGINT)
    stopper, control = StopOnInterrupt(), TrainerControl()
    stopper.on_train_begin()
    stopper.on_step_end(None, at(1), control)
    assert not control.should_training_stop
    os.kill(os.getpid(), signal.SIGINT)
    assert stopper.interrupted
    stopper.on_step_end(None, at(2), control)
    assert control.should_training_stop
    assert control.should_save
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    stopper.on_train_end()
    assert signal.getsignal(signal.SIGINT) is before


def test_training_in_a_thread_leaves_signals_alone():
    from concurrent.futures import ThreadPoolExecutor

    before = signal.getsignal(signal.SIGINT)
    stopper = StopOnInterrupt()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(stopper.on_train_begin).result()
        pool.submit(stopper.on_train_end).result()
    assert signal.getsignal(signal.SIGINT) is before
