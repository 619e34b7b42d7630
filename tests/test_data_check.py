"""data/check.py and `textlora data check`: everything at once, as `load` would have it, on one screen."""

import csv
import json

import numpy as np
import pytest

from textlora import bases, cli, data
from textlora.data import findings
from textlora.data.check import check


def texts(start, end):
    return [f"item {i} " + " ".join(f"v{i}x{k}" for k in range(9)) for i in range(start, end)]


def write(path, rows, header=("text", "label")):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


@pytest.fixture
def odd(tmp_path):
    """Three splits with a bit of everything, trainable."""
    rows = [(text, "abc"[i % 3]) for i, text in enumerate(texts(0, 60))]
    train = [*rows, rows[0], (rows[1][0], "c"), ("held out", "a"), ("a <b>bold</b> word", "rare")]
    write(tmp_path / "train.csv", train)
    write(tmp_path / "validation.csv", [("own text", "a"), ("held out", "a")])
    write(tmp_path / "test.csv", [("Held out!", "a"), ("other", "b"), ("other", "b")])
    return tmp_path


def test_everything_odd_is_counted(odd):
    found = check(str(odd))
    counts = {finding.kind: finding.count for finding in found.findings}
    assert counts == {
        "repeats": 1,
        "conflicts": 1,
        "leaks": 1,
        "test_repeats": 1,
        "validation_test": 1,
        "html": 1,
        "few": 1,
    }
    assert found.trainable
    assert found.classes[0]["train"] == 22
    assert {row["label"]: row["test"] for row in found.classes} == {"a": 1, "b": 2, "c": 0, "rare": 0}
    assert found.imbalance == 22
    assert found.lengths["words"] == {"median": 11, "p95": 11, "p99": 11, "longest": 11}
    assert [file["rows"] for file in found.files] == [64, 2, 3]


def test_a_check_is_what_load_does(odd):
    loaded, found = data.load(str(odd)), check(str(odd))
    assert found.train is not None
    assert found.train.fingerprint == loaded.train.fingerprint
    assert found.validation == len(loaded.validation)
    (odd / "validation.csv").unlink()
    loaded, found = data.load(str(odd), split_seed=4), check(str(odd), split_seed=4)
    assert found.train is not None
    assert found.train.row_ids == loaded.train.row_ids


def test_faults_are_gathered_instead_of_stopping_at_the_first(tmp_path):
    rows = [(text, "ab"[i % 2]) for i, text in enumerate(texts(0, 30))]
    path = write(tmp_path / "d.csv", [*rows, ("", "a"), ("  ", "b"), ("x",), ("y", ""), ("z", "1.5"), ("w", "A")])
    found = check(str(path))
    stops = [finding for finding in found.findings if finding.stops]
    assert [finding.count for finding in stops] == [2, 1, 1, 1, 1]
    said = "\n".join(finding.line for finding in stops)
    for part in ("row 31: the text is empty (and 1 more like it in train)", "row 33", "row 34: the label is empty"):
        assert part in said
    assert "the label 1.5 is a real number" in said
    assert "'A' and 'a', which differ in case" in said
    assert not found.trainable
    assert {row["label"]: row["train"] for row in found.classes} == {"a": 15, "b": 15, "A": 1}


