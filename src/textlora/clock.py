"""A time limit kept: how far along a run is when the clock decides, and when it must stop training.

Progress is the larger of the share of time and the share of steps, so schedules end at the end whichever comes first.
What follows training (judging, saving) has seconds reserved for it, corrected as soon as they have been measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from textlora import runs
from textlora.errors import UsageError

EVALUATION_SHARE = 0.03  # of the limit that one evaluation during training may take
FEWEST_JUDGED = 100  # validation rows that it scores at least, where there are as many
CHANCE = 1.25  # what is kept for the end over what was measured: machines aren't steady
PICTURES_SECONDS = 3.0  # pictures, card and hashes


class Clock(TrainerCallback, ExportableState):
    """Ends a run within `limit` seconds of `began`, and tells the schedules where they are.

    `used` and `progress` are what a resumed run had used up by its checkpoint: it gets the rest. All in seconds.
    """

    def __init__(
        self,
        limit: float,
        began: float,
        used: float = 0.0,
        progress: float = 0.0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limit, self.began, self.now = limit, began - used, now
        self.progress = self._progress_before = progress
        self.stopped = False
        self.reserve = 0.0
        self._start = self._mark = began
        self._row_seconds, self._rows_to_judge, self._fixed = 0.0, 0, 0.0

    @property
    def left(self) -> float:
        """Seconds of training that are left."""
        return self.began + self.limit - self.reserve - self.now()

    def measured(self, rows: int, seconds: float) -> None:
        """What judging takes, as the latest scoring of `rows` shows it; the seconds kept for the end follow."""
        self._row_seconds = seconds / rows
        self.reserve = CHANCE * self._row_seconds * self._rows_to_judge + self._fixed

    @property
    def rows_within(self) -> int:
        """Rows of validation, and as many of training, that one evaluation during training may score."""
        return max(FEWEST_JUDGED, int(EVALUATION_SHARE * self.limit / (2 * self._row_seconds)))

    def start(self, rows_to_judge: int, build_seconds: float) -> None:
        """Training begins: seconds are kept for judging rows and for building the model once more.

        Raises UsageError if nothing is left to train.
        """
        self._rows_to_judge, self._fixed = rows_to_judge, PICTURES_SECONDS + CHANCE * build_seconds
        self.measured(1, self._row_seconds)
        self._start = self._mark = self.now()
        if self.left <= 0:
            used = self._start - self.began
            raise UsageError(
                f"the time limit of {self.limit:.0f} s leaves none to train: {used:.0f} s went into reading, baselines "
                f"and the base, judging and saving will take {self.reserve:.0f} s",
                f"give at least --time-limit {2 * (used + self.reserve):.0f}s",
            )

    def place(self, step: float, steps: int) -> float:
        """The step, a fraction, at which a run without a clock would be as far along as this one is."""
        elapsed = self.now() - self._start
        by_time = elapsed / max(elapsed + self.left, 1e-9)
        by_time = self._progress_before + (1 - self._progress_before) * by_time
        self.progress = min(1.0, max(self.progress, by_time, step / steps))
        return self.progress * steps

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Stop when another step like the last wouldn't fit; its weights are scored and saved like any others."""
        now = self.now()
        step_seconds, self._mark = now - self._mark, now
        if self.left < step_seconds and not control.should_training_stop:
            self.stopped = control.should_training_stop = control.should_evaluate = control.should_save = True

    def on_evaluate(self, *_: Any, **__: Any) -> None:
        self._mark = self.now()

    on_save = on_evaluate

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.stopped:  # scored and saved at the step already
            control.should_evaluate = control.should_save = False

    def state(self) -> dict[str, Any]:
        """Kept in checkpoints, for `clock_for`."""
        return {"args": {}, "attributes": {"used": self.now() - self.began, "progress": self.progress}}


def clock_for(limit: float, began: float, checkpoint: Path | None) -> Clock | None:
    """The clock of a run that may go on from `checkpoint`; None without a limit."""
    if not limit:
        return None
    if checkpoint is None:
        return Clock(limit, began)
    saved = runs.read_json(checkpoint / "trainer_state.json")["stateful_callbacks"]["Clock"]["attributes"]
    return Clock(limit, began, saved["used"], saved["progress"])
