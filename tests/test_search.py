"""A search: trials within the budget, kept in a database, shared by processes; the gain told on unseen rows."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from textlora import cli, runs
from textlora import config as configs
from textlora import search as search_module
from textlora import study as studies
from textlora import trial as trials
from textlora.data import Data, Split
from textlora.errors import BudgetError, DataError, ResourceError, UsageError
from textlora.halves import halved
from textlora.search import Search, tune
from textlora.study import Options
from textlora.tables import search_table

optuna = pytest.importorskip("optuna", reason="the extra `tune` isn't installed: no search is tested")

WORKER = Path(__file__).with_name("search_worker.py")
POSTGRES = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"))), None)


def quiet(_: str) -> None:
    pass


# ------------------------------------------------------------------------------------------------------------- halves


def rows(name: str, labels: list[int]) -> Split:
    texts = [f"{name} {k} of {label}" for k, label in enumerate(labels)]
    return Split(name, texts, np.array(labels), [f"f:{k}" for k in range(len(labels))], ("a", "b", "c"))


def data(train: list[int], validation: list[int]) -> Data:
    test = rows("test", [0, 1])
    splits = rows("train", train), rows("validation", validation)
    return Data("d", ("a", "b", "c"), ("text",), "label", *splits, test, (), {})


def test_halves_are_stratified_disjoint_and_by_the_seed_alone():
    whole = data([0, 1, 2], [0] * 11 + [1] * 8 + [2] * 5)
    first, again, other = halved(whole, 0), halved(whole, 0), halved(whole, 1)
    assert first.data.validation.texts == again.data.validation.texts != other.data.validation.texts
    assert np.bincount(first.data.validation.labels).tolist() == [6, 4, 3]
    assert sorted(first.data.validation.texts + first.other.texts) == sorted(whole.validation.texts)
    assert first.data.test is None


def test_near_duplicates_are_in_one_half():
    labels = [k % 2 for k in range(40)]
    whole = data([0, 1], labels)
    words = [
        f"story {k} of many words that nobody else has told {k} times in {k} ways before, they say" for k in range(40)
    ]
    for k in range(0, 40, 4):  # pairs of both labels and of one
        words[k + 1 + k % 8 // 4] = words[k] + " again"
    rows_of = replace(whole.validation, texts=words)
    for seed in range(5):
        found = halved(replace(whole, validation=rows_of), seed)
        ours, others = (
            {text.removesuffix(" again") for text in of.texts} for of in (found.data.validation, found.other)
        )
        assert not ours & others
        assert abs(len(found.data.validation) - 20) <= 2


@pytest.mark.parametrize(
    ("train", "validation", "words"),
    [
        ([0, 1, 2] * 3, [0], "validation has 1 rows"),
        ([0, 1, 2], [0] * 20 + [1] * 20, "validation has no row of c"),
        ([0, 1, 2] * 30, [0, 1, 2] * 6, "a search takes 20 rows"),
    ],
)
def test_validation_that_can_not_be_halved_is_a_data_error(train, validation, words):
    with pytest.raises(DataError) as caught:
        halved(data(train, validation), 0)
    assert words in str(caught.value)


# ------------------------------------------------------------------------------------------------------------- a search


@pytest.fixture(scope="module")
def searched(tiny_config, tmp_path_factory):
    """Four trials and their confirmation; what was said."""
    out, said = tmp_path_factory.mktemp("search") / "s", []
    config = tiny_config("bert", max_steps=-1)
    options = Options(trials=4, sampler="random", pruner="none", confirm_seeds=2)
    return tune(config, options, out=out, say=said.append), out, said


@pytest.mark.slow
def test_every_trial_is_a_config_within_the_budget_that_replays(searched, tmp_path):
    result, out, _ = searched
    assert len(result["trials"]) == 4
    for row in result["trials"]:
        kept = out / "trials" / f"{row['number']:04d}"
        assert runs.read_json(kept / "plan.json")["trainable"] == row["parameters"] <= 1_000_000
        assert not list(kept.rglob("*.safetensors"))
        config = configs.load(str(kept / "config.toml"))
        assert config.to_dict() == configs.from_dict(row["config"]).to_dict()
    best = result["best"]
    assert configs.load(str(out / "best.toml")) == configs.from_dict(best["config"])
    assert result["budget"] == 1_000_000
    assert "number" in json.dumps(result, allow_nan=False)


@pytest.mark.slow
def test_a_trial_replayed_on_the_same_rows_has_the_same_score(searched):
    from textlora.prepare import load_data
    from textlora.train import train

    result, out, _ = searched
    best = result["best"]
    config = configs.load(str(out / "trials" / f"{best['number']:04d}" / "config.toml"))
    halves = halved(load_data(config), config.split_seed)
    run = train(config, rows=halves.data, out=out.parent / "again", say=quiet)
    assert run.summary()["best_validation_accuracy"] == best["accuracy"]


@pytest.mark.slow
def test_the_gain_is_told_on_rows_and_seeds_that_no_trial_saw(searched):
    result, out, said = searched
    confirmed = result["confirmed"]
    assert confirmed["seeds"] == [1, 2]
    assert confirmed["rows"] == 60
    for side in ("best", "start"):
        assert len(confirmed[side]["accuracies"]) == 2
        for run in confirmed[side]["runs"]:
            used = runs.read_json(Path(run) / "environment.json")["data"]
            assert set(used["rows"]) == {"train", "validation"}  # no test rows
            assert used["rows"]["validation"] == 60
    low, high = confirmed["gain_ci"]
    assert low <= confirmed["gain"] <= high
    assert confirmed["gain"] == pytest.approx(confirmed["best"]["accuracy"] - confirmed["start"]["accuracy"])
    assert any("trial   0" in line for line in said)
    assert {path.stem for path in (out / "pictures").iterdir()} >= {"history", "slices", "parallel"}


@pytest.mark.slow
def test_a_search_goes_on_where_it_was_and_a_study_of_another_task_is_refused(searched, tiny_config, tmp_path):
    result, out, _ = searched
    copy = shutil.copytree(out, tmp_path / "s")
    config = tiny_config("bert", max_steps=-1)
    options = Options(trials=5, sampler="random", confirm_seeds=0)
    more = tune(config, options, out=copy, say=quiet)
    assert [row["number"] for row in more["trials"]] == [0, 1, 2, 3, 4]
    assert more["trials"][:4] == result["trials"]
    for changed in (
        replace(config, budget=900_000),
        replace(config, split_seed=1),
        replace(config, optim="sgd"),
    ):
        with pytest.raises(UsageError, match="belongs to another search"):
            tune(changed, options, out=copy, say=quiet)
    with pytest.raises(UsageError, match="belongs to another search: objective"):
        tune(config, replace(options, objective="f1_macro"), out=copy, say=quiet)


@pytest.mark.slow
def test_two_objectives_give_a_front_and_a_journal_goes_on(tiny_config, tmp_path):
    config = tiny_config("bert")
    said: list[str] = []
    options = Options(
        trials=3, against="parameters", confirm_seeds=0, storage=f"journal:{tmp_path / 'j.log'}", sampler="random"
    )
    result = tune(config, options, out=tmp_path / "s", say=said.append)
    by_number = {row["number"]: row for row in result["trials"]}
    front = [by_number[number] for number in result["front"]]
    assert front
    assert [row["accuracy"] for row in front] == sorted(row["accuracy"] for row in front)
    assert [row["parameters"] for row in front] == sorted(row["parameters"] for row in front)
    assert (tmp_path / "s" / "pictures" / "pareto.png").is_file()
    words = "\n".join(said)
    assert "two objectives: no pruner" in words
    assert "a journal file has no heartbeat" in words
    more = tune(config, replace(options, trials=4), out=tmp_path / "s", say=quiet)
    assert [row["number"] for row in more["trials"]] == [0, 1, 2, 3]


@pytest.mark.slow
def test_worse_trials_are_pruned_and_seen_texts_are_fewer(tiny_config, tmp_path, monkeypatch):
    def scores(prepared):  # so tiny a base learns too little to differ
        accuracy = 0.9 if prepared.config.learning_rate > 1e-6 else 0.3
        return {"accuracy": accuracy, "f1_macro": accuracy, "loss": 1 - accuracy}

    monkeypatch.setattr(trials, "_scores", scores)
    file = tmp_path / "space.toml"
    file.write_text("[search]\nlearning_rate = [1e-9, 5e-3]\n[pruner]\nstartup_trials = 1")
    config = tiny_config("bert", max_steps=-1, num_train_epochs=2.0)
    result = tune(
        config, Options(trials=5, space=str(file), confirm_seeds=0, sampler="random"), out=tmp_path / "s", say=quiet
    )
    ended = {(row["params"]["learning_rate"], row["ended"]) for row in result["trials"]}
    assert (1e-9, "pruned") in ended
    assert (1e-9, "finished") not in ended
    assert result["texts"] < result["texts_in_full"]


@pytest.mark.slow
def test_the_time_limit_stops_a_trial_and_the_next_search_does_it_again(tiny_config, tmp_path, monkeypatch):
    looks: list[float] = []

    def left(search: Search) -> float:
        """Ends in the second trial, however fast the machine is."""
        looks.extend([math.inf] if search.mine else [])
        return 0.0 if len(looks) > 4 else math.inf

    options = Options(trials=3, confirm_seeds=0, sampler="random", pruner="none")
    monkeypatch.setattr(Search, "left", property(left))
    result = tune(tiny_config("bert"), options, out=tmp_path / "s", say=quiet)
    assert [row["ended"] for row in result["trials"]] == ["finished", "time"]
    assert result["waiting"] == 1
    with pytest.raises(UsageError, match="no trial came to its end"):
        tune(tiny_config("bert"), options, out=tmp_path / "none", say=quiet)
    monkeypatch.undo()
    more = tune(tiny_config("bert"), options, out=tmp_path / "s", say=quiet)
    assert [row["ended"] for row in more["trials"]] == ["finished", "time", "finished", "finished"]
    assert more["waiting"] == 0


@pytest.mark.slow
def test_settings_that_can_not_be_trained_end_their_trial_alone(tiny_config, tmp_path, monkeypatch):
    real, made = search_module.propose, []

    def propose(trial, space):
        made.append(trial.number)
        if trial.number == 1:
            raise BudgetError("one parameter too many")
        return replace(real(trial, space), batch_tokens=8 if trial.number == 2 else 512, auto=())

    def out_of_memory(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    said: list[str] = []
    monkeypatch.setattr(search_module, "propose", propose)
    options = Options(trials=3, confirm_seeds=0, sampler="random", pruner="none")
    result = tune(tiny_config("bert"), options, out=tmp_path / "s", say=said.append)
    assert [row["ended"] for row in result["trials"]] == ["finished", "infeasible", "infeasible"]
    assert any("infeasible: one parameter too many" in line for line in said)
    assert "batch_tokens 8 is below max_length" in result["trials"][2]["reason"]
    assert search_table(result)
    monkeypatch.setattr(trials, "fit", out_of_memory)
    with pytest.raises(ResourceError, match="none of 3 trials could be trained: out of memory"):
        tune(tiny_config("bert"), options, out=tmp_path / "full", say=quiet)


@pytest.mark.slow
def test_the_command_line_prints_one_object_and_says_what_is_wrong(tiny_config, tmp_path, capsys):
    config = tiny_config("bert")
    (tmp_path / "start.toml").write_text(configs.to_toml(config))
    words = ["tune", "--recipe", str(tmp_path / "start.toml"), "--trials", "1", "--confirm-seeds", "0", "--json"]
    assert cli.main([*words, "--out", str(tmp_path / "s")]) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result["best"]["params"]) == set(result["domains"])
    assert tomllib.loads((tmp_path / "s" / "best.toml").read_text())["base"] == "bert"
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "note.txt").write_text("mine")
    for more, code in (
        (["--out", str(tmp_path / "run"), "--overwrite"], 2),
        (["--space", "budgets"], 2),
        (["--sampler", "grid"], 2),
        (["--timeout", "soon"], 2),
        (["--trials", "0"], 2),
        (["--seeds", "3"], 2),
        (["--storage", "oracle"], 2),
        (["--budget", "100"], 4),
        (["--storage", "postgresql://nobody@127.0.0.1:9/none"], 7),
        (["--storage", f"sqlite:///{tmp_path}/no/such/folder/study.db"], 7),
        (["--storage", f"journal:{tmp_path}/no/such/folder/log"], 7),
    ):
        assert cli.main([*words, "--out", str(tmp_path / "new"), *more]) == code, more
        error = json.loads(capsys.readouterr().out)["error"]
        assert error["message"]
    assert (tmp_path / "run" / "note.txt").is_file()


def test_ten_rows_are_too_few(tiny_config, tmp_path):
    file = tmp_path / "ten.csv"
    with file.open("w", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(["text", "label"])
        writer.writerows([[f"a text about the {k % 2} number {k} of ten", f"l{k % 2}"] for k in range(10)])
    with pytest.raises(DataError, match="a search takes 20 rows"):
        tune(tiny_config("bert", data=str(file)), Options(trials=1), out=tmp_path / "s", say=quiet)
    assert not (tmp_path / "s").exists()


def test_a_space_that_can_not_fit_leaves_nothing_behind(tiny_config, tmp_path):
    file = tmp_path / "space.toml"
    file.write_text("[search]\nhead = ['linear', 'full']\nlora_dropout = [0.0]")
    with pytest.raises((BudgetError, UsageError)):
        tune(tiny_config("bert", budget=3_000, lora_r=1), Options(space=str(file)), out=tmp_path / "s", say=quiet)
    assert not (tmp_path / "s").exists()


def test_a_password_is_not_shown():
    assert "secret" not in studies.shown("postgresql://me:secret@host/db")
    with pytest.raises(ResourceError) as caught:
        studies.open_study("postgresql://me:secret@127.0.0.1:9/db", Options(), {}, {})
    assert "secret" not in str(caught.value)


def test_without_optuna_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ResourceError, match=r"textlora\[tune\]"):
        studies.import_optuna()


# ---------------------------------------------------------------------------------------- several processes, one killed

TRIALS = 4


def worker(base: Path, out: Path, storage: str) -> subprocess.Popen[str]:
    """A process of the search, its words in a file beside `out`."""
    with out.with_suffix(".log").open("w") as log:
        return subprocess.Popen(
            [sys.executable, str(WORKER), str(base), str(out), storage, str(TRIALS)],
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        )


def kill_in_a_trial(process: subprocess.Popen[str], out: Path) -> int:
    """SIGKILL as soon as it trains; the number of the trial that it was in."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        begun = [path.parent for path in out.glob("trials/*/metrics.jsonl")]
        inside = [folder for folder in begun if not (folder / "trial.json").is_file()]
        if inside:
            process.send_signal(signal.SIGKILL)
            process.wait()
            return int(inside[0].name)
        assert process.poll() is None, out.with_suffix(".log").read_text()
        time.sleep(0.02)
    raise AssertionError("it never trained")


def nothing_lost_or_doubled(storage: str, killed: int) -> None:
    backend = optuna.storages.RDBStorage(storage)
    trials = optuna.load_study(study_name="textlora", storage=backend).trials
    backend.remove_session()
    backend.engine.dispose()
    ended = [trial for trial in trials if "ended" in trial.user_attrs]
    assert sorted(trial.user_attrs["slot"] for trial in ended) == list(range(TRIALS))
    assert all(trial.state.name == "COMPLETE" for trial in ended)
    dead = trials[killed]
    assert dead.state.name == "FAIL"
    again = [trial for trial in ended if trial.user_attrs["slot"] == dead.user_attrs["slot"]]
    assert len(again) == 1
    assert dead.params.items() <= again[0].params.items()  # the very trial
    assert not [trial for trial in trials if trial.state.name in ("RUNNING", "WAITING")]


def two_processes(base: Path, storage: str, opened: str, tmp_path: Path) -> None:
    outs = [tmp_path / "a", tmp_path / "b"]
    first, second = (worker(base, out, storage) for out in outs)
    try:
        killed = kill_in_a_trial(first, outs[0])
        assert second.wait(timeout=200) == 0, outs[1].with_suffix(".log").read_text()
    finally:
        for process in (first, second):
            process.kill()
            process.wait()
    nothing_lost_or_doubled(opened, killed)
    assert len(runs.read_json(outs[1] / "search.json")["trials"]) == TRIALS


@pytest.mark.slow
def test_a_killed_process_loses_and_doubles_no_trial_on_sqlite(tiny_base, tmp_path):
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    two_processes(tiny_base("bert"), storage, storage, tmp_path)


@pytest.fixture
def postgres():
    """A server of its own on a free port of the loopback; it refuses to run as root, so then it runs as `postgres`."""
    pytest.importorskip("psycopg", reason="psycopg isn't installed: PostgreSQL is not tested")
    if POSTGRES is None:
        pytest.skip("PostgreSQL isn't installed (Debian: apt-get install postgresql): it is NOT TESTED")
    as_user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    if as_user and not shutil.which("runuser"):
        pytest.skip("PostgreSQL doesn't run as root and there is no runuser: it is NOT TESTED")
    folder = Path(tempfile.mkdtemp(prefix="textlora-postgres-"))  # pytest's own folders are closed to other users
    if as_user:
        shutil.chown(folder, "postgres")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def run(program: str, *words: str) -> None:
        command = [*as_user, str(POSTGRES / program), "-D", str(folder / "data"), *words]
        with (folder / f"{program}.log").open("a+") as log:  # no pipe: a server would keep it open
            code = subprocess.run(command, stdout=log, stderr=log, cwd="/").returncode
            log.seek(0)
            assert code == 0, log.read()

    run("initdb", "-A", "trust", "-U", "tune", "--no-sync")
    how = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
    run("pg_ctl", "start", "-w", "-o", how)
    try:
        yield f"postgresql://tune@127.0.0.1:{port}/postgres"
    finally:
        run("pg_ctl", "stop", "-m", "immediate")
        shutil.rmtree(folder)


@pytest.mark.slow
def test_a_killed_process_loses_and_doubles_no_trial_on_postgresql(tiny_base, tmp_path, postgres):
    opened = postgres.replace("postgresql://", "postgresql+psycopg://")
    two_processes(tiny_base("bert"), postgres, opened, tmp_path)
