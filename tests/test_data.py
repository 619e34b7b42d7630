"""data.py: any source to honest splits; each user's mistake to one sentence."""

import contextlib
import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from textlora import data
from textlora.data import duplicates
from textlora.errors import DamagedError, DataError, TextLoraError, UsageError

AG = Path(__file__).parents[1].parent / "shared" / "data" / "ag_news"


def written(folder, name, text):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def write_csv(folder, name, rows, header=("text", "label")):
    with (folder / name).open("w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows([header, *rows])
    return folder / name


def write_parquet(path, columns):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table(columns), path)
    return path


def topics(count, labels=("b", "a", "c"), start=0):
    """`count` rows without anything in common, labels in turn."""
    return [
        (f"item {i} " + " ".join(f"v{i}x{k}" for k in range(9)), labels[i % len(labels)]) for i in range(start, count)
    ]


def four(labels):
    return "text,label\n" + "".join(f"text number {i},{label}\n" for i, label in enumerate(labels))


# ------------------------------------------------------------------------------------------------------------- formats


@pytest.mark.parametrize(
    "name", ["d.csv", "d.tsv", "d.jsonl", "d.json", "d.parquet", "list.json", "bom.csv", "CRLF.CSV"]
)
def test_every_format_gives_the_same_rows(tmp_path, name):
    rows = [
        ("plain text", "b"),
        ('with "quotes", comma\tand tab', "a"),
        ("two\nlines", "b"),
        ("caf\u00e9 \U0001f600", "a"),
    ]
    path = tmp_path / name
    if name == "list.json":
        path.write_text(json.dumps([{"text": t, "label": label} for t, label in rows], indent=1))
    elif path.suffix in (".jsonl", ".json"):
        path.write_text("\n".join(json.dumps({"text": t, "label": label}) for t, label in rows) + "\n\n")
    elif path.suffix == ".parquet":
        write_parquet(path, {"text": [t for t, _ in rows], "label": [label for _, label in rows]})
    else:
        with path.open("w", newline="", encoding="utf-8-sig" if name == "bom.csv" else "utf-8") as handle:
            writer = csv.writer(handle, delimiter="\t" if path.suffix == ".tsv" else ",", lineterminator="\r\n")
            writer.writerows([("text", "label"), *rows])
    split = data.load_split(str(path), label_names=("a", "b"))
    assert split.texts == [t for t, _ in rows]
    assert split.labels.tolist() == [1, 0, 1, 0]
    assert split.row_ids == [f"{name}:{i}" for i in (1, 2, 3, 4)]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1), min_size=1, max_size=6
    )
)
def test_what_csv_writes_is_what_is_read(tmp_path_factory, texts):
    texts = [text for text in texts if text.strip()] or ["x"]
    path = write_csv(tmp_path_factory.mktemp("csv"), "d.csv", [(text, "a") for text in texts])
    assert data.load_split(str(path), label_names=("a",)).texts == texts


def test_original_ag_layout_needs_no_header(tmp_path):
    lines = (
        '"3","Oil rises","Prices up."\n1,"Vote","Polls ""open""."\n"2","Match","It ended."\n"4","Probe","It landed."\n'
    )
    split = data.load_split(str(written(tmp_path, "ag.csv", lines)), label_names=("W", "S", "B", "T"))
    assert split.texts == ["Oil rises Prices up.", 'Vote Polls "open".', "Match It ended.", "Probe It landed."]
    assert split.labels.tolist() == [2, 0, 1, 3]
    assert split.row_ids[0] == "ag.csv:1"


