"""compare: seeds of one recipe are one thing, other recipes are told apart only where chance doesn't explain it."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from textlora import cli, paired, runs
from textlora.compare import Answer, Member, Thing, _pair, _things, compare
from textlora.data import Split
from textlora.errors import DamagedError, UsageError
from textlora.evaluate import evaluate


@pytest.fixture
def two(trained, tmp_path):
    """Private copies of two recipes: comparing writes that the test split was read."""
    for name, changes in {"few": {}, "more": {"max_steps": 12}}.items():
        shutil.copytree(trained("bert", **changes), tmp_path / name)
    return [tmp_path / "few", tmp_path / "more"]


@pytest.fixture
def loading(tiny_base):
    return {"base_weights": str(tiny_base("bert")), "precision": "fp32"}


def answer(probabilities: np.ndarray, labels: np.ndarray, recipe: str = "r", seed: int | None = 0) -> Answer:
    rows = Split("test", [f"text {i}" for i in range(len(labels))], labels, [], ("a", "b"))
    member = Member(runs.Path(f"{recipe}-{seed}"), f"{recipe}-{seed}", recipe, seed)
    return Answer(member, probabilities, probabilities.argmax(1) == labels, 9, ("a", "b"), rows, ())


def guesses(rng: np.random.Generator, labels: np.ndarray, right: float) -> np.ndarray:
    """Probabilities whose label is right as often as `right` says."""
    sure = rng.uniform(0.5, 1, len(labels))
    hit = np.where(rng.random(len(labels)) < right, labels, 1 - labels)
    return np.where(hit[:, None] == np.arange(2), sure[:, None], 1 - sure[:, None])


# ---------------------------------------------------------------------------------------------------------------- laws


def test_a_broken_and_a_good_run_are_different_and_two_seeds_are_not():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 500)
    good, again, broken = (answer(guesses(rng, labels, right), labels) for right in (0.92, 0.92, 0.5))
    a, b, c = (Thing(name, (one,)) for name, one in {"good": good, "again": again, "broken": broken}.items())
    assert _pair(a, c, good.rows)["p"] < 1e-6
    assert _pair(a, c, good.rows)["difference"] < 0
    assert _pair(a, b, good.rows)["p"] > 0.05


def test_runs_that_differ_in_the_seed_alone_are_one_thing():
    labels = np.zeros(4, int)
    p = np.full((4, 2), 0.5)
    given = [answer(p, labels, *key) for key in (("r", 0), ("s", 0), ("r", 1), ("r", 0), ("bare", None))]
    assert [[one.member.name for one in thing.answers] for thing in _things(given)] == [
        ["r-0", "r-1"],
        ["s-0"],
        ["r-0"],  # the same recipe and seed again: trained by another version, say
        ["bare-None"],
    ]
    assert [thing.name for thing in _things(given[:1] + given[2:3])] == ["r-0", "r-1"]  # one recipe: its seeds apart


def test_the_texts_that_changed_are_the_surest_with_both_labels():
    labels = np.array([0, 0, 1, 1])
    a = answer(np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.3, 0.7]]), labels)
    b = answer(np.array([[0.2, 0.8], [0.4, 0.6], [0.1, 0.9], [0.9, 0.1]]), labels)
    pair = _pair(Thing("a", (a,)), Thing("b", (b,)), a.rows)
    assert (pair["changed"], pair["only_a_right"], pair["only_b_right"]) == (3, 3, 0)
    assert [(one["row"], one["label"], one["a"], one["b"]) for one in pair["texts"]] == [
        (0, "a", "a", "b"),
        (3, "b", "b", "a"),
        (1, "a", "a", "b"),
    ]
    assert (pair["texts"][0]["probability_a"], pair["texts"][0]["probability_b"]) == (0.9, 0.8)
    assert pair["difference"] == -0.75


def test_several_seeds_have_a_mean_a_spread_and_an_interval():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 400)
    answers = tuple(answer(guesses(rng, labels, right), labels, "r", k) for k, right in enumerate((0.8, 0.9, 0.85)))
    found = Thing("r", answers).to_dict()
    each = [one.correct_N.mean() for one in answers]
    assert found["accuracy"] == pytest.approx(np.mean(each))
    assert found["sd"] == pytest.approx(np.std(each, ddof=1))
    low, high = found["accuracy_ci"]
    assert low < found["accuracy"] < high
    assert json.loads(json.dumps(found)) == found


# ---------------------------------------------------------------------------------------------------------------- runs


def test_what_is_said_of_two_runs_is_what_evaluate_says_of_each(two, loading):
    result = compare(two, "mini-news", "test", say=lambda _: None, **loading)
    for thing, run in zip(result["things"], two, strict=True):
        alone = evaluate(run, "mini-news", "test", **loading)
        assert thing["accuracy"] == alone.scores.accuracy
        assert thing["f1_macro"] == alone.scores.f1_macro
        assert thing["accuracy_ci"] == list(alone.scores.accuracy_ci)
        assert (thing["test_reads"], alone.test_reads) == ([1], 2)
        runs.verify(run)
    (pair,) = result["pairs"]
    assert pair["difference"] == pytest.approx(result["things"][1]["accuracy"] - result["things"][0]["accuracy"])
    assert pair["p"] == pair["p_corrected"]
    assert pair["verdict"] == ("different" if pair["p"] < 0.05 else "no difference seen")
    assert result["warnings"] == []


def test_another_split_is_no_read_and_rows_a_run_has_seen_are_said(two, loading):
    result = compare(two, "mini-news", "validation", say=lambda _: None, **loading)
    assert [thing["test_reads"] for thing in result["things"]] == [[None], [None]]
    assert result["warnings"] == [f"{run}: the run was chosen on these rows" for run in two]


@pytest.mark.slow
def test_a_folder_of_seeds_is_one_thing_and_stays_sealed(two, tiny_config, tmp_path, loading):
    from textlora.train import train

    several = train(tiny_config("bert", seeds=2), out=tmp_path / "several", say=lambda _: None).folder
    result = compare([several, two[1]], "mini-news", "test", say=lambda _: None, **loading)
    assert [len(thing["runs"]) for thing in result["things"]] == [2, 1]
    assert sorted(result["things"][0]["seeds"]) == [0, 1]
    assert result["things"][0]["test_reads"] == [1, 1]
    assert result["pairs"][0]["test"] == "bootstrap"
    for folder in (several, *(several / "seeds").iterdir()):
        runs.verify(folder)
    alone = compare([several], "mini-news", "test", say=lambda _: None, **loading)  # its seeds, one with the other
    assert [len(thing["runs"]) for thing in alone["things"]] == [1, 1]
    (several / "adapter" / "textlora.json").write_text("{}")
    with pytest.raises(DamagedError):
        compare([several, two[1]], "mini-news", "test", **loading)


def test_the_table_and_the_json(two, loading, capsys):
    argv = ["compare", *map(str, two), "--data", "mini-news", "--base-weights", loading["base_weights"], "--precise"]
    assert cli.main(argv) == 0
    out = capsys.readouterr().out
    assert f"{two[0]} -> {two[1]}: " in out
    assert "McNemar's p " in out
    assert f"test read: {two[0]} once, {two[1]} once" in out
    assert cli.main([*argv, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["correction"] == "holm"


# ----------------------------------------------------------------------------------------------------------- bad input


def test_what_cannot_be_compared_is_a_sentence_and_no_read(two, loading, tmp_path, trained):
    def fails(named, words, data="mini-news", error=UsageError, **more):
        with pytest.raises(error, match=words):
            compare(named, data, "test", say=lambda _: None, **loading, **more)

    fails([two[0]], "can't be compared alone")
    fails([], "nothing can't be compared")
    fails([two[0], two[0]], "is named twice")
    fails([two[0], tmp_path / "none"], "is no run and no adapter folder")
    other = tmp_path / "other"
    shutil.copytree(two[1] / "adapter", other)
    settings = json.loads((other / "textlora.json").read_text())
    (other / "textlora.json").write_text(json.dumps(settings | {"labels": ["w", "x", "y", "z"]}))
    rows = tmp_path / "rows.csv"
    rows.write_text("text,label\nRain stopped play,0\nA new law,1\n")
    fails([two[0], other], "has the labels .*, .*other has w, x, y, z", data=str(rows))
    assert not (two[0] / "evaluation" / "test_reads.jsonl").exists()


def test_runs_that_read_other_columns_are_refused(two, loading, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(two[1] / "adapter", other)
    settings = json.loads((other / "textlora.json").read_text())
    (other / "textlora.json").write_text(json.dumps(settings | {"text_columns": ["body"]}))
    names = settings["labels"]
    rows = tmp_path / "rows.csv"
    rows.write_text(f"text,body,label\nRain,stopped play,{names[0]}\nA new,law,{names[1]}\n")
    with pytest.raises(UsageError, match="read other rows or texts"):
        compare([two[0], other], str(rows), "", **loading)


def test_several_pairs_are_corrected_together(two, loading, trained, tmp_path):
    shutil.copytree(trained("bert", max_steps=3), tmp_path / "third")
    pairs = compare([*two, tmp_path / "third"], "mini-news", "test", say=lambda _: None, **loading)["pairs"]
    assert [pair["p_corrected"] for pair in pairs] == paired.holm([pair["p"] for pair in pairs])
