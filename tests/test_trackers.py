"""Trackers: where they write, what wins, and that a missing or failing one is told in words.

Those that are installed train a tiny run; the project's own environment may have none of them.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from types import SimpleNamespace

import pytest

from textlora import cli, runs, trackers
from textlora.errors import ResourceError, UsageError
from textlora.train import train

ALL = ("tensorboard", "mlflow", "wandb")


@pytest.fixture
def run(tmp_path):
    return runs.create(tmp_path / "run")


@pytest.fixture
def no_key(monkeypatch):
    monkeypatch.setattr(trackers, "_has_wandb_key", lambda: False)


def write(names, run):
    return trackers.writing(names, run, lambda line: None)


def test_all_write_into_the_run_and_the_environment_is_as_before(run, no_key):
    before = dict(os.environ)
    with write(ALL, run):
        changed = {key: value for key, value in os.environ.items() if before.get(key) != value}
    assert dict(os.environ) == before
    assert changed.pop("WANDB_MODE") == "offline"
    assert {changed.pop(key) for key in ("WANDB_PROJECT", "MLFLOW_EXPERIMENT_NAME")} == {"textlora"}
    assert changed.keys() == {"TENSORBOARD_LOGGING_DIR", "MLFLOW_TRACKING_URI", "WANDB_DIR"}
    assert all(run.trackers.as_posix() in value for value in changed.values())


@pytest.mark.parametrize("name", ["TENSORBOARD_LOGGING_DIR", "MLFLOW_TRACKING_URI", "WANDB_DIR", "WANDB_MODE"])
def test_what_the_environment_says_comes_first(run, no_key, monkeypatch, name):
    monkeypatch.setenv(name, "mine")
    with write(ALL, run):
        assert os.environ[name] == "mine"
    assert os.environ[name] == "mine"


def test_wandb_with_a_key_is_left_to_its_own_mode(run, monkeypatch):
    monkeypatch.setattr(trackers, "_has_wandb_key", lambda: True)
    with write(["wandb"], run):
        assert "WANDB_MODE" not in os.environ


def test_no_tracker_no_folder(run):
    with write([], run):
        pass
    assert not run.trackers.exists()


def test_a_trackers_own_error_is_told_in_words_and_others_pass(run, no_key):
    down = type("MlflowException", (Exception,), {"__module__": "mlflow.exceptions"})
    with pytest.raises(ResourceError, match="the tracker mlflow failed: no server at 5000; set it up"), write(ALL, run):
        raise down("no server at 5000\nand more")
    with pytest.raises(down), write([], run):
        raise down("not ours")
    with pytest.raises(ZeroDivisionError), write(ALL, run):
        _ = 1 / 0
    assert "MLFLOW_TRACKING_URI" not in os.environ


def test_a_wandb_run_that_training_opened_is_finished_and_the_users_own_is_not(run, no_key, monkeypatch):
    finished = []
    wandb = SimpleNamespace(run=None, finish=lambda: finished.append(wandb.run))
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    with write(["wandb"], run):
        wandb.run = "opened"
    assert finished == ["opened"]
    with write(["wandb"], run):
        pass
    assert finished == ["opened"]


def test_an_unknown_tracker_and_one_that_is_not_installed_stop_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(trackers, "get_available_reporting_integrations", lambda: [])
    with pytest.raises(UsageError, match="did you mean tensorboard"):
        trackers.check(["tensorbord"])
    with pytest.raises(ResourceError, match="mlflow isn't installed; pip install mlflow"):
        trackers.check(["mlflow"])
    words = ["train", "--data", "mini-news", "--out", str(tmp_path / "run"), "--report-to"]
    assert cli.main([*words, "wandb"]) == 7
    assert cli.main([*words, "wand"]) == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # theirs
@pytest.mark.parametrize("name", ALL)
def test_an_installed_tracker_writes_into_the_run_alone(tiny_config, tmp_path, monkeypatch, name):
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} isn't installed")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # no key, no settings
    run = train(tiny_config("bert", max_steps=20, report_to=(name,)), out=tmp_path / "run", say=lambda line: None)
    assert [path for path in run.trackers.rglob("*") if path.is_file()]
    assert list(work.iterdir()) == []
    assert not [name for name in runs.listed(run.folder) if name.startswith("trackers")]  # theirs to go on writing
    assert not [path for path in run.checkpoints.iterdir() if path.name == "runs"]