def test_parquet_class_labels_bring_names_and_order(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    record = {"info": {"features": {"label": {"names": ["pos", "neg"], "_type": "ClassLabel"}}}}
    rows = topics(40, labels=(0, 1))
    table = pa.table({"text": [t for t, _ in rows], "label": [label for _, label in rows]})
    table = table.replace_schema_metadata({"huggingface": json.dumps(record)})
    pq.write_table(table, tmp_path / "train-00000-of-00001.parquet")
    assert data.load(str(tmp_path)).label_names == ("pos", "neg")
    swapped = data.load_split(str(tmp_path / "train-00000-of-00001.parquet"), "test", label_names=("neg", "pos"))
    assert swapped.labels.tolist() == [1, 0] * 20  # numbers mean what the file says, whatever the run's order


def test_shards_are_one_split(tmp_path):
    rows = topics(60)
    for number, part in enumerate((rows[:20], rows[20:45], rows[45:])):
        path = tmp_path / f"train-{number:05}-of-00003.parquet"
        write_parquet(path, {"text": [t for t, _ in part], "label": [label for _, label in part]})
    found = data.load(str(tmp_path))
    assert len(found.train) + len(found.validation) == 60
    assert "train-00002-of-00003.parquet:15" in found.train.row_ids + found.validation.row_ids
    (tmp_path / "train-00001-of-00003.parquet").unlink()
    with pytest.raises(DataError, match="2 of 3 parts"):
        data.load(str(tmp_path))


# ------------------------------------------------------------------------------------------------------------- columns


@pytest.mark.parametrize(
    ("header", "flags", "text"),
    [
        (("Sentence", "Class"), {}, "one"),
        (("Class Index", "Title", "Description"), {}, "two three"),
        (("label", "description", "title"), {}, "three two"),
        (("label", "title", "text"), {}, "two three"),
        (("label", "subject", "body"), {}, "two three"),
        (("label", "short_description", "headline"), {}, "three two"),
        (("label", "summary", "reviewText"), {}, "two three"),
        (("label", "title", "summary"), {}, "two three"),
        (("label", "text", "description"), {}, "two"),  # text is one for certain
        (("label", "Review Title", "n"), {}, "two"),
        (("label", "tweet", "type"), {}, "two"),
        (("label", "subject", "body"), {"text_column": ("subject", "body")}, "two three"),
        (("label", "subject", "body"), {"text_column": ("body", "subject")}, "three two"),
        (("label", "subject", "body"), {"text_column": "subject"}, "two"),
        (("gold", "label", "text"), {"label_column": "gold"}, "three"),
        (("topic", "category", "text"), {"label_column": "topic"}, "three"),
        (("review", "text", "n"), {"label_column": "review"}, "two"),  # what is the label isn't a text as well
    ],
)
def test_columns_are_named_or_found(tmp_path, header, flags, text):
    cells = ("one", "two", "three") if len(header) == 3 else ("one", "a")
    path = write_csv(tmp_path, "d.csv", [cells], header)
    label = cells[header.index(flags.get("label_column") or next(h for h in header if h.lower() in KNOWN_LABELS))]
    assert data.load_split(str(path), label_names=(label,), **flags).texts == [text]


KNOWN_LABELS = ("label", "class", "class index", "gold")


def test_a_blank_cell_adds_no_blank(tmp_path):
    path = write_csv(tmp_path, "d.csv", [("a", "", "only this")], ("label", "title", "description"))
    assert data.load_split(str(path), label_names=("a",)).texts == ["only this"]


# -------------------------------------------------------------------------------------------------------------- labels


@pytest.mark.parametrize(
    ("labels", "names", "ids"),
    [
        (("0", "1", "2"), ("0", "1", "2"), [0, 1, 2]),
        (("3", "1", "2"), ("1", "2", "3"), [2, 0, 1]),
        (("10", "9", "-1"), ("-1", "9", "10"), [2, 1, 0]),
        (("b", "a", "C"), ("C", "a", "b"), [2, 1, 0]),
        (("1", "01", "x"), ("01", "1", "x"), [1, 0, 2]),
        ((" b", "a ", "b"), ("a", "b"), [1, 0, 1]),
    ],
)
def test_label_order_is_numbers_ascending_else_sorted(tmp_path, labels, names, ids):
    write_csv(tmp_path, "train.csv", topics(9, labels))
    write_csv(tmp_path, "val.csv", topics(39, labels, start=30))
    found = data.load(str(tmp_path))
    assert found.label_names == names
    assert found.train.labels.tolist() == ids * 3
    assert found.train.labels.dtype == np.int64


@pytest.mark.parametrize(
    ("labels", "ids"), [((0, 1, 2), [0, 1, 2]), ((1, 2, 3), [0, 1, 2]), (("y", "x", "z"), [1, 0, 2])], ids=str
)
@pytest.mark.parametrize("beside", [False, True], ids=["flag", "classes.txt"])
def test_given_names_settle_the_order(tmp_path, labels, ids, beside):
    write_csv(tmp_path, "all.csv", topics(30, labels))
    if beside:
        written(tmp_path, "classes.txt", "x\ny\nz\n")
    found = data.load(str(tmp_path / "all.csv"), label_names=() if beside else ("x", "y", "z"))
    assert found.label_names == ("x", "y", "z")
    assert {
        (int(r.split(":")[1]) - 1) % 3: i for r, i in zip(found.train.row_ids, found.train.labels, strict=True)
    } == dict(enumerate(ids))


def test_numbers_in_a_part_of_the_labels_are_not_guessed(tmp_path):
    path = str(written(tmp_path, "d.csv", four("1122")))
    assert data.load_split(path, label_names=("0", "1", "2", "3")).labels.tolist() == [1, 1, 2, 2]  # names themselves
    with pytest.raises(DataError, match="from 0 or from 1"):
        data.load_split(path, label_names=("w", "x", "y", "z"))


def test_json_booleans_are_two_classes(tmp_path):
    rows = "".join(json.dumps({"text": t, "label": label}) + "\n" for t, label in topics(40, (True, False)))
    assert data.load(str(written(tmp_path, "d.jsonl", rows))).label_names == ("False", "True")


# -------------------------------------------------------------------------------------------------------------- splits


def test_given_splits_stay_and_train_gives_way(tmp_path):
    rows = topics(60)
    long = "the quick brown fox jumps over the lazy dog and runs far away from here to the hills beyond the town"
    train = [*rows, rows[0], (rows[1][0], "c"), ("Held OUT &amp; equal!", "a"), (long, "a")]
    test = [("held out equal", "a"), ("held out equal", "a"), (f"{long} today", "b"), ("own", "c")]
    validation = [("another one", "a"), ("and one more", "b")]
    write_csv(tmp_path, "train.csv", train)
    write_csv(tmp_path, "test.csv", test)
    write_csv(tmp_path, "dev.csv", validation)
    found = data.load(str(tmp_path))
    assert found.test is not None
    assert found.test.texts == [t for t, _ in test]
    assert found.validation.texts == [t for t, _ in validation]
    assert found.train.texts == [t for t, _ in [*rows, (rows[1][0], "c")]]
    assert found.counts == {
        "train_rows": 64,
        "exact_repeats": 1,
        "leaks_exact": 1,
        "leaks_near": 1,
        "conflicting_labels": 1,
        "carved_validation": 0,
    }
    assert "dropped 2 training rows that repeat validation or test texts (1 equal, 1 nearly)" in found.notes


def test_carving_divides_and_keeps_shares_clusters_and_row_ids(tmp_path):
    rows = topics(90) + [(f"{topics(90)[i][0]} again", "abc"[i % 3]) for i in range(0, 90, 9)]
    path = str(write_csv(tmp_path, "all.csv", rows))
    found = data.load(path, validation_fraction=0.2)
    assert found.test is None
    assert sorted(found.train.row_ids + found.validation.row_ids) == sorted(f"all.csv:{i + 1}" for i in range(100))
    counts = Counter(label for _, label in rows)
    for i, name in enumerate(found.label_names):
        assert abs(int((found.validation.labels == i).sum()) - 0.2 * counts[name]) <= 1
    cluster = duplicates.clusters([duplicates.normalise(t) for t, _ in rows])
    side = {int(r.split(":")[1]) - 1 for r in found.validation.row_ids}
    assert not {int(cluster[i]) for i in side} & {int(cluster[i]) for i in range(100) if i not in side}
    for row_id, text in zip(found.validation.row_ids, found.validation.texts, strict=True):
        assert rows[int(row_id.split(":")[1]) - 1][0] == text


def test_carving_is_its_seed(tmp_path):
    path = str(write_csv(tmp_path, "all.csv", topics(200)))
    first, again, other = (data.load(path, split_seed=seed) for seed in (0, 0, 1))
    assert first.validation.row_ids == again.validation.row_ids
    assert first.validation.fingerprint == again.validation.fingerprint
    assert first.validation.row_ids != other.validation.row_ids


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=4, max_size=40), st.floats(0.01, 0.9), st.integers(0, 5))
def test_every_label_stays_in_train(tmp_path_factory, labels, fraction, seed):
    labels = [*labels, 0, 0, 1, 1]
    rows = [(text, f"l{label}") for (text, _), label in zip(topics(len(labels)), labels, strict=True)]
    path = write_csv(tmp_path_factory.mktemp("carve"), "all.csv", rows)
    found = data.load(str(path), validation_fraction=fraction, split_seed=seed)
    assert set(found.train.labels) == set(range(len(found.label_names)))
    assert {i for i, n in Counter(labels).items() if n > 1} == {
        int(found.label_names[i][1:]) for i in found.validation.labels
    }


