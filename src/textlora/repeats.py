"""One config, several seeds: trained one after the other, the best on validation kept, the spread told.

Each seed is a run of its own in RUN/seeds/<seed>. At the end the best one's files become RUN's, the others stay there,
and RUN/seeds.json holds every seed's figures with their mean and spread. Test rows are not read.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from textlora import runs
from textlora.config import Config
from textlora.errors import UsageError
from textlora.runs import Run

SUMMARY = "seeds.json"
FIGURES = ("accuracy", "f1_macro", "loss")

Train = Callable[[Config, Path, float], Run]  # a seed's config, its folder, and since when its time counts
Say = Callable[[str], None]


def train_seeds(run: Run, config: Config, train: Train, *, began: float, say: Say) -> Run:
    """Train `config.seeds` runs below `run` and make the best of them `run` itself.

    Seeds that are finished there are kept, so a series that was interrupted goes on. A time limit is for all of them.
    """
    folders = {seed: run.folder / "seeds" / str(seed) for seed in range(config.seed, config.seed + config.seeds)}
    for place, (seed, folder) in enumerate(folders.items()):
        if Run(folder).finished:
            continue
        say(f"seed {seed}, {place + 1} of {config.seeds}")
        try:
            train(_config(config, seed, list(folders.values())[:place]), folder, began)
        except KeyboardInterrupt as stop:  # its words name the folder to go on with
            raise KeyboardInterrupt(str(stop).replace(str(folder), str(run.folder))) from None
        began = time.monotonic()
    results = [_result(seed, Run(folder)) for seed, folder in folders.items()]
    best = _best(results, config.metric_for_best_model)
    _promote(run, Run(folders[best["seed"]]), _spread(results, best, config.metric_for_best_model), say)
    return run


def _config(config: Config, seed: int, finished: Sequence[Path]) -> Config:
    """The config of one seed, with its share of the time that `finished` seeds have left."""
    limit = config.time_limit
    if limit:
        used = sum(Run(folder).summary()["total_seconds"] for folder in finished)
        share = (config.time_limit_seconds - used) / (config.seeds - len(finished))
        if share <= 0:
            raise UsageError(f"the time limit of {limit} is used up before seed {seed}", "give more, or fewer --seeds")
        limit = f"{share:.1f}s"
    return replace(config, seed=seed, seeds=1, time_limit=limit)


def _result(seed: int, run: Run) -> dict[str, Any]:
    """A finished seed's figures on validation."""
    summary = run.summary()
    figures = {key: summary[f"best_validation_{key}"] for key in FIGURES}
    return {"seed": seed, **figures, "seconds": summary["total_seconds"]}


def _best(results: Sequence[dict[str, Any]], metric: str) -> dict[str, Any]:
    """The highest on the metric; of equals the one of lower loss, then the first."""
    return max(results, key=lambda result: (result[metric], -result["loss"]))


def _spread(results: Sequence[dict[str, Any]], best: dict[str, Any], metric: str) -> dict[str, Any]:
    """What seeds.json holds: mean, standard deviation, least and most of each figure over the seeds."""
    columns = {key: [result[key] for result in results] for key in FIGURES}
    spread = {
        key: {"mean": fmean(values), "sd": stdev(values), "min": min(values), "max": max(values)}
        for key, values in columns.items()
    }
    return {"metric": metric, "best": best["seed"], "spread": spread, "seeds": list(results)}


def _promote(run: Run, best: Run, spread: dict[str, Any], say: Say) -> None:
    """Make the best seed's files RUN's. Its summary, by which a run counts as finished, comes last but for the seal."""
    with runs.storing(run.folder):
        shutil.copytree(
            best.folder, run.folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("summary.json", runs.MANIFEST)
        )
    words = _words(spread)
    verdict = [line.replace(str(best.folder), str(run.folder)) for line in best.summary()["verdict"]]
    run.write(SUMMARY, spread)
    run.write("summary.json", best.summary() | {"seeds": spread["spread"], "verdict": [*verdict, words]})
    shutil.rmtree(best.folder)
    run.seal()
    say(words)
    say(verdict[-1])


def _words(spread: dict[str, Any]) -> str:
    """The spread in a sentence. The best of several reads high on the rows that chose it: the mean is the fair one."""
    metric, figures = spread["metric"], spread["spread"][spread["metric"]]
    return (
        f"{len(spread['seeds'])} seeds: {metric} {figures['mean']:.4f} on average, sd {figures['sd']:.4f}, "
        f"{figures['min']:.4f} to {figures['max']:.4f} on validation; kept seed {spread['best']}, whose own figure "
        "reads high because it was chosen by it."
    )
