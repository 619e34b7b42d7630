"""Several seeds of one config: each is the run it would be alone, the best is kept, what is finished stays."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from textlora import adapter, repeats, runs
from textlora.errors import UsageError
from textlora.runs import Run
from textlora.train import train

FIGURES = st.fixed_dictionaries({key: st.floats(0, 1) for key in repeats.FIGURES} | {"seconds": st.floats(0, 9)})


def quiet(_: str) -> None:
    pass


def weights(run: Path) -> bytes:
    return (run / "adapter" / adapter.WEIGHTS).read_bytes()


@pytest.fixture(scope="module")
def three(tiny_config, tmp_path_factory):
    said: list[str] = []
    out = tmp_path_factory.mktemp("seeds") / "run"
    return train(tiny_config("bert", seeds=3, metric_for_best_model="f1_macro"), out=out, say=said.append), said


@pytest.mark.slow
def test_the_best_seed_is_a_normal_run_and_the_others_are_kept(three):
    run, said = three
    kept = json.loads((run.folder / "seeds.json").read_text())
    assert [result["seed"] for result in kept["seeds"]] == [0, 1, 2]
    assert kept["spread"]["f1_macro"]["max"] == run.summary()["best_validation_f1_macro"]
    assert sorted(path.name for path in (run.folder / "seeds").iterdir()) == [
        str(seed) for seed in range(3) if seed != kept["best"]
    ]
    assert (run.config().seed, run.config().seeds) == (kept["best"], 1)
    runs.verify(run.folder)
    for other in (run.folder / "seeds").iterdir():
        runs.verify(other)
    words = run.summary()["verdict"]
    assert not any("seeds/" in line or "seeds\\" in line for line in words)
    assert words[-1].startswith("3 seeds: f1_macro 0.")
    assert words[-1] in said


def test_each_seed_is_the_run_it_would_be_alone(three, trained):
    run, _ = three
    best = run.config().seed
    alone = trained("bert", metric_for_best_model="f1_macro", seed=best)
    assert weights(run.folder) == weights(alone)


@pytest.mark.slow
def test_an_interrupted_series_keeps_what_is_finished_and_goes_on(tiny_config, tmp_path, three, monkeypatch):
    config = tiny_config("bert", seeds=3, metric_for_best_model="f1_macro")
    begun: list[int] = []
    whole = repeats.train_seeds

    def stopping(run, config, train, **kwargs):
        def one(own, folder, began):
            begun.append(own.seed)
            if begun == [0, 1]:
                raise KeyboardInterrupt(f"go on with {folder}")
            return train(own, folder, began)

        return whole(run, config, one, **kwargs)

    monkeypatch.setattr(sys.modules["textlora.train"], "train_seeds", stopping)
    with pytest.raises(KeyboardInterrupt, match=r"^go on with .*[/\\]run$"):
        train(config, out=tmp_path / "run", say=quiet)
    assert Run(tmp_path / "run").config() == config
    assert not Run(tmp_path / "run").finished
    run = train(Run(tmp_path / "run").config(), out=tmp_path / "run", resume=True, say=quiet)
    assert begun == [0, 1, 1, 2]
    assert weights(run.folder) == weights(three[0].folder)
    with pytest.raises(UsageError, match="has finished"):
        train(config, out=run.folder, resume=True, say=quiet)


def test_a_mistake_leaves_no_folder(tiny_config, tmp_path):
    with pytest.raises(UsageError, match="no data"):
        train(replace(tiny_config("bert", seeds=2), data=""), out=tmp_path / "run", say=quiet)
    assert not (tmp_path / "run").exists()


@given(st.lists(FIGURES, min_size=2, max_size=6))
def test_the_spread_is_that_of_the_figures_and_the_best_has_the_most(figures):
    results = [{"seed": seed, **own} for seed, own in enumerate(figures)]
    best = repeats._best(results, "accuracy")
    spread = repeats._spread(results, best, "accuracy")["spread"]["accuracy"]
    values = [own["accuracy"] for own in figures]
    assert best["accuracy"] == spread["max"] == max(values)
    assert spread["mean"] == pytest.approx(fmean(values))
    assert spread["sd"] == pytest.approx(stdev(values))
    assert all(best["loss"] <= own["loss"] for own in figures if own["accuracy"] == max(values))


def test_of_a_time_limit_each_seed_gets_its_share_of_what_is_left(tiny_config, tmp_path):
    config = tiny_config("bert", seeds=3, time_limit="100s")
    folders = []
    for seed, seconds in ((0, 20.0), (1, 50.0)):
        own = repeats._config(config, seed, folders)
        assert own.time_limit == ("33.3s", "40.0s")[seed]
        folders.append(tmp_path / str(seed))
        folders[-1].mkdir()
        Run(folders[-1]).write("summary.json", {"total_seconds": seconds})
    assert repeats._config(config, 2, folders).time_limit == "30.0s"
    Run(folders[0]).write("summary.json", {"total_seconds": 60.0})
    with pytest.raises(UsageError, match="used up before seed 2"):
        repeats._config(config, 2, folders)