def test_a_label_with_one_row_stays_in_train_and_is_noted(tmp_path):
    path = write_csv(tmp_path, "all.csv", [*topics(20, ("a", "b")), ("the lonely one", "rare")])
    found = data.load(str(path))
    assert "the lonely one" in found.train.texts
    assert any("rare has too few different rows" in note for note in found.notes)


@pytest.mark.parametrize("present", ["acd", "bd", "ab"])
def test_a_label_that_no_row_has_is_no_hindrance_to_carving(present):
    names = ("a", "b", "c", "d")
    rows = [(text, names.index(label)) for text, label in topics(60, tuple(present))]
    found = data.from_texts([text for text, _ in rows], np.array([label for _, label in rows]), names)
    assert len(found.validation) == 6
    assert {names[i] for i in found.validation.labels} == set(present)


def test_a_run_finds_its_rows_again_where_the_last_of_the_files_own_labels_has_none(tmp_path):
    write_csv(tmp_path, "train.csv", topics(40, ("0", "1", "2")))
    (tmp_path / "classes.txt").write_text("World\nSports\nBusiness\nSci/Tech\n", encoding="utf-8")
    found = data.load(str(tmp_path))
    for split in (found.train, found.validation):
        assert data.load_split(str(tmp_path), split.name, label_names=found.label_names).row_ids == split.row_ids


