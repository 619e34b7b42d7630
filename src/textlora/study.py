"""Where a search keeps its trials: Optuna's storages, one study for several processes, and whose study it is.

A study has as many slots as trials were asked for. A slot is a waiting trial until some process takes it; one whose
process died is found by its silent heartbeat and waits again (SQLite, PostgreSQL), or stays unfinished (a journal
file has no heartbeat). So a trial is neither lost nor done twice, however many processes there are.
"""

from __future__ import annotations

import json
import math
import os
import re
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from textlora.config import Config
from textlora.errors import DamagedError, ResourceError, UsageError, closest

FLAGS = {
    "sampler": ("tpe", "random"),
    "pruner": ("", "hyperband", "median", "none"),  # "": median where the space says how, else hyperband
    "objective": ("accuracy", "f1_macro"),
    "against": ("", "parameters", "seconds"),
}
HEARTBEAT_SECONDS = 20
FEWEST_TO_WEIGH = 4  # scored trials from which parameters are weighed
RETRIES = 3  # of a trial whose process died
JOINING_SECONDS = 10  # that another process may take to say what its study is for
LOCKED_SECONDS = 60  # that SQLite waits for another process's write,
CONNECT_SECONDS = 20  # and that PostgreSQL may take to answer
MAKING_TRIES = 10  # at tables that another process is making
SLOT, ENDED, TASK = "slot", "ended", "task"
OUT_OF_TIME = "time"  # how a trial ended that the timeout stopped: another search may do it again


@dataclass(frozen=True)
class Options:
    """What a search is asked for; all but `heartbeat` are flags."""

    trials: int = 20  # of the study, whichever processes do them
    timeout: str = ""  # for trials and confirmation: seconds, or 90s, 30m, 1.5h
    storage: str = ""  # "": OUT/study.db
    study_name: str = "textlora"
    space: str = "budget"
    sampler: str = "tpe"
    pruner: str = ""
    objective: str = "accuracy"
    against: str = ""
    confirm_seeds: int = 3
    heartbeat: int = HEARTBEAT_SECONDS  # between signs of life; a process that misses three is dead

    @property
    def seconds(self) -> float:
        """`timeout` in seconds, infinity for none, NaN for what isn't a time."""
        if not self.timeout:
            return math.inf
        return Config(time_limit=f"{self.timeout}s" if self.timeout[-1:].isdigit() else self.timeout).time_limit_seconds

    @property
    def directions(self) -> tuple[str, ...]:
        return ("maximize", "minimize") if self.against else ("maximize",)

    def check(self) -> None:
        """Raises UsageError for what can't be."""
        for flag, known in FLAGS.items():
            kind = getattr(self, flag)
            if kind not in known:
                raise UsageError(f"--{flag} is {kind!r}", closest(kind, [name for name in known if name]))
        if self.trials < 1 or self.confirm_seeds < 0:
            raise UsageError(
                f"--trials must be 1 or more and --confirm-seeds 0 or more, got {self.trials}, {self.confirm_seeds}",
                "20 and 3 are usual",
            )
        if not self.seconds > 0:
            raise UsageError(
                f"--timeout must be a time above 0 like 1800, 90s, 30m, got {self.timeout!r}", "correct it"
            )


@dataclass(frozen=True)
class Store:
    """An open study: what it lies in, and whether the processes of its trials are heard."""

    study: Any  # optuna.Study
    where: str  # for people and for optuna-dashboard, without a password
    retries: bool
    created: bool
    backend: Any  # Optuna's storage

    def close(self) -> None:
        """Give a database's connections back."""
        if hasattr(self.backend, "engine"):
            self.backend.remove_session()
            self.backend.engine.dispose()


