"""A search, end to end: `tune(config, options)`.

Trials are compared on one half of validation (halves.py); what they are is space.py's, how each goes trial.py's, where
they are kept study.py's. At the end the winner is trained again beside the config that the search started from, on
seeds that the search has not seen, and both are judged on the half that it has not seen: what survives is the gain.
"""

from __future__ import annotations

import hashlib
import logging
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from textlora import bases, config, prefix, runs, space, study
from textlora.config import Config
from textlora.confirm import MARGIN, Contest, claimed, confirm
from textlora.data import Data
from textlora.errors import GateError, ResourceError, UsageError
from textlora.halves import Halves, halved
from textlora.prepare import Prepared, Say, load_data, prepare
from textlora.search_plots import search_plots
from textlora.space import REFITTED, Space, Task, propose
from textlora.study import ENDED, OUT_OF_TIME, SLOT, Options, Store, reaching
from textlora.trial import FAILED, FINISHED, INFEASIBLE, Outcome, Shared, marks, run_trial

log = logging.getLogger("textlora")

START, BEST, RESULT, PICTURES = "start.toml", "best.toml", "search.json", "pictures"
CLOSING_SECONDS, CLOSING_SHARE = 8.0, 0.05  # of the time limit, for pictures and tables
POLL_SECONDS = 1.0  # between looks at trials that other processes run
FIGURES = ("accuracy", "f1_macro", "loss")
HOW = ("engine", "precision", "report_to", "data", "base_weights", "tokenizer")  # settings that leave the task the same


class NotScored(Exception):
    """A trial that ends without a score where Optuna knows no pruning; said in its attributes."""


@dataclass
class Search:
    """A search that is under way."""

    folder: Path
    options: Options
    space: Space
    store: Store
    storage: str
    shared: Shared
    until: float  # time.monotonic() at which trials and the confirmation must have ended
    texts: Callable[[Config], float]  # that a training in full sees
    say: Say
    began: float
    opening: float  # seconds from the start to the first trial: reading rows, tokenising them, building a model
    reserved: float = 0.0  # seconds that trials leave to the confirmation
    mine: set[int] = field(default_factory=set)  # numbers of the trials that this process ended
    waited: bool = False  # for another process's

    @property
    def left(self) -> float:
        """Seconds that trials have left."""
        return self.until - self.reserved - time.monotonic()


def tune(
    config: Config,
    options: Options | None = None,
    *,
    rows: Data | None = None,
    out: str | Path = "",
    overwrite: bool = False,
    say: Say = log.info,
    began: float | None = None,
) -> dict[str, Any]:
    """Search for a better config than `config` within its budget; what was found, as search.json holds it.

    `out` (default runs/<date>-tune-<base>-<data>) gets the study, every trial's config and figures, best.toml and
    pictures; a folder that a search has left is gone on with. `rows` stand in for the setting `data`.
    Raises the errors of textlora.errors: UsageError for a study of another task, BudgetError for a space that can't
    fit, DataError for validation rows that can't be halved, ResourceError for a storage that can't be reached.
    """
    began = time.monotonic() if began is None else began
    options = options or Options()
    options.check()
    study.import_optuna()
    if config.seeds != 1:
        raise UsageError(f"a search trains one seed, --seeds is {config.seeds}", "use --confirm-seeds")
    auto = tuple(name for name in config.auto if name != "refit")
    config = replace(config, refit=False, auto=auto)  # its runs are compared on validation rows
    folder = Path(out or runs.default_folder(f"tune-{config.base.split('/')[-1]}"))
    _check_folder(folder, overwrite)
    halves = halved(rows or load_data(config), config.split_seed)
    shared = Shared(halves.data, options.objective, ())
    prepared = prepare(config.checked(), say, halves.data, shared.tokenised)
    opened = space.open_space(options.space, _task(config, prepared))
    texts = partial(_texts, prepared.train.texts, float(np.mean(prepared.train.lengths)))
    shared.marks = marks(texts(opened.short(prepared.config)))
    if overwrite and options.storage and _is_search(folder):  # a study in the folder goes with it
        study.forget(options.storage, options)
    _open_folder(folder, overwrite, opened)
    shared.folder = folder
    storage = options.storage or f"sqlite:///{folder.resolve() / 'study.db'}"
    store = study.open_study(storage, options, _task_told(prepared, opened, halves, options), opened.start())
    del prepared  # its model: each trial builds its own
    closing = min(CLOSING_SECONDS, CLOSING_SHARE * options.seconds)
    search = Search(
        folder=folder,
        options=options,
        space=opened,
        store=store,
        storage=storage,
        shared=shared,
        until=began + options.seconds - closing,
        texts=texts,
        say=say,
        began=began,
        opening=time.monotonic() - began,
    )
    try:
        return _search(search, halves)
    finally:
        shutil.rmtree(folder / prefix.FOLDER, ignore_errors=True)
        store.close()