def test_carving_leaves_what_the_test_file_repeats(tmp_path):
    rows = topics(50)
    write_csv(tmp_path, "train.csv", rows)
    write_csv(tmp_path, "test.csv", rows[:10])
    found = data.load(str(tmp_path))
    assert found.counts["leaks_exact"] == 10
    assert not {t for t, _ in rows[:10]} & {*found.train.texts, *found.validation.texts}


def test_one_split_is_what_load_gives(tmp_path):
    path = str(write_csv(tmp_path, "all.csv", topics(100)))
    found = data.load(path, split_seed=3)
    for split in (found.train, found.validation):
        one = data.load_split(path, split.name, label_names=found.label_names, split_seed=3)
        assert (one.name, one.row_ids, one.fingerprint) == (split.name, split.row_ids, split.fingerprint)
    whole = data.load_split(path, label_names=found.label_names)
    assert (whole.name, len(whole)) == ("all", 100)
    assert data.load_split(path, "test", label_names=found.label_names).name == "test"


@pytest.mark.parametrize(
    ("file", "split", "name"),
    [
        ("Test.csv", "", "test"),
        ("test-00000-of-00001.csv", "", "test"),
        ("TEST-00002-of-00005.csv", "", "test"),
        ("Dev.csv", "", "validation"),
        ("train.csv", "", "train"),
        ("Reviews.csv", "", "Reviews"),
        ("test-set.csv", "", "test-set"),
        ("reviews-00000-of-00001.csv", "", "reviews-00000-of-00001"),
        ("Reviews.csv", "TEST", "test"),
        ("Valid-00000-of-00001.csv", "dev", "validation"),
    ],
)
def test_a_single_file_is_the_split_that_is_named_or_that_its_name_says(tmp_path, file, split, name):
    path = written(tmp_path, file, four("aabb"))
    found = data.load_split(str(path), split, label_names=("a", "b"))
    assert (found.name, len(found)) == (name, 4)


