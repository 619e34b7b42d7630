"""What happens beside the training loop: dropout that changes, figures that are kept, progress, reasons to stop."""

from __future__ import annotations

import math
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn
from tqdm import tqdm
from transformers import EarlyStoppingCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from textlora import runs
from textlora.runs import Run
from textlora.schedule import by_steps, dropout

TRAINING_KEYS = ("loss", "learning_rate", "grad_norm")
SCORE_KEYS = ("n", "loss", "accuracy", "precision", "recall", "f1", "f1_macro")


class DropoutScheduler(TrainerCallback):
    """Sets the adapters' dropout before each step; the second seed's idea, here a pure function of the step.

    `pace` says how far along a run is.
    """

    def __init__(
        self,
        model: nn.Module,
        start: float,
        end: float,
        curve: str,
        pace: Callable[[float, int], float] = by_steps,
    ) -> None:
        self.modules = [m for name, m in model.named_modules() if "lora_dropout" in name and isinstance(m, nn.Dropout)]
        self.start, self.end, self.curve, self.pace = start, end, curve, pace
        self.value = start

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        step = self.pace(state.global_step, state.max_steps)
        self.value = dropout(step, state.max_steps, self.start, self.end, self.curve)
        for module in self.modules:
            module.p = self.value


class Meter(TrainerCallback):
    """Counts texts, real tokens and seconds of the optimizer steps; evaluating and saving are not training time."""

    def __init__(self) -> None:
        self.texts = 0.0
        self.tokens = 0
        self.seconds = 0.0
        self.steps = self.planned_steps = 0
        self._mark = 0.0

    def count(self, texts: float, tokens: int) -> None:
        """`texts` may be a part: a text in several windows is counted by their shares."""
        self.texts += texts
        self.tokens += tokens

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._mark = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        now = time.perf_counter()
        self.seconds += now - self._mark
        self._mark = now

    on_evaluate = on_save = on_train_begin

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.steps, self.planned_steps = state.global_step, state.max_steps


class MetricsTracker(TrainerCallback):
    """Writes metrics.jsonl: a line for each logged step, two (validation, train sample) for each evaluation."""

    def __init__(self, run: Run, meter: Meter, scheduler: DropoutScheduler) -> None:
        self.run, self.meter, self.scheduler = run, meter, scheduler
        self._seen = (0, 0, 0.0)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, Any], **_: Any
    ) -> None:
        if "learning_rate" not in logs:  # the evaluation's and the end's summary come through here too
            return
        record = _where(state, "train") | {key: logs[key] for key in TRAINING_KEYS if key in logs}
        self.run.note(record | {"dropout": self.scheduler.value} | self._rates())

    def _rates(self) -> dict[str, float]:
        texts, tokens, seconds = self._seen
        self._seen = (self.meter.texts, self.meter.tokens, self.meter.seconds)
        spent = max(self.meter.seconds - seconds, 1e-9)
        return {
            "samples_per_second": round((self.meter.texts - texts) / spent, 2),
            "tokens_per_second": round((self.meter.tokens - tokens) / spent, 1),
        }

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: dict[str, float], **_: Any
    ) -> None:
        for split, prefix in (("validation", "eval"), ("train_sample", "eval_train_sample")):
            self.run.note(_where(state, split) | {key: metrics[f"{prefix}_{key}"] for key in SCORE_KEYS})


def _where(state: TrainerState, split: str) -> dict[str, Any]:
    return {"step": state.global_step, "epoch": round(state.epoch or 0.0, 4), "split": split}


class Progress(TrainerCallback):
    """A bar with the time left on a terminal; elsewhere one line for each evaluation, so that logs stay short."""

    def __init__(self, say: Callable[[str], None], limit: Callable[[], float] = lambda: math.inf) -> None:
        self.say, self.limit = say, limit  # seconds that a time limit leaves
        self.bar: tqdm[Any] | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if sys.stderr.isatty():
            self.bar = tqdm(
                total=state.max_steps, initial=state.global_step, unit="step", dynamic_ncols=True, leave=False
            )
        self._start = (time.monotonic(), state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.bar:
            self.bar.update()

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: dict[str, float], **_: Any
    ) -> None:
        began, first = self._start
        left = (time.monotonic() - began) / max(1, state.global_step - first) * (state.max_steps - state.global_step)
        left = max(0.0, min(left, self.limit()))
        line = (
            f"  step {state.global_step}/{state.max_steps}  validation loss {metrics['eval_loss']:.3f}  "
            f"accuracy {metrics['eval_accuracy']:.4f}  macro-F1 {metrics['eval_f1_macro']:.4f}  {left:.0f} s left"
        )
        self.bar.write(line, file=sys.stderr) if self.bar else self.say(line)

    def on_train_end(self, *_: Any, **__: Any) -> None:
        if self.bar:
            self.bar.close()


class StopOnInterrupt(TrainerCallback):
    """Ctrl-C finishes the step, judges it where that is due, saves a checkpoint and stops; a second one stops at once.

    What is due must be done: a resumed run goes on behind it, and would never do it.
    """

    def __init__(self) -> None:
        self.interrupted = False

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        try:
            self._before = signal.signal(signal.SIGINT, self._note)
        except ValueError:  # not the main thread: Ctrl-C never comes here
            self._before = None

    def _note(self, *_: Any) -> None:
        self.interrupted = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.interrupted:
            control.should_save = control.should_training_stop = True

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.on_step_end(args, state, control)
        whole = float(state.epoch or 0).is_integer() or state.global_step >= state.max_steps
        if self.interrupted and not whole:  # an epoch that was left in its midst would be judged as if it had ended
            control.should_evaluate = False

    def on_train_end(self, *_: Any, **__: Any) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)


def early_stopping(patience: int, start: Path | None) -> EarlyStoppingCallback:
    """Patience counts evaluations; a resumed run goes on counting where its checkpoint was."""
    callback = EarlyStoppingCallback(patience)
    if start:
        saved = runs.read_json(start / "trainer_state.json")["stateful_callbacks"]["EarlyStoppingCallback"]
        callback.early_stopping_patience_counter = saved["attributes"]["early_stopping_patience_counter"]
    return callback
