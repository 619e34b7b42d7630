"""Bad input, a row each: what people's files are like, the exit code it gives, and what is said.

Code 0 is data that trains all the same, and says what is odd. `load` and `data check` must agree on every row, and
neither may show a traceback or take more than seconds.
"""

import gzip
import json
import time

import pytest

from textlora import cli, data
from textlora.errors import TextLoraError

WORDS = [
    "amber",
    "birch",
    "cedar",
    "delta",
    "ember",
    "fjord",
    "grove",
    "harbor",
    "inlet",
    "juniper",
    "kettle",
    "lantern",
    "meadow",
    "nectar",
    "orchard",
]


def sentence(i):
    return f"no. {i}: the {WORDS[i % 15]} {WORDS[(i * 7 + 3) % 15]} stood by a {WORDS[(i * 11 + 5) % 15]} at gate {i}"


def rows(labels, text=sentence):
    return [(text(i), label) for i, label in enumerate(labels)]


def csv_of(pairs, header="text,label", separator=","):
    return header + "\n" + "".join(f'"{t}"{separator}{label}\n' for t, label in pairs)


def jsonl_of(pairs):
    return "".join(json.dumps({"text": t, "label": label}) + "\n" for t, label in pairs)


AB = ["a", "b"] * 10
GOOD = csv_of(rows(AB))
LONG = "word " * (2 << 20)  # 10 MB