@pytest.mark.parametrize("split", ["tset", "all", "test2", " "])
def test_a_single_file_is_no_split_of_another_name(tmp_path, split):
    path = written(tmp_path, "Reviews.csv", four("aabb"))
    with pytest.raises(UsageError, match=rf"no split '{split}', only train, validation, test") as caught:
        data.load_split(str(path), split, label_names=("a", "b"))
    assert "test" in caught.value.fix


def test_a_fingerprint_is_of_texts_and_label_names_in_order(tmp_path):
    names = {"x.csv": four("aabb"), "y.csv": four("aabb"), "z.csv": four("aaba"), "n.csv": four(("aa", "aa", "b", "b"))}
    prints = {
        name: data.load_split(str(written(tmp_path, name, text)), label_names=("a", "b", "aa")).fingerprint
        for name, text in names.items()
    }
    assert prints["x.csv"] == prints["y.csv"]
    assert len(set(prints.values())) == 3
    reordered = data.load_split(str(tmp_path / "x.csv"), label_names=("b", "a")).fingerprint
    assert reordered == prints["x.csv"]  # ids differ, names don't


@pytest.mark.skipif(not AG.is_dir(), reason=f"{AG} isn't there")
def test_ag_news_keeps_its_test_split():
    found = data.load(str(AG))
    assert found.test is not None
    assert (len(found.test), found.label_names) == (3600, ("0", "1", "2", "3"))
    assert len(found.train) + len(found.validation) == 20_392 - found.counts["leaks_exact"] - found.counts["leaks_near"]
    assert 0 < found.counts["leaks_near"] < 100
    assert np.bincount(found.validation.labels).min() > 480


# ----------------------------------------------------------------------------------------------------- texts to predict


def test_texts_come_in_order_and_in_chunks(tmp_path):
    rows = [(f"text {i}", i) for i in range(20_000)]
    chunks = list(data.read_texts(write_csv(tmp_path, "d.csv", rows, ("text", "id"))))
    assert [len(chunk) for chunk in chunks] == [8192, 8192, 3616]
    assert [text for chunk in chunks for text in chunk] == [text for text, _ in rows]


def test_a_text_file_is_one_text_a_line(tmp_path):
    assert list(data.read_texts(written(tmp_path, "d.txt", "one\r\ntwo, too\nlast"))) == [["one", "two, too", "last"]]
    with pytest.raises(DataError, match=r"d\.txt: row 2: the text is empty"):
        list(data.read_texts(written(tmp_path, "d.txt", "one\n\nthree\n")))


def test_a_fault_late_in_a_file_is_found_when_reached(tmp_path):
    texts = data.read_texts(written(tmp_path, "d.csv", "text\n" + "fine\n" * 9000 + "\nfine\n"))
    assert len(next(texts)) == 8192
    with pytest.raises(DataError, match=r"d\.csv: row 9001: the text is empty"):
        next(texts)


def test_wrong_columns_are_refused_before_the_first_chunk(tmp_path):
    path = written(tmp_path, "d.csv", "tekst,n\na,b\n")
    with pytest.raises(UsageError, match="no text column by name"):
        data.read_texts(path)
    with pytest.raises(UsageError, match="expected one file"):
        data.read_texts(tmp_path)
    with pytest.raises(DataError, match="there is no file"):
        data.read_texts(tmp_path / "no.csv")


# ----------------------------------------------------------------------------------------------------------- bad input

GOOD = four("aabb")