def _search(search: Search, halves: Halves) -> dict[str, Any]:
    with reaching(search.storage):
        _say_plan(search, halves)
        _trials(search)
        result = _result(search)
        confirms = search.options.confirm_seeds > 0 and _ours_to_confirm(search)
    _write(search, result)
    if confirms:
        result["confirmed"] = _confirm(search, result["best"], halves)
        result["seconds"] = round(time.monotonic() - search.began, 1)
        runs.write_json(search.folder / RESULT, result)
    return result


def _task(given: Config, prepared: Prepared) -> Task:
    """What the search starts from, every setting chosen; `given` says which the recipe leaves to the data."""
    base = bases.find(given.base, prepared.config.base_revision)
    shapes = bases.shapes(base, given.base_weights)
    refit = tuple(name for name in REFITTED if name in given.auto)
    config = replace(prepared.config, memory=0) if "memory" in refit else prepared.config  # gets what ranks leave
    return Task(config, refit, shapes, len(prepared.labels), base.hub_id)


def _texts(texts: int, tokens_each: float, c: Config) -> float:
    """Texts that a training of `c` sees, where there are so many, of so many tokens on average."""
    if c.max_steps == -1:
        return texts * c.num_train_epochs
    rows = c.per_device_train_batch_size or c.batch_tokens / tokens_each
    return c.max_steps * rows * c.gradient_accumulation_steps


def _task_told(prepared: Prepared, opened: Space, halves: Halves, options: Options) -> dict[str, Any]:
    """What a study is for: two searches that differ in any of it don't share one."""
    settings = {key: value for key, value in prepared.config.to_dict().items() if key not in HOW}
    return {
        "base": opened.task.base_name,
        "base sha256": prepared.base_sha256,
        "labels": list(prepared.labels),
        "training rows": halves.data.train.fingerprint,
        "validation rows": halves.data.validation.fingerprint,
        "space": f"{opened.name} {opened.digest}",
        "objective": " against ".join(filter(None, (options.objective, options.against))),
        "settings": hashlib.sha256(repr(sorted(settings.items())).encode()).hexdigest()[:16],
    }


# ----------------------------------------------------------------------------------------------------------- the folder


