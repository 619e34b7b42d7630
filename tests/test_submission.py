"""Sample submissions: the output is in just the sample's format, or there is an error and no output."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from textlora import predict
from textlora.errors import DataError, UsageError
from textlora.submission import Submission, writing

LABELS = ("World", "Sports", "Business", "Sci/Tech")

cells = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=8)
headers = st.tuples(cells, cells).filter(
    lambda h: h[0] != h[1] and not h[1].casefold().strip("_").endswith(("id", "x"))
)


def sample_text(header, ids, labels, swapped=False, line_end="\n") -> str:
    file = io.StringIO()
    rows = [header, *zip(ids, labels, strict=True)]
    csv.writer(file, lineterminator=line_end).writerows(row[::-1] if swapped else row for row in rows)
    return file.getvalue()


def write_all(sample: Submission, path, label_ids, order=None) -> None:
    with sample.writer(path, order or range(len(label_ids))) as write:
        for first in range(0, len(label_ids), 3):  # in chunks, as predictions come
            some = [{"label_id": int(label)} for label in label_ids[first : first + 3]]
            assert write(first, some) == len(some)


# ---------------------------------------------------------------------------------------------------------- the format


@given(headers, st.lists(cells, min_size=1, max_size=12, unique=True), st.data())
def test_predicting_the_samples_own_labels_gives_the_samples_own_bytes(tmp_path_factory, header, ids, data):
    base, line_end = data.draw(st.sampled_from(["0", "1", "names"])), data.draw(st.sampled_from(["\n", "\r\n"]))
    way = LABELS if base == "names" else [str(i + int(base)) for i in range(4)]
    labels = data.draw(st.lists(st.integers(0, 3), min_size=len(ids), max_size=len(ids)))
    labels[0] = 3 if base == "1" else 0  # what decides the base
    folder = tmp_path_factory.mktemp("sample")
    path = folder / "sample.csv"
    path.write_bytes(sample_text(header, ids, [way[i] for i in labels], line_end=line_end).encode())
    sample = Submission.read(path, LABELS)
    assert (sample.ids, sample.written) == (tuple(ids), tuple(way))
    write_all(sample, folder / "out.csv", labels)
    assert (folder / "out.csv").read_bytes() == path.read_bytes()


def test_columns_in_the_other_order_stay_in_it(tmp_path):
    path = tmp_path / "sample.csv"
    path.write_text(sample_text(("ID", "Label"), "abc", "012", swapped=True))
    sample = Submission.read(path, LABELS)
    assert (sample.header, sample.ids) == (("Label", "ID"), ("a", "b", "c"))
    write_all(sample, tmp_path / "out.csv", [0, 1, 2])
    assert (tmp_path / "out.csv").read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("labels", "seen", "expected"),
    [
        (LABELS, ["0", "0"], ("0", "1", "2", "3")),
        (LABELS, ["4", "1"], ("1", "2", "3", "4")),
        (LABELS, ["Sports"], LABELS),
        (("1", "2", "3", "4"), ["1", "2"], ("1", "2", "3", "4")),  # what its labels are called
        (("1", "2", "3", "4"), ["0"], ("0", "1", "2", "3")),
        (("no", "yes"), ["0", "1"], ("0", "1")),
    ],
)
def test_how_labels_are_written_is_read_from_the_samples_labels(labels, seen, expected):
    assert writing(seen, labels, "sample.csv") == expected


@pytest.mark.parametrize(
    ("seen", "message"),
    [
        (["1", "2"], "can't be decided"),
        (["0", "4"], "not of this classifier"),
        (["5"], "'5'"),
        (["sports"], "'sports'"),
        ([""], "''"),
        (["0.0"], "'0.0'"),
    ],
)
def test_labels_that_decide_nothing_are_an_error(seen, message):
    with pytest.raises(DataError, match=message):
        writing(seen, LABELS, "sample.csv")


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        ("ID,Label,Usage\n0,0,x\n", DataError, "expected two"),
        ("ID\n0\n", DataError, "expected two"),
        ("ID;Label\n0;0\n", DataError, "expected two"),
        ("ID,Label\n", DataError, "no rows"),
        ("ID,Label\n0,0\n0,1\n", DataError, "the id '0' 2 times"),
        ("ID,Label\n0,0\n ,1\n", DataError, "row 2 has no id"),
        ("", DataError, "empty"),
        (None, DataError, "no file"),
    ],
)
def test_what_is_no_sample_is_an_error(tmp_path, content, error, message):
    if content is not None:
        (tmp_path / "sample.csv").write_text(content)
    with pytest.raises(error, match=message):
        Submission.read(tmp_path / "sample.csv", LABELS)


def test_a_sample_that_is_no_csv_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"no \.csv"):
        Submission.read(tmp_path / "sample.parquet", LABELS)


# ----------------------------------------------------------------------------------------------------------- the order


@given(st.permutations(range(8)))
def test_rows_with_ids_of_their_own_are_found_by_them(tmp_path_factory, order):
    folder = tmp_path_factory.mktemp("sample")
    (folder / "sample.csv").write_text(sample_text(("id", "label"), [f"r{i}" for i in order], "00000001"))
    (folder / "in.csv").write_text("id,text\n" + "".join(f"r{i},text {i}\n" for i in range(8)))
    sample = Submission.read(folder / "sample.csv", LABELS)
    assert sample.order(folder / "in.csv") == list(order)


def test_rows_without_ids_are_in_the_samples_order(tmp_path):
    (tmp_path / "sample.csv").write_text(sample_text(("id", "label"), "xyz", "012"))
    (tmp_path / "in.csv").write_text("text\na\nb\nc\n")
    assert Submission.read(tmp_path / "sample.csv", LABELS).order(tmp_path / "in.csv") == [0, 1, 2]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("id,text\nx,a\ny,b\n", "has 2 rows, sample.csv 3"),
        ("id,text\nx,a\ny,b\nq,c\n", "no row with 'id' 'z'"),
        ("id,text\nx,a\ny,b\ny,c\n", "the id 'y' 2 times"),
    ],
)
def test_rows_that_are_not_the_samples_are_an_error(tmp_path, rows, message):
    (tmp_path / "sample.csv").write_text(sample_text(("id", "label"), "xyz", "012"))
    (tmp_path / "in.csv").write_text(rows)
    with pytest.raises(DataError, match=message):
        Submission.read(tmp_path / "sample.csv", LABELS).order(tmp_path / "in.csv")


# -------------------------------------------------------------------------------------------------------------- a run


@pytest.fixture(scope="module")
def predictor(trained, tiny_base):
    return predict.load(trained("bert"), base_weights=str(tiny_base("bert")), precision="fp32")


def test_predict_writes_in_the_samples_format(predictor, texts, tmp_path):
    some = [text.replace("\n", " ") for text in texts[:10]]
    ids = [f"row-{9 - i}" for i in range(10)]
    (tmp_path / "sample.csv").write_text(sample_text(("ID", "Label"), ids, "4111111111"))
    (tmp_path / "in.txt").write_text("\n".join(some), encoding="utf-8")
    said: list[str] = []
    out, sample = tmp_path / "out.csv", str(tmp_path / "sample.csv")
    count = predict.predict_file(predictor, str(tmp_path / "in.txt"), out, sample_submission=sample, say=said.append)
    assert count == 10
    expected = np.array(predictor.predict_logits(some)).argmax(1) + 1
    assert out.read_text() == sample_text(("ID", "Label"), ids, expected)
    assert any("ID,Label, 10 ids" in line for line in said)


def test_a_mismatch_writes_nothing(predictor, tmp_path):
    (tmp_path / "sample.csv").write_text(sample_text(("ID", "Label"), "xyz", "012"))
    (tmp_path / "in.txt").write_text("one\ntwo\n")
    with pytest.raises(DataError, match="2 rows"):
        predict.predict_file(
            predictor, str(tmp_path / "in.txt"), tmp_path / "out.csv", sample_submission=str(tmp_path / "sample.csv")
        )
    assert {path.name for path in tmp_path.iterdir()} == {"in.txt", "sample.csv"}


def test_a_format_beside_the_sample_is_refused(predictor, tmp_path):
    with pytest.raises(UsageError, match="--format"):
        predict.predict_file(predictor, "in.txt", tmp_path / "out.csv", format="csv", sample_submission="sample.csv")