MISTAKES = {
    # file content
    "empty file": ("d.csv", "", {}, DataError, "is empty"),
    "blank file": ("d.csv", "\n\n", {}, DataError, "is empty"),
    "header only": ("d.csv", "text,label\n", {}, DataError, "columns but no rows"),
    "empty jsonl": ("d.jsonl", "\n", {}, DataError, "expected one JSON object a line"),
    "empty list": ("d.json", "[]", {}, DataError, "expected one JSON object a line"),
    "NUL": ("d.csv", "text,label\nab\0c,a\n", {}, DataError, "line 2 holds a NUL"),
    "cut in a character": ("d.csv", (GOOD + "\u00e9").encode()[:-1], {}, DataError, "neither UTF-8 nor .*line 6"),
    "stray quote": ("d.csv", 'text,label\nx,a\n"y,b\nz,a\n', {}, DataError, r"row 2 \(line 3\) opens a quote"),
    "quote in quotes": ("d.csv", 'text,label\n"y "said" z",b\n', {}, DataError, r"row 1 \(line 2\) opens a quote"),
    "swallowing quote": (
        "d.csv",
        'text,label\n"y,b\n' + "long text,a\n" * 100_000,
        {},
        DataError,
        "row 1 .*opens a quote",
    ),
    "stray quote, AG": ("d.csv", '1,"t",d\n2,"t,d\n', {}, DataError, r"row 2 \(line 2\) opens a quote"),
    "quote in header": ("d.csv", 'text,"label\nx,a\n', {}, DataError, "header line opens a quote"),
    "stray quote, old Mac lines": ("d.csv", 'text,label\rx,a\r"x\n', {}, DataError, "opens a quote"),
    "too few cells": ("d.csv", "text,label\nx,a\ny\n", {}, DataError, r"row 2 \(line 3\) has 1 cells, expected 2"),
    "too many cells": ("d.csv", "text,label\nx,y,a\n", {}, DataError, r"row 1 \(line 2\) has 3 cells, expected 2"),
    "column twice": ("d.csv", "text,label,text\nx,a,y\n", {}, DataError, "names 'text' twice"),
    "class 7 of AG": ("d.csv", "1,t,d\n7,t,d\n", {}, DataError, "row 2 has class '7'"),
    "bad JSON": (
        "d.jsonl",
        '{"text": "x", "label": "a"}\n{"text": \n',
        {},
        DataError,
        "line 2 is not valid JSON.*character 11",
    ),
    "deep JSON": ("d.jsonl", "[" * 100_000, {}, DataError, "line 1 is not valid JSON"),
    "JSON, no object": ("d.jsonl", '["x", "a"]\n', {}, DataError, "line 1 is no JSON object"),
    "JSON, missing key": (
        "d.jsonl",
        '{"text": "x", "label": "a"}\n{"text": "y"}\n',
        {},
        DataError,
        "row 2 .*no 'label'",
    ),
    "no Parquet": ("d.parquet", b"PAR1 not really", {}, DamagedError, "no readable Parquet"),
    "empty Parquet": ("d.parquet", b"", {}, DataError, "is empty"),
    # texts
    "empty text": ("d.csv", GOOD + " ,a\n", {}, DataError, "d.csv: row 5: the text is empty"),
    "number as text": (
        "d.jsonl",
        '{"text": 5, "label": "a"}\n',
        {},
        DataError,
        "d.jsonl: row 1: the text is 5, expected a string",
    ),
    "null text": ("d.jsonl", '{"text": null, "label": "a"}\n', {}, DataError, "the text is None, expected a string"),
    "list as text": ("d.jsonl", '{"text": ["x"], "label": "a"}\n', {}, DataError, r"the text is \['x'\], expected"),
    "NUL in JSON": ("d.jsonl", '{"text": "a\\u0000b", "label": "a"}\n', {}, DataError, "d.jsonl: row 1: .*NUL"),
    "half a pair": ("d.jsonl", '{"text": "a\\ud800b", "label": "a"}\n', {}, DataError, "half a surrogate pair"),
    # labels
    "one class": ("d.csv", four("aaaa"), {}, DataError, "one label only, 'a'"),
    "empty label": ("d.csv", GOOD + "x, \n", {}, DataError, "d.csv: row 5: the label is empty"),
    "null label": ("d.jsonl", '{"text": "x", "label": null}\n', {}, DataError, "d.jsonl: row 1: the label is empty"),
    "float label": ("d.csv", four(("1.0", "0.0", "1.0")), {}, DataError, "d.csv: row 1: the label 1.0 is a float"),
    "JSON float": ("d.jsonl", '{"text": "x", "label": 1.0}\n', {}, DataError, "the label 1.0 is a float"),
    "NaN label": ("d.jsonl", '{"text": "x", "label": NaN}\n', {}, DataError, "the label nan is a float"),
    "regression": ("d.csv", four(("0.25", "1.5", "3")), {}, DataError, "0.25 is a real number.*regression"),
    "multi-label": ("d.jsonl", '{"text": "x", "label": ["a", "b"]}\n', {}, DataError, r"\['a', 'b'\].*multi-label"),
    "object label": ("d.jsonl", '{"text": "x", "label": {"a": 1}}\n', {}, DataError, "exactly one class"),
    "ids as labels": ("d.csv", four(f"id{i}" for i in range(50)), {}, DataError, "these are no classes"),
    "unknown label": (
        "d.csv",
        GOOD,
        {"label_names": ("a", "c")},
        DataError,
        "d.csv: row 3: label 'b' is unknown.*a, c",
    ),
    "names too many": (
        "d.csv",
        four("0011"),
        {"label_names": ("x", "y", "z")},
        DataError,
        "from 0 to 1.* 3 label names",
    ),
    "names too few": (
        "d.csv",
        four("0123"),
        {"label_names": ("x", "y", "z")},
        DataError,
        "from 0 to 3.* 3 label names",
    ),
    "names repeat": ("d.csv", GOOD, {"label_names": ("a", "a")}, UsageError, "must be different"),
    "all alike": ("d.csv", "text,label\nx,a\ny,b\n", {}, DataError, "leave none for validation.*at least 2"),
    # columns and flags
    "no text column": (
        "d.csv",
        "tekst,label\nx,a\n",
        {},
        UsageError,
        "no text column .*'tekst', 'label'.*--text-column",
    ),
    "no label column": ("d.csv", "text,gold\nx,a\n", {}, UsageError, "no label column .*'gold'.*--label-column"),
    "two text columns": ("d.csv", "text,body,label\nx,y,a\n", {}, UsageError, "text or body.*--text-column"),
    "two label columns": ("d.csv", "text,class,label\nx,y,a\n", {}, UsageError, "label or class.*--label-column"),
    "misspelt text": ("d.csv", GOOD, {"text_column": ("txt",)}, UsageError, "no column 'txt'.*did you mean text"),
    "misspelt label": ("d.csv", GOOD, {"label_column": "lable"}, UsageError, "no column 'lable'.*did you mean label"),
    "text is label": (
        "d.csv",
        GOOD,
        {"text_column": ("label",), "label_column": "label"},
        UsageError,
        "both text and label",
    ),
    "pairs": ("d.csv", "premise,hypothesis,label\nx,y,a\n", {}, DataError, "pairs of texts"),
    "unknown ending": ("d.xlsx", "x", {}, UsageError, "d.xlsx ends on no kind of file.*CSV UTF-8"),
    "fraction 0": ("d.csv", GOOD, {"validation_fraction": 0.0}, UsageError, "between 0 and 1"),
}