def _check_folder(folder: Path, overwrite: bool) -> None:
    """A new folder, or one that a search has left. Raises UsageError for any other."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file", "choose another --out")
    if folder.is_dir() and any(folder.iterdir()) and not _is_search(folder):
        words = "--overwrite replaces searches only; " if overwrite else ""
        raise UsageError(f"{folder} exists and is no search", f"{words}choose another --out")


def _is_search(folder: Path) -> bool:
    return (folder / START).is_file() and (folder / "trials").is_dir()


def _open_folder(folder: Path, overwrite: bool, opened: Space) -> None:
    with runs.storing(folder):
        if overwrite and folder.exists():
            shutil.rmtree(folder)
        (folder / "trials").mkdir(parents=True, exist_ok=True)
    if not (folder / START).is_file():
        runs.write_text(folder / START, config.to_toml(opened.task.config))


# ----------------------------------------------------------------------------------------------------------- the trials


def _trials(search: Search) -> None:
    """Take waiting trials until there are none, or no time is left."""
    opened, options = search.store.study, search.options
    opened.pruner = study.pruner(_pruner(search), search.shared.marks, **search.space.pruner)
    while _time_for_another(search):
        study.give_up_silent(opened)
        if study.count(opened, "WAITING"):
            opened.sampler = study.sampler(options.sampler, search.space.task.config.seed, options.trials, search.store)
            _next(search, opened)
            continue
        others = study.count(opened, "RUNNING")
        if not others or not search.store.retries:
            break
        if not search.waited:
            search.say(f"waiting for {_trials_of_others(others)}")
        search.waited = True
        time.sleep(POLL_SECONDS)


def _pruner(search: Search) -> str:
    if search.options.against:  # Optuna prunes by one objective only
        return "none"
    return search.options.pruner or ("median" if search.space.pruner else "hyperband")


def _time_for_another(search: Search) -> bool:
    search.reserved = _reserve(search)
    return search.left > search.shared.closing_seconds


def _next(search: Search, opened: Any) -> None:
    """The next waiting trial."""
    late = study.import_optuna().exceptions.UpdateFinishedTrialError
    try:
        opened.optimize(lambda trial: _one(search, trial), n_trials=1, catch=(NotScored,), gc_after_trial=True)
    except late:
        search.say("another process took this one for dead and has its trial done again: its result is left out")


def _one(search: Search, trial: Any) -> Any:
    """One trial: its score, or both scores; what else is known goes into its attributes."""
    optuna = study.import_optuna()
    slot, began = trial.user_attrs.get(SLOT), time.monotonic()
    if study.surplus(search.store.study, trial.number, slot):
        raise NotScored
    _drop_retried(search, trial)
    folder = search.folder / "trials" / f"{trial.number:04d}"

    def short() -> Config:
        return replace(search.space.short(propose(trial, search.space)), report_to=())

    try:
        outcome = run_trial(short, search.shared, folder, lambda *at: _worse(search, trial, *at), lambda: search.left)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"stopped in trial {trial.number}; the same command with --out {search.folder} goes on"
        ) from None
    value = outcome.scores.get(search.options.objective)
    told = _told(search, outcome, time.monotonic() - began)
    runs.write_json(folder / "trial.json", {"number": trial.number, "params": trial.params, **told})
    for key, known in told.items():
        trial.set_user_attr(key, known)
    search.mine.add(trial.number)
    _say_trial(search, trial, told)
    if value is None:
        raise NotScored if search.options.against or outcome.ended == OUT_OF_TIME else optuna.TrialPruned()
    return (value, told[search.options.against]) if search.options.against else value


def _worse(search: Search, trial: Any, score: float, texts: int) -> bool:
    if search.options.against:
        return False
    trial.report(score, texts)
    return trial.should_prune()


def _drop_retried(search: Search, trial: Any) -> None:
    """What a process that died has left of the same trial."""
    for number in study.retried(search.store.study, trial.number):
        shutil.rmtree(search.folder / "trials" / f"{number:04d}", ignore_errors=True)


def _told(search: Search, outcome: Outcome, seconds: float) -> dict[str, Any]:
    """Plain values of a trial, as a database keeps them. Its config is what differs from the defaults."""
    plain, usual = outcome.config.to_dict(), Config().to_dict()
    return {
        ENDED: outcome.ended,
        **({"reason": outcome.reason} if outcome.reason else {}),
        **{key: outcome.scores[key] for key in FIGURES if outcome.scores},
        "parameters": outcome.parameters,
        "texts": outcome.texts,
        "texts_in_full": outcome.texts_in_full,
        "seconds": round(seconds, 2),
        "config": {key: value for key, value in plain.items() if value != usual[key]},
    }


# ----------------------------------------------------------------------------------------------------------- the result


def _result(search: Search) -> dict[str, Any]:
    """Every trial and the best. Raises UsageError if none came to its end."""
    trials = [_row(trial) for trial in search.store.study.get_trials(deepcopy=False) if ENDED in trial.user_attrs]
    scored = [row for row in trials if row[ENDED] == FINISHED]
    if not scored:
        _none_finished(search, trials)
    objective = search.options.objective
    best = max(scored, key=lambda row: (row[objective], -row["parameters"], -row["loss"]))
    return {
        "out": str(search.folder),
        "study": search.options.study_name,
        "storage": search.store.where,
        "space": search.space.name,
        "objective": objective,
        "against": search.options.against,
        "budget": search.space.task.config.budget,
        "trials": trials,
        "running": study.count(search.store.study, "RUNNING"),
        "waiting": study.count(search.store.study, "WAITING"),
        "best": best,
        "importances": study.importances(search.store.study, 0 if search.options.against else None),
        "domains": {name: domain.told() for name, domain in search.space.domains.items()},
        "front": _front(scored, objective, search.options.against),
        "texts": sum(row["texts"] for row in trials),
        "texts_in_full": sum(row["texts_in_full"] for row in trials),
        "seconds": round(time.monotonic() - search.began, 1),
        "confirmed": None,
    }


def _none_finished(search: Search, trials: list[dict[str, Any]]) -> None:
    refused = [row for row in trials if row[ENDED] in (INFEASIBLE, FAILED)]
    if refused and len(refused) == len(trials):
        raise (ResourceError if any(row[ENDED] == FAILED for row in refused) else UsageError)(
            f"none of {len(trials)} trials could be trained: {refused[0]['reason']}",
            "smaller batches or shorter texts" if refused[0][ENDED] == FAILED else "correct the space or the recipe",
        )
    if all(row[ENDED] == "diverged" for row in trials) and trials:
        raise GateError(
            f"all {len(trials)} trials diverged: their figures are no numbers", "search lower rates, or in fp32"
        )
    raise UsageError(
        f"no trial came to its end within {search.options.seconds:.0f} s"
        if search.options.timeout
        else "no trial came to its end",
        f"give more time; the same command with --out {search.folder} goes on",
    )


def _row(trial: Any) -> dict[str, Any]:
    known = {key: value for key, value in trial.user_attrs.items() if key != SLOT}
    curve = sorted(trial.intermediate_values.items())
    return {"number": trial.number, **known, "params": dict(trial.params), "curve": curve}


def _front(scored: list[dict[str, Any]], objective: str, against: str) -> list[int]:
    """Numbers of the trials that no other beats in both, cheapest first; without a second objective none."""
    if not against:
        return []

    def beaten(row: dict[str, Any]) -> bool:
        return any(
            other[objective] >= row[objective]
            and other[against] <= row[against]
            and (other[objective], other[against]) != (row[objective], row[against])
            for other in scored
        )

    return [row["number"] for row in sorted(scored, key=lambda row: row[against]) if not beaten(row)]


def _full(search: Search, row: dict[str, Any]) -> Config:
    """The config of a trial as the winner is trained."""
    full = search.space.full(config.from_dict(row["config"]))
    return replace(full, report_to=search.space.task.config.report_to)


def _write(search: Search, result: dict[str, Any]) -> None:
    runs.write_text(search.folder / BEST, config.to_toml(_full(search, result["best"])))
    runs.write_json(search.folder / RESULT, result)
    with runs.storing(search.folder / PICTURES):
        search_plots(result, search.folder / PICTURES)


# --------------------------------------------------------------------------------------------------------- confirmation


def _ours_to_confirm(search: Search) -> bool:
    """Of several processes it is the one that ended the last trial; where nothing was left to do, this one."""
    trials = search.store.study.get_trials(deepcopy=False)
    if search.store.retries and (others := study.count(search.store.study, "RUNNING")):
        search.say(f"{_trials_of_others(others)}: the process that ends the last one confirms the winner")
        return False
    last = max((trial for trial in trials if ENDED in trial.user_attrs), key=lambda trial: trial.datetime_complete)
    if last.number in search.mine or not (search.mine or search.waited):
        return True
    search.say(
        "the process that ended the last trial confirms the winner; should it have died, this command again does it"
    )
    return False


def _confirm(search: Search, best: dict[str, Any], halves: Halves) -> dict[str, Any] | None:
    """As `confirm`, unless another process is at it in the same folder."""
    start = search.space.task.config
    contest = Contest(
        folder=search.folder,
        best=_full(search, best),
        start=start,
        seeds=range(start.seed + 1, start.seed + 1 + search.options.confirm_seeds),
        halves=halves,
        objective=search.options.objective,
        run_seconds=_pair_seconds(search) / 2,
        left=lambda: search.until - time.monotonic(),
        say=search.say,
    )
    with claimed(search.folder) as ours:
        if not ours:
            search.say("another process confirms the winner in this folder")
        return confirm(contest, best) if ours else None


def _reserve(search: Search) -> float:
    """Seconds kept for the confirmation: as many seeds of both as fit into half of the time, by the pace of the trials.

    Nothing before a trial has finished: there is no pace yet, and nothing to confirm.
    """
    if math.isinf(search.options.seconds) or not _scored(search):
        return 0.0
    pair = _pair_seconds(search)
    return pair * min(search.options.confirm_seeds, int(search.options.seconds / 2 / pair))


def _pair_seconds(search: Search) -> float:
    """What training a new seed of the best trial's config and of the start's takes, as far as trials tell."""
    rows = [trial.user_attrs for trial in _scored(search)]
    pace = median(row["seconds"] / row["texts"] for row in rows)
    best = max(rows, key=lambda row: row[search.options.objective])
    start = search.space.task.config
    return MARGIN * sum(_run_seconds(search, one, pace) for one in (_full(search, best), start))


def _run_seconds(search: Search, one: Config, pace: float) -> float:
    """Of a training in full: as the search's opening, then by the text."""
    return search.opening + min(one.time_limit_seconds or math.inf, pace * search.texts(one))


