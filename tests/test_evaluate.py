"""Judgement laws: a report says which split it is of, reads of the test split are counted, and figures come one way."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from textlora import data, metrics, perturb, predict
from textlora.baseline import Baseline
from textlora.errors import DataError, UsageError
from textlora.evaluate import Report, evaluate
from textlora.longtext import Cut
from textlora.tables import report_table
from textlora.verdict import verdict


@pytest.fixture
def run(trained, tmp_path):
    """A private copy: evaluating writes into the run."""
    shutil.copytree(trained("bert"), tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def loading(tiny_base):
    return {"base_weights": str(tiny_base("bert")), "precision": "fp32"}


def test_the_report_is_the_numbers_path_on_that_split(run, loading):
    report = evaluate(run, "mini-news", "test", **loading)
    predictor = predict.load(run, **loading)
    rows = data.load_split("mini-news", "test", label_names=predictor.labels)
    expected = metrics.score(rows.labels, predictor.predict_proba(rows.texts), predictor.labels)
    assert report.scores == expected
    assert report.split == "test"
    assert report.to_dict()["n"] == 200


def test_abstaining_and_slices_are_of_the_same_rows(run, loading):
    wanted = {"abstain_below": 0.5, "slice_by": ("length", "agency", "label")}
    report = evaluate(run, "mini-news", "test", **wanted, **loading).to_dict()
    predictor = predict.load(run, **loading)
    rows = data.load_split("mini-news", "test", label_names=predictor.labels)
    assert report["abstain"] == metrics.abstaining(rows.labels, predictor.predict_proba(rows.texts), 0.5)
    assert [by["by"] for by in report["slices"]] == ["length", "agency", "label"]
    for by in report["slices"]:
        assert sum(row["n"] for row in by["rows"]) == 200
        assert sum(row["n"] * row["accuracy"] for row in by["rows"]) == pytest.approx(200 * report["accuracy"])
    by_label = {row["slice"]: row["accuracy"] for row in report["slices"][2]["rows"]}
    assert by_label == {row["label"]: row["recall"] for row in report["per_class"]}
    assert json.loads((run / "evaluation" / "report.json").read_text())["splits"]["test"] == report


def test_scaled_adapters_are_another_classifier_whose_report_stands_apart(run, loading):
    usual = evaluate(run, "mini-news", "validation", **loading).to_dict()
    card = (run / "adapter" / "README.md").read_text()
    scaled = evaluate(run, "mini-news", "validation", adapter_scale=0.5, **loading).to_dict()
    predictor = predict.load(run, adapter_scale=0.5, **loading)
    rows = data.load_split("mini-news", "validation", label_names=predictor.labels)
    assert scaled["loss"] == metrics.score(rows.labels, predictor.predict_proba(rows.texts), predictor.labels).loss
    assert (usual["adapter_scale"], scaled["adapter_scale"]) == (1, 0.5)
    assert report_table(scaled).splitlines()[0] == f"{report_table(usual).splitlines()[0]}, adapters times 0.5"
    written = json.loads((run / "evaluation" / "report.json").read_text())
    assert written["splits"]["validation"] == usual
    assert written["adapter_scale"]["validation"] == scaled
    assert (run / "adapter" / "README.md").read_text() == card
    predict.load(run, **loading)  # still sealed


def test_robustness_is_of_the_same_rows_changed_and_one_reading(run, loading):
    report = evaluate(run, "mini-news", "test", robustness=True, **loading).to_dict()
    predictor = predict.load(run, **loading)
    rows = data.load_split("mini-news", "test", label_names=predictor.labels)
    found = {row["change"]: row for row in report["robustness"]}
    assert list(found) == list(perturb.CHANGES)
    upper = predictor.predict_proba([text.upper() for text in rows.texts]).argmax(1)
    assert found["upper case"]["accuracy"] == (upper == rows.labels).mean()
    for row in found.values():
        low, high = row["drop_ci"]
        assert row["drop"] == pytest.approx(report["accuracy"] - row["accuracy"])
        assert low <= row["drop"] <= high
        assert 0 < row["texts"] <= 200
    assert report["test_reads"] == 1
    with pytest.raises(UsageError, match="one of the two"):
        evaluate(run, "mini-news", "test", robustness=True, label_shift=True, **loading)


def test_an_unknown_slice_or_probability_is_refused_before_the_split_is_read(run, loading):
    with pytest.raises(UsageError, match="no such column"):
        evaluate(run, "mini-news", "test", slice_by=("agnecy",), **loading)
    with pytest.raises(UsageError, match="from 0 to 1"):
        evaluate(run, "mini-news", "test", abstain_below=60.0, **loading)
    assert not (run / "evaluation" / "test_reads.jsonl").exists()


def test_test_reads_are_counted_and_only_those(run, loading):
    assert evaluate(run, "mini-news", "validation", **loading).test_reads is None
    assert [evaluate(run, "mini-news", "test", **loading).test_reads for _ in range(2)] == [1, 2]
    assert len((run / "evaluation" / "test_reads.jsonl").read_text().splitlines()) == 2


def test_a_report_written_elsewhere_counts_in_the_run(run, loading, tmp_path):
    from textlora import runs

    reads = [evaluate(run, "mini-news", "test", out=out, **loading).test_reads for out in (tmp_path / "out", "")]
    assert reads == [1, 2]
    assert not (tmp_path / "out" / "evaluation" / "test_reads.jsonl").exists()
    runs.verify(run)


def test_a_run_that_may_only_be_read_is_counted_where_its_report_is(run, loading, tmp_path, monkeypatch):
    may = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode, **rest: Path(path) != run / "evaluation" and may(path, mode, **rest)
    )
    assert evaluate(run, "mini-news", "test", out=tmp_path / "out", **loading).test_reads == 1
    assert not (run / "evaluation" / "test_reads.jsonl").exists()
    assert (tmp_path / "out" / "evaluation" / "test_reads.jsonl").is_file()


def test_reports_of_splits_stand_side_by_side(run, loading):
    evaluate(run, "mini-news", "test", **loading)
    splits = json.loads((run / "evaluation" / "report.json").read_text())["splits"]
    assert set(splits) == {"validation", "test"}
    assert [splits[name]["n"] for name in ("validation", "test")] == [120, 200]
    assert (run / "evaluation" / "confusion_matrix_test.png").is_file()


def test_the_validation_report_of_training_is_what_evaluate_gives(run, loading):
    before = json.loads((run / "evaluation" / "report.json").read_text())["splits"]["validation"]
    after = evaluate(run, "mini-news", "validation", **loading).to_dict()
    assert before["accuracy"] == after["accuracy"]
    assert before["loss"] == pytest.approx(after["loss"], abs=1e-6)
    assert after["warnings"] == ["the run was chosen on these rows"]


def test_a_carved_validation_is_carved_again_the_same(tiny_config, tmp_path, loading):
    from textlora.train import train

    config = tiny_config("bert", data=str(_single_file(tmp_path)), split_seed=3, validation_fraction=0.2, max_steps=2)
    run = train(config, out=tmp_path / "run", say=lambda _: None).folder
    report = evaluate(run, config.data, "validation", **loading)
    assert report.warnings == ("the run was chosen on these rows",)
    assert report.scores.n == 24


def _single_file(tmp_path):
    from conftest import CORPUS

    shutil.copy(CORPUS / "validation.csv", tmp_path / "one.csv")
    return tmp_path / "one.csv"


def test_a_sealed_run_stays_sealed(run, loading):
    from textlora import runs

    evaluate(run, "mini-news", "test", **loading)
    runs.verify(run)


def test_a_bare_adapter_writes_only_to_out(run, loading, tmp_path):
    adapter = tmp_path / "bare"
    shutil.copytree(run / "adapter", adapter)
    before = sorted(p.name for p in adapter.iterdir())
    evaluate(adapter, "mini-news", "test", **loading)
    assert sorted(p.name for p in adapter.iterdir()) == before
    report = evaluate(adapter, "mini-news", "test", out=tmp_path / "out", **loading)
    assert report.test_reads == 1
    assert (tmp_path / "out" / "evaluation" / "report.json").is_file()


def test_a_split_that_is_not_there_and_an_unknown_label(run, loading, tmp_path):
    with pytest.raises(UsageError, match="holdout"):
        evaluate(run, "mini-news", "holdout", **loading)
    file = tmp_path / "rows.csv"
    file.write_text("text,label\nRain stopped play,Sports\nA new law,Politics\n")
    with pytest.raises(DataError, match="Politics"):
        evaluate(run, str(file), **loading)


def test_the_verdict_is_at_most_four_sentences_of_numbers(run, loading):
    report = evaluate(run, "mini-news", "test", **loading)
    labels = np.arange(200) % 4
    sure = np.eye(4)[labels] * 0.96 + 0.01
    flat = Baseline("tfidf-logreg", np.full((200, 4), 0.25), 1.0).scored(labels)
    lines = verdict(report.split, report.scores, labels, sure, [flat], "textlora classify RUN")
    assert len(lines) <= 4
    assert "+75.0 points" in lines[0]
    assert lines[-1] == "Next: textlora classify RUN"
    tie = verdict(report.split, report.scores, labels, sure, [Baseline("x", sure, 1.0).scored(labels)], "next")
    assert "no gain is shown" in tie[0]


def test_the_verdict_names_the_classes_that_are_never_found():
    names = ("often", "rare", "rarer", "absent")
    labels, flat = np.array([0] * 8 + [1, 1, 2]), np.eye(4)[[0] * 11]
    report = Report("validation", "d", "f", metrics.score(labels, flat, names), [], {}, 1, None, Cut("truncate", 128))
    lines = verdict(report.split, report.scores, labels, flat, [Baseline("x", flat, 1.0).scored(labels)], "next")
    assert "Never found: 2 of 3 classes (rare, rarer), 3 rows in all." in lines
    assert any(line.startswith("Most confused: rare taken for often, 2 of 3") for line in lines)
    one_missed = np.eye(4)[[0] * 8 + [1, 1, 0]]
    report = replace(report, scores=metrics.score(labels, one_missed, names))
    lines = verdict(report.split, report.scores, labels, one_missed, [Baseline("x", flat, 1.0).scored(labels)], "next")
    assert "Weakest class: rarer, F1 0.000 (0 of 1 found)." in lines  # and not the one without a row


def test_a_macro_f1_below_the_baselines_is_said():
    labels = np.array([0] * 96 + [1] * 4)
    mostly, balanced = (np.eye(2)[answers] for answers in ([0] * 100, [0] * 86 + [1] * 14))
    scores = metrics.score(labels, mostly, ["often", "rare"])
    report = Report("validation", "d", "f", scores, [], {}, 1, None, Cut("truncate", 128))
    line = verdict(
        report.split, report.scores, labels, mostly, [Baseline("tfidf-logreg", balanced, 1.0).scored(labels)], "next"
    )[0]
    assert line.endswith("; macro-F1 0.490 is below tfidf-logreg's 0.695.")
    assert (
        "macro-F1"
        not in verdict(
            report.split, report.scores, labels, mostly, [Baseline("x", mostly, 1.0).scored(labels)], "next"
        )[0]
    )