BAD = {
    # what the file is
    "Excel workbook": ("d.xlsx", b"PK\x03\x04", 2, "save the sheet in Excel as `CSV UTF-8`"),
    "old Excel workbook": ("d.xls", b"\xd0\xcf\x11\xe0", 2, "save the sheet in Excel"),
    "OpenDocument sheet": ("d.ods", b"PK\x03\x04", 2, "save the sheet as CSV, encoding UTF-8"),
    "zip": ("d.zip", b"PK\x03\x04", 2, "unpack it"),
    "tar": ("d.tar.gz", gzip.compress(b"x"), 2, "unpack it"),
    "workbook called .csv": ("d.csv", b"PK\x03\x04" + b"\0" * 100, 3, "Excel workbook or a zip archive"),
    "gzip called .csv": ("d.csv", gzip.compress(GOOD.encode()), 3, "let its name end on .gz"),
    "log-in page": ("d.csv", "<!DOCTYPE html>\n<html>Sign in</html>", 3, "web page, not a table"),
    "Git LFS pointer": ("d.csv", "version https://git-lfs.github.com/spec/v1\noid x\n", 3, "git lfs pull"),
    "empty": ("d.csv", "", 3, "is empty"),
    "header only": ("d.csv", "text,label\n", 3, "columns but no rows"),
    "a million empty lines": ("d.csv", "text,label\n" + "\n" * 1_000_000, 3, "columns but no rows"),
    "a million empty lines, JSON": ("d.jsonl", "\n" * 1_000_000, 3, "is empty"),
    "NUL": ("d.csv", GOOD.replace("amber", "am\0ber"), 3, "holds a NUL byte"),
    # encodings
    "Windows-1252": (
        "d.csv",
        GOOD.replace("amber", "caf\u00e9").encode("cp1252"),
        0,
        'Windows-1252 (cp1252), as it is not UTF-8: "caf\u00e9"',
    ),
    "UTF-16 of Excel": ("d.csv", GOOD.replace(",", "\t").encode("utf-16"), 0, "read as UTF-16"),
    "UTF-16 without a mark": ("d.csv", GOOD.encode("utf-16-le"), 0, "UTF-16-LE: every second byte is NUL"),
    "Cyrillic code page": (
        "d.csv",
        GOOD.replace("amber", "\u044f\u043d\u0442\u0430\u0440\u044c").encode("cp1251"),
        3,
        "neither UTF-8 nor plainly Windows-1252",
    ),
    "two encodings": ("d.csv", csv_of([("caf\u00e9", "a")] * 3).encode() + b"caf\xe9,b\n" * 3, 3, "neither UTF-8 nor"),
    "decoded wrongly before": ("d.csv", GOOD.replace("amber", "caf\u00c3\u00a9"), 0, "look decoded wrongly before"),
    "lone surrogate": ("d.jsonl", '{"text": "a \\ud83d b", "label": "a"}\n', 3, "half a surrogate pair"),
    "lone surrogate in bytes": ("d.csv", GOOD.encode() + b"x \xed\xa0\xbd,a\n", 3, "neither UTF-8 nor"),
    # layout
    "semicolons": ("d.csv", csv_of(rows(AB), "text;label", ";"), 0, "cells are separated by semicolons"),
    "sep= line": ("d.csv", "sep=|\n" + csv_of(rows(AB), "text|label", "|"), 0, "cells are separated by vertical bars"),
    "unquoted comma": ("d.csv", GOOD + "one, two,a\n", 3, "row 21 (line 22) has 3 cells, expected 2"),
    "missing cell": ("d.csv", GOOD + "only a text\n", 3, "row 21 (line 22) has 1 cells, expected 2"),
    "unclosed quote": ("d.csv", GOOD + '"never closed,a\nmore,b\n', 3, "row 21 (line 22) opens a quote"),
    "no header": ("d.csv", "I like it,good\nI hate it,bad\n", 2, "if the file has no header line, add one"),
    "column twice": ("d.csv", "text,label,label\nx,a,b\n", 3, "names 'label' twice"),
    "JSON array of arrays": ("d.json", '[["x", "a"], ["y", "b"]]', 3, "is no JSON object"),
    "JSON cut off": ("d.jsonl", jsonl_of(rows(AB)) + '{"text": "x", "la', 3, "line 21 is not valid JSON"),
    "JSON key missing": ("d.jsonl", jsonl_of(rows(AB)) + '{"text": "x"}\n', 3, "row 21 (line 21) has no 'label'"),
    "10 MB cell": ("d.csv", csv_of([*rows(AB), (LONG, "a")]), 3, "cell of more than 1,048,576 characters"),
    "10 MB text in JSON": ("d.jsonl", jsonl_of([*rows(AB), (LONG, "a")]), 3, "the text has 10,485,760 characters"),
    # columns
    "nameless columns": ("d.csv", "a,b\nx,y\n", 2, "no label column by name"),
    "two text columns": ("d.csv", "text,review,label\nx,y,a\n", 2, "more than one text column: text or review"),
    "two heads": ("d.csv", "title,subject,text,label\nx,y,z,a\n", 2, "title+text or subject+text"),
    "two label columns": ("d.csv", "text,label,category\nx,a,b\n", 2, "label or category"),
    "pairs": ("d.csv", "premise,hypothesis,label\nx,y,a\n", 3, "a task on pairs"),
    "pairs of questions": ("d.csv", "question1,question2,label\nx,y,1\n", 3, "a task on pairs"),
    # texts
    "empty text": ("d.csv", GOOD + ",a\n", 3, "row 21: the text is empty"),
    "blank text": ("d.csv", GOOD + '" \t\u00a0 ",a\n', 3, "row 21: the text is empty"),
    "number as text": ("d.jsonl", jsonl_of([*rows(AB), (7, "a")]), 3, "row 21: the text is 7, expected a string"),
    "null text": ("d.jsonl", jsonl_of([*rows(AB), (None, "a")]), 3, "the text is None"),
    "texts named null": ("d.csv", csv_of([*rows(AB), ("NULL", "a")]), 0, "1 of 21 texts read like a missing one"),
    "dates as texts": (
        "d.csv",
        csv_of(rows(AB, lambda i: f"2024-05-{i + 1:02} 10:00")),
        0,
        "a number or a date: kept; is this the text",
    ),
    "HTML": ("d.csv", csv_of(rows(AB, lambda i: f"<p>{sentence(i)}</p>")), 0, "--cleaning entities"),
    "emoji": ("d.csv", csv_of(rows(AB, lambda i: "\U0001f600\U0001f3fd" * (i + 1))), 0, ""),
    "right to left": (
        "d.csv",
        csv_of(rows(AB, lambda i: f"\u200f\u0634\u0643\u0631\u0627 {i} \u05ea\u05d5\u05d3\u05d4")),
        0,
        "",
    ),
    "Excel's errors": ("d.csv", csv_of([*rows(AB), ("#NAME?", "a")]), 0, "1 of 21 texts are an error of Excel"),
    "cut by Excel": ("d.csv", csv_of([*rows(AB), ("x " * 16383 + "x", "a")]), 0, "end at 32,767 characters"),
    "all texts equal": ("d.csv", csv_of(rows(AB, lambda i: "the same")), 3, "leave none for validation"),
    "label in every text": (
        "d.csv",
        csv_of([(f"{sentence(i)} [{x}]", x) for i, x in enumerate(["spam", "okay"] * 15)]),
        0,
        "30 of 30 texts hold their own label's name",
    ),
    # labels
    "one row": ("d.csv", csv_of(rows("a")), 3, "one label only"),
    "one class": ("d.csv", csv_of(rows("a" * 20)), 3, "one label only, 'a'"),
    "two classes in 3 rows": ("d.csv", csv_of(rows("aab")), 0, "label b has too few different rows for validation"),
    "two classes in 2 rows": ("d.csv", csv_of(rows("ab")), 3, "leave none for validation"),
    "empty label": ("d.csv", GOOD + "x,\n", 3, "row 21: the label is empty"),
    "labels in two cases": (
        "d.csv",
        csv_of(rows(["Good", "bad", "good"] * 6)),
        3,
        "'Good' and 'good', which differ in case",
    ),
    "labels with a no-break space": (
        "d.csv",
        csv_of(rows(["so so", "so\u00a0so"] * 6)),
        3,
        "which differ in case, blanks",
    ),
    "labels with an invisible letter": ("d.csv", csv_of(rows(["good", "good\u200b"] * 6)), 3, "invisible characters"),
    "labels with outer blanks": (
        "d.csv",
        csv_of(rows([" a", "b"] * 10)),
        0,
        "10 labels have blanks around them: removed",
    ),
    "labels of two kinds": ("d.jsonl", jsonl_of(rows([1, "1", "x", "x"] * 5)), 0, "labels are of several kinds"),
    "numbers and words": ("d.csv", csv_of(rows(["1", "neg"] * 10)), 0, "10 numbers as text, 10 words"),
    "a label named null": ("d.csv", csv_of(rows(["null", "b"] * 10)), 0, "reads like a missing one (null)"),
    "floats of pandas": ("d.csv", csv_of(rows(["1.0", "0.0"] * 10)), 3, "write 1, not 1.0"),
    "NaN": ("d.csv", csv_of(rows(["nan", "1"] * 10)), 3, "the label nan is a float"),
    "regression": ("d.csv", csv_of(rows([f"0.{i + 1}" for i in range(20)])), 3, "predicting numbers (regression)"),
    "decimal commas": (
        "d.csv",
        csv_of(rows([f'"0,{i + 1}"' for i in range(20)])),
        3,
        "a real number or several labels",
    ),
    "ids": ("d.csv", csv_of(rows([f"user{i}" for i in range(60)])), 3, "these are no classes"),
    "lists": ("d.jsonl", jsonl_of(rows([["a"], ["a", "b"]] * 5)), 3, "multi-label data isn't a task"),
    "lists as text": ("d.csv", csv_of(rows(["\"['a', 'b']\"", "['a']"] * 5)), 3, "holds several labels in a cell"),
    "a|b": ("d.csv", csv_of(rows(["a", "b", "a|b"] * 5)), 3, "holds several labels in a cell ('a|b')"),
    "a,b": ("d.csv", csv_of(rows(['"a, b"', '"b, c"', '"a, c"'] * 5)), 3, "holds several labels in a cell"),
    "names with commas": ("d.csv", csv_of(rows(['"Arts, crafts"', '"Home, garden"', "Home"] * 6)), 0, ""),
    "columns of 0 and 1": (
        "d.csv",
        "text,toxic,rude\n" + "".join(f"{sentence(i)},{i % 2},{i % 3 % 2}\n" for i in range(12)),
        3,
        "2 columns of 0 and 1 (toxic, rude)",
    ),
}


def outcome(path):
    """Exit code and words of loading a file: its notes, or the error."""
    try:
        return 0, "\n".join(data.load(str(path)).notes), "nothing to mend"
    except TextLoraError as error:
        return error.code, str(error), error.fix


@pytest.mark.parametrize(("name", "content", "code", "said"), BAD.values(), ids=BAD)
def test_bad_input_is_said_in_one_sentence(tmp_path, capsys, name, content, code, said):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    began = time.process_time()
    got, words, fix = outcome(path)
    assert said in words
    assert got == code
    assert code == 0 or len(words) < 500
    assert fix

    assert cli.main(["data", "check", str(path)]) == code
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    assert said in " ".join((out + err).split()) or code == 0
    assert time.process_time() - began < 20


def test_the_table_is_long_enough():
    assert len(BAD) >= 40