# ----------------------------------------------------------------------------------------------------- lines for people


def _say_plan(search: Search, halves: Halves) -> None:
    say, options = search.say, search.options
    say(
        f"search: space {search.space.name}, {len(search.space.domains)} parameters, {options.trials} trials"
        + (f" within {options.seconds:.0f} s" if math.isfinite(options.seconds) else "")
        + (f" with {options.confirm_seeds} seeds to confirm" if options.confirm_seeds else "")
        + f", sampler {options.sampler}, "
        + ("two objectives: no pruner" if options.against else f"pruner {_pruner(search)}")
    )
    say(
        f"  trials are compared on {len(halves.data.validation)} validation rows, the gain is told on the other "
        f"{len(halves.other)}; test rows aren't read"
    )
    say(f"  study {options.study_name!r} in {search.store.where}; optuna-dashboard opens it")
    if not search.store.retries:
        say("  a journal file has no heartbeat: a search goes on from it, but a trial whose process dies isn't retried")
    if not search.store.created:
        say(f"  the study has {len(study.finished(search.store.study))} finished trials; this process joins it")


def _say_trial(search: Search, trial: Any, told: dict[str, Any]) -> None:
    objective, done = search.options.objective, _done(search) + 1
    words = {
        FINISHED: f"{objective} {told.get(objective, 0):.4f}",
        "pruned": f"pruned after {told['texts']:,} of {told['texts_in_full']:,} texts",
        OUT_OF_TIME: "stopped: the time is over",
        "diverged": "diverged: no numbers",
        INFEASIBLE: "infeasible",
        FAILED: "failed",
    }[told[ENDED]] + (f": {told['reason']}" if "reason" in told else "")
    scores = [row.user_attrs[objective] for row in _scored(search)]
    scores += [told[objective]] if objective in told else []
    best = f"best {max(scores):.4f}" if scores else "none scored"
    search.say(
        f"trial {trial.number:>3}  {words:<34} {told['parameters']:>9,} parameters {told['seconds']:>6.0f} s   "
        f"{best}   {done}/{search.options.trials}, {_eta(search, done)}"
    )


def _trials_of_others(count: int) -> str:
    return f"{count} trial{'s' * (count > 1)} of other processes"


def _scored(search: Search) -> list[Any]:
    return [t for t in study.finished(search.store.study) if t.user_attrs.get(ENDED) == FINISHED]


def _done(search: Search) -> int:
    return len(study.finished(search.store.study))


def _eta(search: Search, done: int) -> str:
    """How long the rest takes if it goes on like that, or what the time limit leaves."""
    seconds = (time.monotonic() - search.began) / done * max(0, search.options.trials - done)
    return f"{min(seconds, max(0.0, search.left)):.0f} s left"