@pytest.mark.parametrize(("name", "content", "flags", "error", "phrase"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_in_a_file_is_one_sentence(tmp_path, name, content, flags, error, phrase):
    path = written(tmp_path, name, content)
    with pytest.raises(TextLoraError, match=phrase) as caught:
        data.load(str(path), **flags)
    assert type(caught.value) is error
    assert caught.value.fix
    assert len(str(caught.value)) < 400


PIECES = [
    b"text,label\n",
    b"text",
    b"label",
    b",",
    b"\n",
    b"\r",
    b'"',
    b"\t",
    b"a",
    b"1",
    b"2.5",
    b"[",
    b"]",
    b"{",
    b"}",
    b":",
]
PIECES += [
    b'{"text": "x", "label": 1}\n',
    b"\xff",
    b"\xc3",
    b"\0",
    b" ",
    b"\\",
    b"\xef\xbb\xbf",
    b"null",
    b"PAR1",
    b"x,a\ny,b\n",
]


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "json", "parquet", "txt"])
def test_any_bytes_load_or_give_our_own_error(tmp_path, ending):
    path = tmp_path / f"d.{ending}"

    @settings(max_examples=50, deadline=None)
    @given(st.lists(st.sampled_from(PIECES) | st.binary(max_size=3), max_size=14).map(b"".join))
    def law(content):
        path.write_bytes(content)
        for read in (lambda: data.load(str(path)), lambda: list(data.read_texts(path))):
            with contextlib.suppress(TextLoraError):
                read()

    law()


