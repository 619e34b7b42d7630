"""What of a search's gain is left: its winner and the config it started from, on seeds and rows that no trial has seen.

Both are trained in full, a seed of each in turn, so that they have the same seeds whenever the time ends. Runs that an
earlier search left in the folder count where settings, seed and rows are the same.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from textlora import metrics, predict, runs
from textlora.config import Config
from textlora.data import Split
from textlora.errors import ResourceError
from textlora.halves import Halves
from textlora.paired import Gain, paired_gain
from textlora.prepare import Say
from textlora.runs import Run
from textlora.train import train

log = logging.getLogger("textlora")

BEST, START = "best", "start"
LOCK = "confirming.lock"
MARGIN = 1.1  # of a run's seconds over those of the ones before: machines aren't steady


@dataclass(frozen=True)
class Contest:
    """Who is compared on which seeds and rows, and the time there is for it."""

    folder: Path  # of the search; a run is <folder>/best/<seed> or <folder>/start/<seed>
    best: Config
    start: Config
    seeds: range
    halves: Halves
    objective: str
    run_seconds: float  # expected, of one training
    left: Callable[[], float]  # seconds
    say: Say

    @property
    def sides(self) -> dict[str, Config]:
        """What is trained: one config, if the winner is what the search started from."""
        same = _plain(self.best) == _plain(self.start)
        return {BEST: self.best} if same else {BEST: self.best, START: self.start}

    def run(self, side: str, seed: int) -> Run:
        return Run(self.folder / side / str(seed))


@dataclass(frozen=True)
class Side:
    """Several seeds of one config: which rows of the unseen half each has right, (S, N), and means on both halves."""

    right_SN: np.ndarray
    seen: float  # the objective's mean on the trials' half
    folders: list[str]

    def told(self) -> dict[str, Any]:
        accuracies = self.right_SN.mean(1).tolist()
        return {"accuracy": fmean(accuracies), "accuracies": accuracies, "seen": self.seen, "runs": self.folders}


@contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """Whether this process alone confirms in `folder`. The lock is the system's: a process that dies gives it back."""
    with closing(sqlite3.connect(folder / LOCK, timeout=0, isolation_level=None)) as lock:
        try:
            lock.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise ResourceError(f"{folder / LOCK} can't be locked: {error}", "choose another --out") from None
            yield False
        else:
            yield True


def confirm(contest: Contest, trial: dict[str, Any]) -> dict[str, Any] | None:
    """Train what isn't trained yet and judge both on the other half; None if the time isn't enough for one seed of
    each. `trial` is the best one's row."""
    asked, say = contest.seeds, contest.say
    say(
        f"confirming: the best trial's config and the one it started from, seeds {asked[0]} to {asked[-1]}, judged on "
        f"the {len(contest.halves.other)} validation rows that no trial has seen"
    )
    seeds = _train(contest)
    if not seeds:
        say(
            f"  no time for it: a seed of each takes about {contest.run_seconds * len(contest.sides):.0f} s; the same "
            f"command with --out {contest.folder} and a longer --timeout does it"
        )
        return None
    if len(seeds) < len(asked):
        say(f"  no time for more: {len(seeds)} of {len(asked)} seeds")
    sides = {side: _side(contest, side, seeds) for side in contest.sides}
    for side, judged in sides.items():
        each = ", ".join(f"{accuracy:.4f}" for accuracy in judged.told()["accuracies"])
        say(f"  {side + '.toml':<10}  accuracy {each}")
    if START not in sides:
        say("  the best trial's config is the one it started from")
    return _told(contest, seeds, sides[BEST], sides.get(START, sides[BEST]), trial)


def _train(contest: Contest) -> list[int]:
    """The seeds that are trained, of both, as far as the time goes."""
    done, expected = [], contest.run_seconds
    for seed in contest.seeds:
        missing = [side for side, one in contest.sides.items() if not _finished(contest, side, seed, one)]
        if missing and contest.left() < expected * len(missing):
            break
        began = time.monotonic()
        for side in missing:
            _train_one(contest, side, seed)
        if missing:
            expected = MARGIN * (time.monotonic() - began) / len(missing)
        done.append(seed)
    return done