def test_the_command_prints_a_screen_and_an_object(odd, capsys):
    assert cli.main(["data", "check", str(odd)]) == 0
    screen = capsys.readouterr().out
    assert "nothing stands in the way of training" in screen
    assert len(screen.splitlines()) <= 40
    assert cli.main(["data", "check", str(odd), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["trainable"]
    assert {"kind", "count", "message", "action", "examples", "stops"} == found["findings"][0].keys()


def test_what_cannot_be_trained_on_exits_3_with_the_report(tmp_path, capsys):
    path = write(tmp_path / "d.csv", [("x", "a"), ("", "b")])
    assert cli.main(["data", "check", str(path), "--json"]) == 3
    found = json.loads(capsys.readouterr().out)
    assert found["error"]["code"] == 3
    assert not found["trainable"]
    assert cli.main(["data", "check", str(path)]) == 3
    out, err = capsys.readouterr()
    assert "! d.csv: row 2: the text is empty" in out
    assert "in the way of training" in err
    assert cli.main(["data", "check", str(tmp_path / "none.csv")]) == 3
    assert cli.main(["data", "check", str(path), "--text-column", "tekst"]) == 2


def test_tokens_are_counted_where_a_tokenizer_is(odd, tmp_path, capsys):
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    from conftest import make_tokenizer

    make_tokenizer("bert", folder)
    flags = ["--tokenizer", str(folder), "--max-length", "20", "--json"]
    assert cli.main(["data", "check", str(odd), *flags]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["lengths"]["tokens"]["longest"] > 20
    assert 0 < found["cut"] <= 64
    assert found["max_length"] == 20
    assert cli.main(["data", "check", str(odd), "--base-weights", "random:0", "--base", "roberta", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cut"] is None


@pytest.mark.skipif(bases.present(bases.find("minilm")) == "absent", reason="the embedded base isn't installed")
def test_what_would_be_fitted_is_what_train_fits(tmp_path, capsys):
    """The bag of tokens of 4 labels fits the budget, that of 40 doesn't, and 4,000 labels are too many themselves."""
    rows = [(text, str(i)) for i, text in enumerate(texts(0, 8000))]
    file_of = {}
    for labels in (4, 40, 4000):
        file = tmp_path / f"{labels}.csv"
        file_of[labels] = str(write(file, [(text, f"l{int(i) % labels}") for text, i in rows[: 20 * labels]]))
    for labels, phrase in ((4, "class weights none"), (40, "no bag of tokens (over the budget)")):
        assert cli.main(["data", "check", file_of[labels], "--json"]) == 0
        (line,) = json.loads(capsys.readouterr().out)["fitted"]
        assert phrase in line
        assert ("bag of tokens" in line) == (labels == 40)
    assert cli.main(["data", "check", file_of[4000], "--json"]) == 4
    found = json.loads(capsys.readouterr().out)
    assert (found["error"]["kind"], found["trainable"], found["fitted"]) == ("budget", False, [])
    assert cli.main(["data", "check", file_of[4000]]) == 4
    screen, said = capsys.readouterr()
    assert "nothing stands in the way" not in screen
    assert "the budget is 1,000,000" in said


def test_rows_that_all_have_a_fault_are_not_called_repeats(tmp_path):
    found = check(str(write(tmp_path / "d.csv", [(text, f"{i}.5") for i, text in enumerate(texts(0, 30))])))
    (stop,) = [finding for finding in found.findings if finding.stops]
    assert "is a real number" in stop.message


def test_many_labels_stay_on_one_screen(tmp_path, capsys):
    rows = [(text, f"queue {i % 40}") for i, text in enumerate(texts(0, 200))]
    assert cli.main(["data", "check", str(write(tmp_path / "d.csv", rows))]) == 0
    screen = capsys.readouterr().out
    assert "and 28 rarer labels" in screen
    assert len(screen.splitlines()) <= 40


# ------------------------------------------------------------------------------------------------------------ findings


@pytest.mark.parametrize(
    ("kind", "odd", "plain"),
    [
        ("html", "see <a href='x'>this</a>", "if a < b and b > c"),
        ("html", "Tom &amp; Jerry", "AT&T and more"),
        ("mojibake", "caf\u00c3\u00a9", "S\u00c3O PAULO"),
        ("mojibake", "it\u00e2\u20ac\u2122s", "costs 5 \u20ac"),
        ("excel_error", "#REF!", "#REF! is an error"),
        ("excel_cut", "x" * 32_767, "x" * 32_768),
        ("missing_text", " N/A ", "none of it"),
        ("numbers", "12:30, 05/06/2024", "on 05/06/2024"),
    ],
)
def test_an_odd_text_is_told_from_a_plain_one(kind, odd, plain):
    assert [finding.kind for finding in findings.of_texts([odd], ["a"])] == [kind]
    assert findings.of_texts([plain], ["a"]) == []


def test_a_label_in_its_texts_needs_nearly_all_of_them():
    held = [f"{i} this is {label}" for i, label in enumerate(["good", "bad"] * 20)]
    labels = ["good", "bad"] * 20
    assert [f.kind for f in findings.of_texts(held, labels)] == ["label_in_text"]
    assert findings.of_texts([*held[:30], *("plain text",) * 10], labels) == []
    assert findings.of_texts(held, ["1", "2"] * 20) == []


def test_a_thousand_rows_take_no_time(tmp_path):
    rows = [(text, "ab"[i % 2]) for i, text in enumerate(texts(0, 1000))]
    found = check(str(write(tmp_path / "d.csv", rows)), count_tokens=lambda t: np.ones(len(t), dtype=int))
    assert found.lengths["tokens"]["longest"] == 1
