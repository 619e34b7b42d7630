"""One trial of a search: a config trained on what all trials share, watched, scored, its weights thrown away."""

from __future__ import annotations

import math
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from textlora import engine, metrics, predict, prefix, runs
from textlora.callbacks import Meter
from textlora.clock import CHANCE, clock_for
from textlora.config import Config
from textlora.data import Data, Split
from textlora.errors import BudgetError, UsageError, is_out_of_memory
from textlora.metrics import ProbabilityError
from textlora.prepare import Prepared, prepare, whole_texts
from textlora.provenance import write_settings
from textlora.runs import Run
from textlora.study import OUT_OF_TIME
from textlora.train import blended, fit, solve_head

FINISHED, PRUNED, DIVERGED = "finished", "pruned", "diverged"
INFEASIBLE, FAILED = "infeasible", "failed"  # settings that no training takes, or no memory for them


@dataclass
class Shared:
    """What all trials of a process have in common, and what earlier ones taught."""

    data: Data  # its validation rows are the trials' half
    objective: str
    marks: Sequence[int]  # texts seen, at which trials are compared
    ids: dict[tuple[tuple[str, ...], str], list[np.ndarray]] = field(default_factory=dict)
    folder: Path | None = None  # where frozen blocks' output is kept from trial to trial
    closing_seconds: float = 0.0  # the most that a trial took from its last step to its score

    def tokenised(self, config: Config, tokenizer: Any, split: Split) -> list[np.ndarray]:
        """As `prepare.whole_texts`, once for each way of cleaning."""
        key = (config.cleaning, split.name)
        if key not in self.ids:
            self.ids[key] = whole_texts(config, tokenizer, split)
        return self.ids[key]


@dataclass(frozen=True)
class Outcome:
    """How a trial went. `scores` are those of metrics.summary_scores, empty unless it finished; `reason` is why it
    could not be trained."""

    ended: str
    config: Config
    parameters: int
    texts: int  # seen,
    texts_in_full: int  # and planned
    seconds: float
    scores: dict[str, float]
    reason: str = ""


class Watch(TrainerCallback):
    """Compares a trial with others at marks of texts seen, since steps of other batch sizes are other work; stops it
    when it does worse, or when another step would end after the deadline."""

    def __init__(
        self,
        meter: Meter,
        marks: Sequence[int],
        score: Callable[[], float],
        worse: Callable[[float, int], bool],
        left: Callable[[], float],
    ) -> None:
        self.meter, self.marks, self.score, self.worse, self.left = meter, list(marks), score, worse, left
        self.ended = FINISHED
        self._mark = time.monotonic()

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._mark = time.monotonic()

    on_evaluate = on_save = on_train_begin

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        step_seconds = time.monotonic() - self._mark
        due = [mark for mark in self.marks if mark <= self.meter.texts]
        last = state.global_step >= state.max_steps
        if self.left() < step_seconds and not last:
            self.ended = OUT_OF_TIME
        elif due and not last:  # a finished trial is scored anyway
            self.marks = self.marks[len(due) :]
            if self.worse(self.score(), due[-1]):
                self.ended = PRUNED
            self.meter.on_train_begin()  # what was scored here is no training
        self._mark = time.monotonic()
        self._stop(control)

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._stop(control)

    def _stop(self, control: TrainerControl) -> None:
        if self.ended != FINISHED:
            control.should_training_stop, control.should_evaluate, control.should_save = True, False, False


def run_trial(
    make: Callable[[], Config],
    shared: Shared,
    folder: Path,
    worse: Callable[[float, int], bool],
    left: Callable[[], float],
) -> Outcome:
    """As `_run_trial`, of the config that `make` makes; one that can't be trained is an outcome too."""
    began, config = time.monotonic(), Config()
    try:
        config = make()
        return _run_trial(config, shared, folder, worse, left)
    except (UsageError, BudgetError) as error:
        ended, reason = INFEASIBLE, error.message
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        ended, reason = FAILED, "out of memory"
    folder.mkdir(parents=True, exist_ok=True)
    return Outcome(ended, config, 0, 0, 0, time.monotonic() - began, {}, reason)


def _run_trial(
    config: Config, shared: Shared, folder: Path, worse: Callable[[float, int], bool], left: Callable[[], float]
) -> Outcome:
    """Train `config` in `folder` and score it on the trials' half of validation.

    `worse(score, texts)` is asked at each mark whether to stop; `left()` are the seconds that are left. What stays in
    the folder is the config, replayable with `textlora train --recipe`, the plan, the environment and the curves.
    """
    began = time.monotonic()
    run = runs.create(folder, overwrite=True)
    prepared = prepare(config.checked(), _quiet, shared.data, shared.tokenised)
    write_settings(run, prepared)
    meter = Meter()
    clock = clock_for(prepared.config.time_limit_seconds, began, None)
    reserve = CHANCE * shared.closing_seconds
    watch = Watch(meter, shared.marks, lambda: _so_far(prepared)[shared.objective], worse, lambda: left() - reserve)
    scores: dict[str, float] = {}
    try:
        engine.use(prepared.network, prepared.config.engine, _quiet)
        kept = shared.folder or folder
        hidden = prefix.left_out(prepared, kept / prefix.FOLDER, _quiet, watch.left, shared=shared.folder is not None)
        with _interrupts_as_before(), hidden:
            trained = fit(run, prepared, meter, clock=clock, watching=[watch], say=_quiet)
        closing = time.monotonic()
        if watch.ended == FINISHED:
            blended(prepared, trained, _quiet)
            scores = _scores(prepared)
            shared.closing_seconds = max(shared.closing_seconds, time.monotonic() - closing)
    except ProbabilityError:
        watch.ended = DIVERGED
    finally:
        _throw_away_weights(run)
    return Outcome(
        ended=watch.ended,
        config=prepared.config,
        parameters=prepared.plan.trainable,
        texts=round(meter.texts),
        texts_in_full=_texts_in_full(prepared, meter),
        seconds=time.monotonic() - began,
        scores=scores,
    )


def _so_far(prepared: Prepared) -> dict[str, float]:
    """Between evaluations, which alone see to a head that is solved for."""
    solve_head(prepared)
    return _scores(prepared)


def _scores(prepared: Prepared) -> dict[str, float]:
    logits = predict.logits(prepared.network, prepared.validation, prepared.pad_id)
    return metrics.summary_scores(prepared.data.validation.labels, logits)


def _texts_in_full(prepared: Prepared, meter: Meter) -> int:
    if meter.steps and meter.planned_steps:
        return round(meter.texts / meter.steps * meter.planned_steps)
    return round(prepared.train.texts * prepared.config.num_train_epochs)


def _throw_away_weights(run: Run) -> None:
    for part in (run.checkpoints, run.adapter, run.evaluation):
        shutil.rmtree(part, ignore_errors=True)


@contextmanager
def _interrupts_as_before() -> Iterator[None]:
    """Training that ends in an exception leaves its handler of Ctrl-C behind."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)


def _quiet(_: str) -> None:
    """A trial's own lines are too many: a search has one for each trial."""


def marks(texts: float) -> list[int]:
    """Texts seen at which trials are compared, where the config that a search starts from sees `texts` in all.

    Often at first, when the hopeless show, but after a recipe's warm-up; each costs a look at the trials' half of
    validation. Multiples of the first, as study.pruner's rungs are.
    """
    first = max(1, math.ceil(texts / 12))
    return [first * times for times in (1, 2, 4, 8, 12)]
