"""Suspects: wrong labels planted in a file are found, by rows that no model saw; near-duplicates don't vouch."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from conftest import corpus_rows

from textlora import cli, config, data, suspects
from textlora.errors import DataError, UsageError

quiet = {"say": lambda line: None}


@pytest.fixture
def planted(tmp_path):
    """mini-news' training rows, every 25th with the next label in the list; and which rows those are."""
    rows = corpus_rows("train")
    names = sorted({row["label"] for row in rows})
    wrong = list(range(5, len(rows), 25))
    for i in wrong:
        rows[i]["label"] = names[(names.index(rows[i]["label"]) + 1) % len(names)]
    return write(tmp_path / "planted.csv", [(row["text"], row["label"]) for row in rows]), set(wrong)


def write(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    return path


@pytest.fixture
def settings(tiny_base):
    return config.load("minilm-fast", {"base": "roberta-base", "base_weights": str(tiny_base("roberta"))})


def test_planted_wrong_labels_come_first(planted, settings, tmp_path):
    path, wrong = planted
    found = suspects.find(str(path), settings, out=tmp_path / "out.csv", **quiet)
    top = found.suspects[: len(wrong)]
    assert len({one.row for one in top} & wrong) > 0.5 * len(wrong)
    assert sum(pair["suspects"] for pair in found.pairs) == sum(one.sure for one in found.suspects)
    with path.open(newline="", encoding="utf-8") as file:
        given = list(csv.DictReader(file))
    assert all(given[one.row] == {"text": one.text, "label": one.given} for one in found.suspects)
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        written = list(csv.DictReader(file))
    assert [(int(row["row"]), row["suggested"]) for row in written] == [(s.row, s.suggested) for s in found.suspects]


def test_near_duplicates_share_a_fold(tmp_path):
    text = "one two three four five six seven eight nine ten eleven twelve number"
    rows = [(f"{text} {i % 40}", "ab"[i % 2]) for i in range(120)] + [
        (f"other words {i} here", "ab"[i % 2]) for i in range(60)
    ]
    whole = data.load_whole(str(write(tmp_path / "d.csv", rows)))
    held = suspects.fold_of(whole, 5)
    assert len(np.unique(held[:120])) == 1
    assert len(np.unique(held)) == 5


def test_every_row_of_the_file_is_looked_at_repeats_and_all(tmp_path):
    whole = data.load_whole(str(write(tmp_path / "d.csv", [("the same", "a"), ("the same", "a"), ("the same", "b")])))
    assert whole.texts == ["the same"] * 3
    assert data.load_whole("mini-news").texts == [row["text"] for row in corpus_rows("train")]


def test_a_label_with_one_row_is_not_judged(planted, settings):
    path, _ = planted
    with path.open("a", newline="", encoding="utf-8") as file:
        csv.writer(file).writerow(("quite another thing", "Weather"))
    found = suspects.find(str(path), settings, folds=3, **quiet)
    assert found.rows == found.judged + 1
    assert "Weather" not in {one.given for one in found.suspects} | {one.suggested for one in found.suspects}


def test_what_can_not_be_judged_is_refused(tmp_path, settings, planted):
    few = write(tmp_path / "few.csv", [("a text", "a"), ("b text", "b"), ("c text", "b")])
    with pytest.raises(DataError, match="too few for 5 folds"):
        suspects.find(str(few), settings, **quiet)
    one = write(tmp_path / "one.csv", [(f"text {i}", "a") for i in range(20)])
    with pytest.raises(DataError, match="one label only"):
        suspects.find(str(one), settings, **quiet)
    with pytest.raises(UsageError, match="2 to 50"):
        suspects.find(str(few), settings, folds=1, **quiet)
    with pytest.raises(UsageError, match="exists"):
        suspects.find(str(few), settings, out=few, **quiet)


@pytest.mark.parametrize(("flag", "value"), [("--split-seed", "1"), ("--validation-fraction", "0.2")])
def test_flags_of_carving_are_refused_since_nothing_is_carved(flag, value, capsys):
    assert cli.main(["data", "suspects", "mini-news", flag, value]) == 2
    assert "no validation is carved" in capsys.readouterr().err


def test_check_takes_none_of_its_flags(capsys):
    assert cli.main(["data", "check", "mini-news", "--folds", "5"]) == 2
    assert "leave out" in capsys.readouterr().err


def test_the_command_says_pairs_and_rows(planted, tiny_base, capsys):
    path, _ = planted
    flags = ["--base", "roberta-base", "--base-weights", str(tiny_base("roberta")), "--folds", "3"]
    assert cli.main(["data", "suspects", str(path), *flags]) == 0
    out = capsys.readouterr().out
    assert "look wrong for sure" in out
    assert "row " in out
