"""Pictures of the page: whatever the numbers, they are drawn within their frame, and words stay words."""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from textlora import charts
from textlora.charts import Curve, Mark

NUMBERS = st.floats(-1e6, 1e6, allow_nan=False).map(lambda value: round(value, 4))


def points_of(svg):
    return [float(n) for line in re.findall(r'points="([^"]*)"', svg) for pair in line.split() for n in pair.split(",")]


@settings(max_examples=50, deadline=None)
@given(NUMBERS, NUMBERS)
def test_ticks_are_few_even_and_hold_their_range(a, b):
    low, high = min(a, b), max(a, b)
    found = charts.ticks(low, high)
    assert 2 <= len(found) <= 8
    assert found[0] <= low + 1e-6 * abs(low)
    assert found[-1] >= high - 1e-6 * abs(high)
    steps = [y - x for x, y in itertools.pairwise(found)]
    assert max(steps) == pytest.approx(min(steps), rel=1e-3)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=20))
def test_curves_stay_in_their_frame(points):
    svg = charts.curves([Curve("loss", points, marked=True)], "words", "step")
    ET.fromstring(svg)
    xs, ys = points_of(svg)[0::2], points_of(svg)[1::2]
    assert all(0 <= x <= charts.WIDTH for x in xs)
    assert all(0 <= y <= 230 for y in ys)


def test_a_curve_without_points_is_no_picture():
    assert charts.curves([Curve("loss", [])], "words", "step") == ""


def test_words_cant_become_markup():
    bad = '<script>alert("x")</script>'
    for svg in (
        charts.curves([Curve(bad, [(0, 1), (1, 2)])], bad, bad),
        charts.ruler([Mark(bad, 0.5, (0.4, 0.6)), Mark("b", 0.5)], bad),
        charts.bar([(bad, 3, "c1")], 10, bad),
    ):
        assert "<script" not in svg
        assert ET.fromstring(svg).attrib["aria-label"] == bad


def test_a_ruler_orders_its_marks():
    svg = charts.ruler([Mark("low", 0.2), Mark("high", 0.9, (0.85, 0.95))], "two")
    places = [float(x) for x in re.findall(r'cx="([\d.]+)"', svg)]
    assert places == sorted(places)
    assert "20 %" in svg
    assert "90 %" in svg


def test_a_bars_parts_fill_their_share():
    svg = charts.bar([("a", 25, "c1"), ("b", 50, "c2")], 100, "parts")
    widths = [float(x) for x in re.findall(r' width="([\d.]+)"', svg)]
    assert widths[1:] == pytest.approx([100, 200], abs=1.1)


@pytest.mark.parametrize(
    ("value", "shown"), [(0.5, "0.5"), (0.0006, "6e-4"), (0, "0"), (2000, "2,000"), (1e-10, "1e-10")]
)
def test_numbers_are_short(value, shown):
    assert charts.plain(value) == shown


def test_smoothing_keeps_a_constant_and_length():
    found = charts.smoothed([(i, 3.0) for i in range(5)])
    assert [x for x, _ in found] == [0, 1, 2, 3, 4]
    assert [y for _, y in found] == pytest.approx([3.0] * 5)
