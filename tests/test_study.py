"""Storages of a search: whose study it is, what is replaced, and what can't be one."""

from __future__ import annotations

import sqlite3

import pytest

from textlora import study
from textlora.errors import DamagedError, ResourceError, UsageError
from textlora.study import SLOT, TASK, Options

optuna = pytest.importorskip("optuna", reason="the extra `tune` isn't installed: no search is tested")

TASK_A, TASK_B = {"base": "a"}, {"base": "b"}


@pytest.fixture
def storage(tmp_path):
    return f"sqlite:///{tmp_path / 'study.db'}"


def slots(store: study.Store) -> list[int]:
    found = [trial.user_attrs[SLOT] for trial in store.study.trials]
    store.close()
    return found


def test_a_study_whose_maker_died_at_once_is_taken_over(storage, monkeypatch):
    monkeypatch.setattr(study, "JOINING_SECONDS", 0.2)
    options = Options(trials=2)
    optuna.create_study(storage=storage, study_name=options.study_name)  # killed before it says for what
    assert slots(study.open_study(storage, options, TASK_A, {})) == [0, 1]
    with pytest.raises(UsageError, match="belongs to another search"):
        study.open_study(storage, options, TASK_B, {})


def test_one_killed_before_its_trials_wait_gets_them(storage):
    options = Options(trials=2)
    made = optuna.create_study(storage=storage, study_name=options.study_name)
    made.set_user_attr(TASK, TASK_A)
    made.enqueue_trial({}, user_attrs={SLOT: 0})
    assert slots(study.open_study(storage, options, TASK_A, {})) == [0, 1]


def test_another_program_s_study_is_neither_joined_nor_replaced(storage):
    theirs = optuna.create_study(storage=storage, study_name="textlora")
    theirs.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    for use in (lambda: study.open_study(storage, Options(), TASK_A, {}), lambda: study.forget(storage, Options())):
        with pytest.raises(UsageError, match=r"no search of textlora's"):
            use()


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_overwriting_forgets_the_study_but_not_while_it_runs(tmp_path, storage, kind):
    where = storage if kind == "sqlite" else f"journal:{tmp_path / 'j.log'}"
    options = Options(trials=2)
    study.forget(where, options)  # none there
    store = study.open_study(where, options, TASK_A, {})
    if kind == "sqlite":
        with pytest.warns(UserWarning, match="Heartbeat"):
            trial = store.study.ask()
        with pytest.raises(UsageError, match="has 1 running trials"):
            study.forget(where, options)
        store.study.tell(trial, 0.5)
    store.close()
    study.forget(where, options)
    again = study.open_study(where, options, TASK_B, {})
    assert again.created
    assert slots(again) == [0, 1]


@pytest.mark.parametrize("content", [b"not a journal\n", b"\xff\xfe\x00\n", b'{"a": 1}\n', b"[1]\n", b"3\n"])
def test_a_journal_that_is_none(tmp_path, content):
    (tmp_path / "j.log").write_bytes(content)
    with pytest.raises(DamagedError, match="is no journal of Optuna's"):
        study.open_study(f"journal:{tmp_path / 'j.log'}", Options(), TASK_A, {})
    assert (tmp_path / "j.log").read_bytes() == content


def test_a_journal_that_breaks_off_in_its_midst(tmp_path):
    where = f"journal:{tmp_path / 'j.log'}"
    study.open_study(where, Options(trials=1), TASK_A, {})
    with (tmp_path / "j.log").open("ab") as file:
        file.write(b'{"op_co\n{"op_code": 4}\n')
    with pytest.raises(DamagedError, match="is no journal of Optuna's"):
        study.open_study(where, Options(), TASK_A, {})


def test_tables_of_another_optuna_and_a_file_that_is_no_database(tmp_path, storage):
    study.open_study(storage, Options(trials=1), TASK_A, {}).close()
    with sqlite3.connect(tmp_path / "study.db") as db:
        db.execute("UPDATE version_info SET schema_version = 3")
        db.execute("UPDATE alembic_version SET version_num = 'v0.9.0.a'")
    db.close()
    (tmp_path / "text.db").write_text("words, no database" * 100)
    for where in (storage, f"sqlite:///{tmp_path / 'text.db'}"):
        with pytest.raises(ResourceError, match="can't be used"):
            study.open_study(where, Options(), TASK_A, {})


@pytest.mark.parametrize(
    "url", ["postgresql://me:secret@host:port/db", "postgresql://me:secret@host:99999999/db", "///"]
)
def test_what_is_no_url_is_said_without_its_password(url):
    with pytest.raises((UsageError, ResourceError)) as caught:
        study.open_study(url, Options(), TASK_A, {})
    assert "secret" not in str(caught.value)


def test_the_pruner_lets_a_quarter_go_on_at_the_first_mark_and_at_four_times_that():
    made = optuna.create_study(pruner=study.pruner("hyperband", [100, 200, 400, 800]), direction="maximize")
    reached = {100: 0, 200: 0, 400: 0, 800: 0}
    for quality in (3, 1, 2, 0, 7, 6, 5, 4):
        trial = made.ask()
        for mark in reached:
            trial.report(quality, mark)
            reached[mark] += 1
            if trial.should_prune():
                made.tell(trial, state=optuna.trial.TrialState.PRUNED)
                break
        else:
            made.tell(trial, quality)
    assert reached == {100: 8, 200: 2, 400: 2, 800: 2}  # the first, and the one that was best when it came
