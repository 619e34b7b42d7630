"""The confirmation of a search: pairs of runs as far as the time goes, by one process at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from textlora import confirm, runs, search
from textlora.config import Config
from textlora.confirm import Contest
from textlora.study import ENDED, Options

optuna = pytest.importorskip("optuna", reason="the extra `tune` isn't installed: no search is tested")

LOCKS = "import sqlite3, sys, time; c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
LOCKS += "c.execute('BEGIN EXCLUSIVE'); print('locked', flush=True); time.sleep(60)"
STATES = {"finished": optuna.trial.TrialState.COMPLETE, "time": optuna.trial.TrialState.FAIL}


@pytest.fixture
def contest(tmp_path):
    """Two configs, three seeds, rows that are fingerprints only."""
    rows = SimpleNamespace(
        train=SimpleNamespace(name="train", fingerprint="t"),
        validation=SimpleNamespace(name="validation", fingerprint="v"),
    )
    return Contest(
        folder=tmp_path,
        best=Config(learning_rate=7e-3),
        start=Config(),
        seeds=range(1, 4),
        halves=SimpleNamespace(data=rows),  # type: ignore[arg-type]
        objective="accuracy",
        run_seconds=20,
        left=lambda: float("inf"),
        say=lambda _: None,
    )


def trained(contest: Contest, side: str, seed: int) -> None:
    """The files of a finished run by which it is known again."""
    run = contest.run(side, seed)
    run.folder.mkdir(parents=True)
    run.write_config(replace(contest.sides[side], seed=seed))
    run.write("environment.json", {"data": {"fingerprints": {"train": "t", "validation": "v"}}})
    run.write("summary.json", {})


@pytest.mark.parametrize(
    ("seconds", "done", "kept"),
    [
        (1000, [], [1, 2, 3]),
        (90, [], [1, 2]),
        (79, [], [1]),
        (39, [], []),
        (21, [1, 2], [1, 2]),
        (45, [1, 2], [1, 2, 3]),
    ],
)
def test_seeds_are_trained_by_turns_as_far_as_the_time_goes(contest, monkeypatch, seconds, done, kept):
    now = [0.0]

    def train(one: Config, *, out: Path, **_: Any) -> None:
        now[0] += 20
        trained(contest, out.parent.name, one.seed)

    monkeypatch.setattr(confirm, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(confirm, "train", train)
    for seed in done:
        for side in contest.sides:
            trained(contest, side, seed)
    assert confirm._train(replace(contest, left=lambda: seconds - now[0])) == kept
    assert now[0] <= seconds
    assert {path.name for path in (contest.folder / "start").glob("*")} == {str(seed) for seed in kept}


def test_a_run_of_another_seed_other_rows_or_settings_is_trained_again(contest):
    def known(of: Contest, side: str, seed: int) -> bool:
        return confirm._finished(of, side, seed, replace(of.sides[side], seed=seed))

    trained(contest, "best", 1)
    trained(contest, "start", 1)
    assert known(contest, "best", 1)
    assert not known(contest, "best", 2)
    (contest.folder / "best" / "1").rename(contest.folder / "best" / "2")
    assert not known(contest, "best", 2)
    assert not known(replace(contest, start=Config(lora_dropout=0.2)), "start", 1)
    runs.write_json(contest.folder / "start" / "1" / "environment.json", {"data": {"fingerprints": {"train": "u"}}})
    assert not known(contest, "start", 1)


def test_where_the_start_wins_it_is_trained_once(contest):
    assert list(replace(contest, best=Config(seed=5)).sides) == ["best"]


def test_one_process_confirms_in_a_folder_and_a_dead_one_s_claim_is_free(tmp_path):
    with confirm.claimed(tmp_path) as first, confirm.claimed(tmp_path) as second:
        assert (first, second) == (True, False)
    holder = subprocess.Popen(
        [sys.executable, "-c", LOCKS, str(tmp_path / confirm.LOCK)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    with holder, holder.stdout:
        assert holder.stdout.readline() == "locked\n"
        with confirm.claimed(tmp_path) as ours:
            assert not ours
        os.kill(holder.pid, signal.SIGKILL)
    with confirm.claimed(tmp_path) as ours:
        assert ours


@pytest.mark.parametrize(
    ("timeout", "pair", "scored", "seconds"),
    [
        ("1800", 385.0, 1, 770.0),
        ("1800", 100.0, 1, 300.0),
        ("1800", 901.0, 1, 0.0),
        ("1800", 385.0, 0, 0.0),
        ("", 9.0, 1, 0),
    ],
)
def test_at_most_half_of_the_time_is_kept_for_the_confirmation(monkeypatch, timeout, pair, scored, seconds):
    monkeypatch.setattr(search, "_scored", lambda _: [None] * scored)
    monkeypatch.setattr(search, "_pair_seconds", lambda _: pair)
    assert search._reserve(SimpleNamespace(options=Options(timeout=timeout))) == seconds  # type: ignore[arg-type]


def test_the_process_that_ended_the_last_trial_confirms_and_not_while_others_run():
    made = optuna.create_study()

    def ends(how: str) -> int:
        trial = made.ask()
        trial.set_user_attr(ENDED, how)
        made.tell(trial, None if how == "time" else 0.5, state=STATES[how])
        return trial.number

    def confirms(mine: set[int], waited: bool = False) -> bool:
        store = SimpleNamespace(study=made, retries=True)
        return search._ours_to_confirm(SimpleNamespace(store=store, mine=mine, waited=waited, say=print))  # type: ignore[arg-type]

    first, last = ends("finished"), ends("time")  # the second was stopped by its process's time limit
    assert confirms({last})
    assert not confirms({first})
    assert confirms(set())  # of a search that was done already
    assert not confirms(set(), waited=True)
    made.ask()  # another process's
    assert not confirms({last})