def _train_one(contest: Contest, side: str, seed: int) -> None:
    run, one = contest.run(side, seed), replace(contest.sides[side], seed=seed, seeds=1)
    resume = _same(contest, run, seed, one)
    try:
        train(one, rows=contest.halves.data, out=run.folder, overwrite=not resume, resume=resume, say=log.debug)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"stopped in the confirmation; the same command with --out {contest.folder} goes on"
        ) from None


def _finished(contest: Contest, side: str, seed: int, one: Config) -> bool:
    run = contest.run(side, seed)
    return run.finished and _same(contest, run, seed, one)


def _same(contest: Contest, run: Run, seed: int, one: Config) -> bool:
    """Whether a run, finished or not, is of these settings, this seed and these rows."""
    environment = run.folder / "environment.json"
    if not (run.config_file.is_file() and environment.is_file()):
        return False
    rows = contest.halves.data
    fingerprints = {split.name: split.fingerprint for split in (rows.train, rows.validation)}
    known = run.config()
    return (
        _plain(known) == _plain(one)
        and known.seed == seed
        and runs.read_json(environment)["data"]["fingerprints"] == fingerprints
    )


def _plain(one: Config) -> dict[str, Any]:
    """Settings but for the seed, and for the time limit."""
    return {key: value for key, value in one.to_dict().items() if key not in ("seed", "seeds", "time_limit")}


def _side(contest: Contest, side: str, seeds: list[int]) -> Side:
    made = [contest.run(side, seed) for seed in seeds]
    seen = fmean(run.summary()[f"best_validation_{contest.objective}"] for run in made)
    right = np.stack([_right(run.folder, contest.sides[side], contest.halves.other) for run in made])
    return Side(right, seen, [str(run.folder) for run in made])


def _right(folder: Path, one: Config, rows: Split) -> np.ndarray:
    """Which of `rows` the run has right: (N,) bool."""
    weights = "" if one.base_weights.startswith("random:") else one.base_weights
    predictor = predict.load(folder, base_weights=weights, tokenizer=one.tokenizer)
    probabilities = predict.probabilities(predictor.predict_logits(rows.texts))
    metrics.score(rows.labels, probabilities, predictor.labels)  # raises for what is no probability
    return probabilities.argmax(1) == rows.labels


# -------------------------------------------------------------------------------------------------------------- figures


def _told(contest: Contest, seeds: list[int], best: Side, start: Side, trial: dict[str, Any]) -> dict[str, Any]:
    gain = paired_gain(start.right_SN, best.right_SN)
    claimed = trial[contest.objective] - start.seen
    confirmed = {
        "seeds": seeds,
        "rows": len(contest.halves.other),
        START: start.told(),
        BEST: best.told(),
        "claimed_gain": claimed if contest.objective == "accuracy" else None,
        "gain": gain.gain,
        "gain_ci": [gain.low, gain.high],
    }
    return confirmed | {"words": _words(contest, confirmed, gain, trial)}


def _words(contest: Contest, confirmed: dict[str, Any], gain: Gain, trial: dict[str, Any]) -> list[str]:
    """The gain in sentences, in points of accuracy."""
    objective, seeds, rows = contest.objective, len(confirmed["seeds"]), confirmed["rows"]
    mean, low, high = (f"{round(100 * value, 1) + 0.0:+.1f}" for value in gain)
    first = (
        f"Where trials were compared ({len(contest.halves.data.validation)} rows): {objective} {trial[objective]:.4f} "
        f"of trial {trial['number']}, {confirmed[START]['seen']:.4f} of what it started from (mean of {_times(seeds)})."
    )
    second = (
        f"On the other {rows} rows, {_times(seeds)} each: accuracy {confirmed[BEST]['accuracy']:.4f} and "
        f"{confirmed[START]['accuracy']:.4f}, a gain of {mean} points ({low} to {high} at 95 %)"
    )
    second += "." if gain.low > 0 else "; worse." if gain.high < 0 else ": no gain is shown, the interval holds 0."
    return [first, second, *_survives(confirmed["claimed_gain"], gain)]


def _survives(claimed: float | None, gain: Gain) -> list[str]:
    if claimed is None:
        return []
    if claimed <= 0:
        return ["The search itself found no gain."]
    return [f"Of the {100 * claimed:.1f} points that the search saw, {100 * gain.gain / claimed:.0f} % survive."]


def _times(seeds: int) -> str:
    return "1 new seed" if seeds == 1 else f"{seeds} new seeds"