def import_optuna() -> Any:
    """Optuna, without its own log lines. Raises ResourceError if it isn't installed."""
    try:
        import optuna  # type: ignore[import-not-found,unused-ignore]  # an extra
    except ImportError:
        raise ResourceError("a search takes Optuna, which isn't installed", "pip install 'textlora[tune]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def open_study(storage: str, options: Options, task: dict[str, Any], first: dict[str, Any]) -> Store:
    """The study in `storage`, made if there is none, with at least as many slots as trials are asked for.

    `storage` is a database's URL or `journal:FILE`; `task` is what a study that exists must have been made for, and
    `first` are the parameters of the first trial.
    Raises UsageError if it was made for another or the URL is none, ResourceError if the storage can't be reached.
    """
    with reaching(storage):
        backend, retries = _storage(storage, options.heartbeat)
        study, created = _study(backend, options.study_name, options.directions)
        if created or not (theirs := _task_of(study, shown(storage))):
            study.set_user_attr(TASK, task)  # before its trials: without any it can be taken over
        else:
            _check_task(theirs, task, shown(storage), options.study_name)
        _fill(study, options.trials, first)
    return Store(study, shown(storage), retries, created, backend)


def forget(storage: str, options: Options) -> None:
    """Delete the study that `options` name from `storage`, if it is there.

    Raises UsageError if it is no search of textlora's or trials of it run, ResourceError as `open_study` does.
    """
    optuna = import_optuna()
    with reaching(storage):
        backend, retries = _storage(storage, options.heartbeat)
        try:
            study = optuna.load_study(storage=backend, study_name=options.study_name)
        except KeyError:
            return
        if retries:
            give_up_silent(study)
        running = count(study, "RUNNING") if retries else 0  # a journal doesn't tell whether they live
        theirs = study.trials and TASK not in study.user_attrs
        if running or theirs:
            words = f"has {running} running trials" if running else "is no search of textlora's"
            raise UsageError(
                f"the study {options.study_name!r} in {shown(storage)} {words}: it isn't replaced",
                "give another --study-name" + (", or wait for them" if running else ""),
            )
        optuna.delete_study(study_name=options.study_name, storage=backend)
        Store(study, "", retries, False, backend).close()


@contextmanager
def reaching(storage: str) -> Iterator[None]:
    """What a database says when it can't be used, as a ResourceError; experimental parts of Optuna in silence."""
    optuna = import_optuna()
    from sqlalchemy.exc import SQLAlchemyError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    except json.JSONDecodeError as error:  # a line in the midst of a journal, which another process wrote
        raise _no_journal(storage, error) from error
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise ResourceError(
            f"the storage {shown(storage)} can't be used: {reason}", "start it, or give another --storage"
        ) from error


def shown(storage: str) -> str:
    """A storage's URL without its password."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return storage if storage.startswith("journal:") else make_url(storage).render_as_string(hide_password=True)
    except (ArgumentError, ValueError):  # a port that is no number
        return re.sub(r"(://[^:/@]*):[^/]*@", r"\1:***@", storage)


def _storage(storage: str, heartbeat: int) -> tuple[Any, bool]:
    """Optuna's storage, and whether it hears of processes that died."""
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError

    if storage.startswith("journal:"):
        file = Path(storage.removeprefix("journal:"))
        if not file.parent.is_dir():
            raise ResourceError(f"there is no folder {file.parent} for the journal", "make it, or name another file")
        return _journal(file), False
    url = storage
    for scheme in ("postgres://", "postgresql://"):  # SQLAlchemy's own choice would be the older driver
        url = url.replace(scheme, "postgresql+psycopg://", 1) if url.startswith(scheme) else url
    try:
        opened = _database(url, heartbeat)
    except (ArgumentError, NoSuchModuleError, ValueError):  # ValueError: a port that is no number
        raise UsageError(
            f"--storage takes sqlite:///FILE, postgresql://USER@HOST/DATABASE or journal:FILE, got {shown(storage)!r}",
            "correct the URL",
        ) from None
    except ImportError as error:  # Optuna says so of SQLAlchemy's drivers
        raise ResourceError(f"the storage needs a driver: {error}", "pip install 'textlora[tune]'") from None
    except RuntimeError as error:  # tables of an older or newer Optuna
        raise ResourceError(f"the storage {shown(storage)} can't be used: {error}", "give another --storage") from None
    return opened, True


def _journal(file: Path) -> Any:
    """Optuna's storage in a file of one record a line. Raises DamagedError for a file of anything else, unchanged."""
    storages = import_optuna().storages
    try:
        if file.is_file() and file.stat().st_size:  # Optuna forgives a last line that is cut off, and would go on there
            with file.open("rb") as lines:
                json.loads(lines.readline())["op_code"]
        return storages.JournalStorage(storages.journal.JournalFileBackend(str(file)))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise _no_journal(file, error) from None


def _no_journal(file: str | Path, error: Exception) -> DamagedError:
    return DamagedError(f"{file} is no journal of Optuna's: {error}", "name another file with --storage")


def _database(url: str, heartbeat: int) -> Any:
    """Optuna's tables in a database. Of two processes that make them at once one is refused, and finds them made."""
    optuna = import_optuna()
    from sqlalchemy.exc import SQLAlchemyError

    waits = {"sqlite": {"timeout": LOCKED_SECONDS}, "postgresql": {"connect_timeout": CONNECT_SECONDS}}
    for tries_left in reversed(range(MAKING_TRIES)):
        try:
            return optuna.storages.RDBStorage(
                url,
                engine_kwargs={
                    "pool_pre_ping": True,
                    "connect_args": waits.get(url.split(":")[0].split("+")[0], {}),
                },
                heartbeat_interval=heartbeat,
                grace_period=3 * heartbeat,
                heartbeat_stale_trial_callback=optuna.storages.RetryHeartbeatStaleTrialCallback(max_retry=RETRIES),
            )
        except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
            made = any(word in str(error) for word in ("already exists", "duplicate key", "UNIQUE constraint"))
            if not made or not tries_left:
                raise
            time.sleep(1.0)
    raise AssertionError("the last try returns or raises")


def _study(backend: Any, name: str, directions: Sequence[str]) -> tuple[Any, bool]:
    """The study and whether this process made it."""
    optuna = import_optuna()
    try:
        return optuna.create_study(storage=backend, study_name=name, directions=list(directions)), True
    except optuna.exceptions.DuplicatedStudyError:
        return optuna.load_study(storage=backend, study_name=name), False


def _task_of(study: Any, where: str) -> dict[str, Any]:
    """What the study was made for; {} if its maker died before it said so. Raises UsageError for another program's."""
    until = time.monotonic() + JOINING_SECONDS
    while True:
        has_trials = bool(study.get_trials(deepcopy=False))  # before the task is looked for, which is written first
        task = study.user_attrs.get(TASK, {})
        if task or time.monotonic() > until:  # a live maker is about to say it
            return task
        if has_trials:
            raise UsageError(
                f"the study {study.study_name!r} in {where} is no search of textlora's", "give another --study-name"
            )
        time.sleep(0.1)


def _check_task(theirs: dict[str, Any], ours: dict[str, Any], where: str, name: str) -> None:
    differs = [key for key in ours if theirs.get(key) != ours[key]]
    if differs:
        told = "; ".join(f"{key} {_short(theirs.get(key))}, here {_short(ours[key])}" for key in differs)
        raise UsageError(
            f"the study {name!r} in {where} belongs to another search: {told}",
            "give another --study-name or --storage, or the settings of that search",
        )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# -------------------------------------------------------------------------------------------------------------- slots


def _fill(study: Any, trials: int, first: dict[str, Any]) -> None:
    """A waiting trial for each slot below `trials` that no trial has: new ones, and those that Ctrl-C cut short."""
    held = {trial.user_attrs.get(SLOT) for trial in _standing(study)}
    for slot in range(trials):
        if slot not in held:
            study.enqueue_trial({} if slot else first, user_attrs={SLOT: slot})


def _standing(study: Any) -> list[Any]:
    """Trials that count: all but those that failed without an end of their own."""
    failed = import_optuna().trial.TrialState.FAIL
    trials = study.get_trials(deepcopy=False)
    return [t for t in trials if t.state != failed or t.user_attrs.get(ENDED) not in (None, OUT_OF_TIME)]


def surplus(study: Any, number: int, slot: int | None) -> bool:
    """Whether trial `number` came into being by two processes doing the same at once: its slot is another's."""
    return slot is None or any(t.user_attrs.get(SLOT) == slot and t.number < number for t in _standing(study))


def count(study: Any, state: str) -> int:
    """How many trials are WAITING, or RUNNING: of live processes, or dead ones that aren't missed yet."""
    return sum(trial.state.name == state for trial in study.get_trials(deepcopy=False))


def finished(study: Any) -> list[Any]:
    """Trials that came to an end, in the order of their numbers."""
    return [trial for trial in _standing(study) if trial.state.is_finished()]


def retried(study: Any, number: int) -> list[int]:
    """Numbers of the trials that trial `number` does again, because their processes died."""
    retry = import_optuna().storages.RetryHeartbeatStaleTrialCallback
    return retry.retry_history(study.get_trials(deepcopy=False)[number])


def importances(study: Any, objective: int | None) -> dict[str, float]:
    """What share of the differences in score goes with each parameter, by Optuna's usual way; {} for too few trials.

    `objective` is which of several, one that is to be high.
    """
    optuna = import_optuna()
    scored = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    if len(scored) < FEWEST_TO_WEIGH or len({trial.values[0] for trial in scored}) < 2:
        return {}
    if objective is None:
        return dict(optuna.importance.get_param_importances(study))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it says that it looks for what makes a target low
        return dict(optuna.importance.get_param_importances(study, target=lambda trial: -trial.values[objective]))


def give_up_silent(study: Any) -> None:
    """Find trials whose process died, and let them wait again."""
    import_optuna().storages.fail_stale_trials(study)


# -------------------------------------------------------------------------------------------------- samplers, pruners


def sampler(kind: str, seed: int, trials: int, store: Store) -> Any:
    """A sampler for the next trial. Of the process that made the study it depends on the seed and on what is finished
    alone, so that a search can be repeated; another process must not draw the same."""
    optuna = import_optuna()
    own = 0 if store.created else os.getpid()
    mixed = (seed * 1_000_003 + len(finished(store.study)) * 7_919 + own * 104_729) % 2**32
    if kind == "random":
        return optuna.samplers.RandomSampler(seed=mixed)
    startup = min(10, max(4, trials // 4))
    return optuna.samplers.TPESampler(seed=mixed, multivariate=True, constant_liar=True, n_startup_trials=startup)


def pruner(kind: str, marks: Sequence[int], startup_trials: int = 3, warmup_texts: int = 0) -> Any:
    """A pruner that compares trials at `marks`, numbers of texts seen.

    Of Hyperband's brackets it is the most eager one, which is successive halving: a search has too few trials to fill
    several (in replays they cost nearly twice as much, docs/log.md). The best quarter of those so far go on at the
    first mark, and again at four times that.
    """
    pruners = import_optuna().pruners
    if kind == "none":
        return pruners.NopPruner()
    if kind == "hyperband":
        return pruners.SuccessiveHalvingPruner(min_resource=marks[0], reduction_factor=4)
    return pruners.MedianPruner(n_startup_trials=startup_trials, n_warmup_steps=warmup_texts)
