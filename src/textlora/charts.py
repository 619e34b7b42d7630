"""Numbers to small SVG pictures that a page carries within itself: curves, a ruler with intervals, a budget's bar.

400 units wide, so that their letters can be read on a phone and in a column of a desktop alike. Colours are classes
(`c1`, `c2`, ...) that the page's CSS knows, in light and dark; markers and dashes say the same once more. Each is one
image to a screen reader, with its figures in words.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from markupsafe import Markup, escape

WIDTH = 400
LEFT, RIGHT, TOP, BOTTOM = 44, 20, 30, 34  # of a chart with axes
LETTER = 6.6  # mean width of a letter at the pictures' 12 units
Shown = Callable[[float], str]
Place = Callable[[float], float]


@dataclass(frozen=True, slots=True)
class Curve:
    """One line of a chart: (x, y) in order of x, its colour class, and how it is drawn."""

    name: str
    points: Sequence[tuple[float, float]]
    look: str = "c1"
    marked: bool = False  # a marker at each point
    thin: bool = False  # the noise behind another line; not in the legend


@dataclass(frozen=True, slots=True)
class Mark:
    """One line of a ruler: a value, maybe its interval."""

    name: str
    value: float
    interval: tuple[float, float] | None = None
    look: str = "c1"


def tag(name: str, *inside: object, **attributes: object) -> Markup:
    """An element; `class_`, `stroke_width` and their like are class, stroke-width. All that isn't Markup is escaped."""
    shown = "".join(f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"' for key, value in attributes.items())
    return Markup(f"<{name}{shown}>{''.join(map(escape, inside))}</{name}>")


def percent(value: float) -> str:
    """A share as people read it: 92.1 %, 90 %."""
    return f"{100 * value:.1f} %".replace(".0 %", " %")


def plain(value: float) -> str:
    """As short as it goes: 0.5, 1,000, 5e-4."""
    small = 0 < abs(value) < 0.01
    return re.sub(r"e([+-])0*", r"e\1", f"{value:.0e}") if small else f"{value:,g}"


# ----------------------------------------------------------------------------------------------------------- curves


def curves(
    curves: Sequence[Curve], words: str, x_name: str, *, shown: Shown = plain, x_shown: Shown = plain, height: int = 230
) -> Markup:
    """Lines over one pair of axes, a legend above. "" without a point."""
    points = [point for curve in curves for point in curve.points]
    if not points:
        return Markup("")
    x_ticks, y_ticks = (ticks(min(values), max(values)) for values in zip(*points, strict=True))
    across = _scale(x_ticks, (LEFT, WIDTH - RIGHT))
    up = _scale(y_ticks, (height - BOTTOM, TOP))
    drawn = [_grid(x_ticks, y_ticks, across, up, (x_shown, shown), height, x_name)]
    for curve in curves:
        placed = [(across(x), up(y)) for x, y in curve.points]
        drawn.append(_line(placed, f"{curve.look}{' thin' if curve.thin else ''}"))
        drawn += [_marker(x, y, curve.look) for x, y in placed if curve.marked or len(placed) == 1]
    return _picture(height, words, _legend([curve for curve in curves if not curve.thin]), *drawn)


def _grid(
    x_ticks: list[float],
    y_ticks: list[float],
    across: Place,
    up: Place,
    shown: tuple[Shown, Shown],
    height: int,
    x_name: str,
) -> Markup:
    foot = height - BOTTOM
    rows = [tag("line", class_="grid", x1=LEFT, x2=WIDTH - RIGHT, y1=_n(up(y)), y2=_n(up(y))) for y in y_ticks]
    rows += [tag("text", shown[1](y), x=LEFT - 6, y=_n(up(y) + 4), class_="end") for y in y_ticks]
    rows += [tag("text", shown[0](x), x=_n(across(x)), y=foot + 16, class_="middle") for x in x_ticks]
    rows.append(tag("text", x_name, x=WIDTH - RIGHT, y=foot + 31, class_="end name"))
    return tag("g", *rows, class_="axes")


def _legend(curves: Sequence[Curve]) -> Markup:
    """A sample and a name for each line, in one row."""
    widths = [34 + LETTER * len(curve.name) + 12 for curve in curves]
    starts = [LEFT + start for start in accumulate([0.0, *widths[:-1]])]
    items: list[Markup] = []
    for curve, x in zip(curves, starts, strict=True):
        items.append(_line([(x, 12.0), (x + 24, 12.0)], curve.look))
        if curve.marked:
            items.append(_marker(x + 12, 12.0, curve.look))
        items.append(tag("text", curve.name, x=_n(x + 30), y=16))
    return tag("g", *items)


def _line(points: Sequence[tuple[float, float]], look: str) -> Markup:
    return tag("polyline", class_=f"line {look}", points=" ".join(f"{_n(x)},{_n(y)}" for x, y in points))


def _marker(x: float, y: float, look: str) -> Markup:
    """A disc for the first colour, a square for any other."""
    if look == "c1":
        return tag("circle", class_=f"dot {look}", cx=_n(x), cy=_n(y), r=3.6)
    return tag("rect", class_=f"dot {look}", x=_n(x - 3.2), y=_n(y - 3.2), width=6.4, height=6.4)


# ------------------------------------------------------------------------------------------------------------ others


def ruler(marks: Sequence[Mark], words: str, *, shown: Shown = percent) -> Markup:
    """Values one below the other on one scale, each with its name, its figure and its interval."""
    ends = [end for mark in marks for end in (mark.value, *(mark.interval or ()))]
    scale = ticks(min(ends), max(ends), about=5)
    across = _scale(scale, (8, WIDTH - 22))
    height = 44 * len(marks) + 26
    drawn = [tag("text", shown(x), x=_n(across(x)), y=height - 6, class_="middle axis") for x in scale]
    for row, mark in enumerate(marks):
        y = 44.0 * row + 32  # the scale shows beside the value only, so that no line runs through a name
        drawn += [tag("line", class_="grid", x1=_n(across(x)), x2=_n(across(x)), y1=y - 8, y2=y + 8) for x in scale]
        if mark.interval:
            low, high = (across(end) for end in mark.interval)
            drawn.append(tag("line", class_=f"whisker {mark.look}", x1=_n(low), x2=_n(high), y1=y, y2=y))
        drawn.append(tag("circle", class_=f"dot {mark.look}", cx=_n(across(mark.value)), cy=y, r=5.5))
        drawn.append(tag("text", mark.name, x=8, y=y - 13))
        drawn.append(tag("text", shown(mark.value), x=WIDTH - 8, y=y - 13, class_="end strong"))
    return _picture(height, words, *drawn)


def bar(parts: Sequence[tuple[str, float, str]], whole: float, words: str) -> Markup:
    """(name, amount, look) side by side in a bar that stands for `whole`; what they leave is empty."""
    starts = accumulate([0.0, *(amount for _, amount, _ in parts)])
    drawn = [tag("rect", class_="empty", x=0, y=0, width=WIDTH, height=26)]
    for (_, amount, look), start in zip(parts, starts, strict=False):
        width = max(1.5, WIDTH * amount / whole - 1)  # a sliver stays visible
        drawn.append(tag("rect", class_=f"dot {look}", x=_n(WIDTH * start / whole), y=0, width=_n(width), height=26))
    return _picture(26, words, *drawn, preserveAspectRatio="none")


# ------------------------------------------------------------------------------------------------------------- scales


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers, steps of 1, 2 or 5 times a power of ten, from at most `low` to at least `high`."""
    if not high > low:
        low, high = low - max(1e-3, abs(low) * 0.01), high + max(1e-3, abs(high) * 0.01)
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(step * i, 12) for i in range(first, last + 1)]


def smoothed(points: Sequence[tuple[float, float]], share: float = 0.6) -> list[tuple[float, float]]:
    """The points' running mean, each older one `share` as heavy as the next."""
    result: list[tuple[float, float]] = []
    total = weight = 0.0
    for x, y in points:
        total, weight = share * total + y, share * weight + 1
        result.append((x, total / weight))
    return result


def _scale(marks: Sequence[float], place: tuple[float, float]) -> Place:
    low, high = marks[0], marks[-1]
    return lambda value: place[0] + (value - low) / (high - low) * (place[1] - place[0])


def _n(value: float) -> str:
    return f"{value:.1f}"


def _picture(height: float, words: str, *drawn: object, **more: str) -> Markup:
    attributes = {"viewBox": f"0 0 {WIDTH} {height}", "role": "img", "aria_label": words}
    return tag("svg", *drawn, class_="chart", **attributes, **more)