def test_truncated_parquet_is_damaged(tmp_path):
    path = write_parquet(tmp_path / "d.parquet", {"text": [t for t, _ in topics(50)], "label": ["a", "b"] * 25})
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DamagedError, match="no readable Parquet"):
        data.load(str(path))
    path.write_bytes(whole[:4] + b"\xff" * 600 + whole[604:])  # the footer is whole, the pages aren't
    with pytest.raises((DamagedError, DataError)):
        data.load(str(path))


FOLDER_MISTAKES = {
    "empty folder": ({}, DataError, "holds no data"),
    "no train": ({"test.csv": GOOD}, DataError, "no train split, only test"),
    "other names": ({"part1.csv": GOOD}, DataError, "expected train, validation or test"),
    "two trains": ({"train.csv": GOOD, "train.jsonl": "{}"}, UsageError, "two train files: train.csv and train.jsonl"),
    "two validations": ({"train.csv": GOOD, "dev.csv": GOOD, "val.csv": GOOD}, UsageError, "two validation files"),
    "label only in test": (
        {"train.csv": GOOD, "test.csv": four("abc")},
        DataError,
        "test.csv: row 3: label 'c' is unknown",
    ),
    "only leaks": ({"train.csv": GOOD, "test.csv": GOOD}, DataError, "every training row repeats"),
    "label only leaked": (
        {"train.csv": four("aabbc"), "test.csv": "text,label\ntext number 4,c\n"},
        DataError,
        "test.csv: row 1: label 'c' is in test but in no training row",
    ),
    "other columns": (
        {"train.csv": GOOD, "test.csv": "text,gold\nx,a\n"},
        UsageError,
        "test.csv has no column 'label'",
    ),
    "name twice": ({"train.csv": GOOD, "classes.txt": "a\na\n"}, DataError, "names a label twice"),
}


@pytest.mark.parametrize(("files", "error", "phrase"), FOLDER_MISTAKES.values(), ids=FOLDER_MISTAKES)
def test_a_mistake_in_a_folder_is_one_sentence(tmp_path, files, error, phrase):
    for name, content in files.items():
        written(tmp_path, name, content)
    with pytest.raises(TextLoraError, match=phrase) as caught:
        data.load(str(tmp_path))
    assert type(caught.value) is error


@pytest.mark.parametrize(
    ("source", "error", "phrase"),
    [
        ("mini-new", UsageError, "no data 'mini-new'.*did you mean mini-news"),
        ("imbd", UsageError, "neither mini-news nor a file or folder that exists; did you mean imdb"),
        ("", UsageError, "no data is named"),
        ("gone.csv", DataError, "no file or folder gone.csv"),
        ("no/such/folder", DataError, "no file or folder"),
        ("x" * 5000, UsageError, "neither mini-news nor"),
        ("a\0b", UsageError, "neither mini-news nor"),
    ],
)
def test_an_unknown_source_is_one_sentence(source, error, phrase):
    with pytest.raises(TextLoraError, match=phrase) as caught:
        data.load(source)
    assert type(caught.value) is error


def test_a_missing_split_names_what_is_there():
    names = ("World", "Sports", "Business", "Sci/Tech")
    assert len(data.load_split("mini-news", "dev", label_names=names)) == 120
    with pytest.raises(UsageError, match="no split 'final'; there is train, validation, test"):
        data.load_split("mini-news", "final", label_names=names)
    with pytest.raises(UsageError, match="several splits"):
        data.load_split("mini-news", label_names=names)
