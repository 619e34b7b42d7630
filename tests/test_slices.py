"""Groups of rows: every row is in one, by length, agency or a column of the file."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from textlora import data, metrics, slices
from textlora.errors import UsageError


@given(st.lists(st.integers(3, 60), min_size=1, max_size=80))
def test_quartiles_hold_every_row_once_in_their_order(lengths):
    names = slices.groups("length", None, np.array(lengths), "")
    spans = [tuple(map(int, name.split()[::2][:2])) for name in names]
    assert all(low <= length <= high for (low, high), length in zip(spans, lengths, strict=True))
    rows = slices.table("length", names, np.ones(len(lengths), bool))["rows"]
    starts = [int(row["slice"].split()[0]) for row in rows]
    assert starts == sorted(starts)
    assert sum(row["n"] for row in rows) == len(lengths)
    assert len(rows) <= 4


@pytest.mark.parametrize(
    ("text", "agency"),
    [
        ("LONDON (Reuters) - Stocks rose", "Reuters"),
        ("AP - The senate voted", "AP"),
        ("AFP \u2014 Le tour", "AFP"),
        ("PARIS (AFP) Something", "AFP"),
        ("Reuters said on Monday", "none"),
        ("APPLE - a new phone", "none"),
        ("The MAP - a history", "none"),
    ],
)
def test_an_agency_is_found_where_news_texts_name_it(text, agency):
    rows = data.Split("test", [text], np.zeros(1, int), ["f:1"])
    assert slices.groups("agency", rows, np.ones(1, int), "") == [agency]


def test_a_column_is_found_by_the_rows_ids_and_rare_values_are_one(tmp_path):
    lines = ["text,label,source"]
    lines += [f"text {i},{'ab'[i % 2]},{'x' if i < 40 else f'rare {i}'}" for i in range(90)]
    (tmp_path / "rows.csv").write_text("\n".join([*lines, "last,a,"]) + "\n")
    whole = data.load_split(str(tmp_path / "rows.csv"), label_names=("a", "b"))
    some = whole.only(np.arange(91) % 3 != 0)
    for rows in (whole, some):
        names = slices.groups("source", rows, np.ones(len(rows), int), str(tmp_path / "rows.csv"))
        x = [row_id for row_id, name in zip(rows.row_ids, names, strict=True) if name == "x"]
        assert x == [row_id for row_id in rows.row_ids if int(row_id.rpartition(":")[2]) <= 40]
        assert len(set(names)) == slices.MOST + 1
        assert slices.REST in names


def test_the_table_is_each_groups_accuracy_with_wilsons_interval():
    found = slices.table("source", ["x", "y", "y"], np.array([False, True, False]))
    assert found["rows"] == [
        {"slice": "y", "n": 2, "accuracy": 0.5, "accuracy_ci": list(metrics.wilson(1, 2))},
        {"slice": "x", "n": 1, "accuracy": 0.0, "accuracy_ci": list(metrics.wilson(0, 1))},
    ]


def test_a_column_that_is_not_there_is_named_with_the_closest():
    rows = data.load_split("mini-news", "test", label_names=("World", "Sports", "Business", "Sci/Tech"))
    with pytest.raises(UsageError, match=r"mini-news has no such column.*label"):
        slices.groups("lable", rows, np.ones(len(rows), int), "mini-news")
