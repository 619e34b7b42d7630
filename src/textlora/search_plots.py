"""Pictures of a search, from what search.json holds: no database, no Optuna.

Optuna's own were tried: nineteen parameters overlap in its parallel coordinates and make a row of slices 6,000 pixels
wide. These are in the style of plots.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from textlora.plots import BLUE, GREY, INK, ORANGE, _figure, _save, _style, _whole_numbers

COLUMNS = 4  # of small pictures in a row
NAMED = 12  # trials on a front up to which each bears its number

Result = dict[str, Any]
Row = dict[str, Any]


def search_plots(found: Result, folder: Path) -> list[Path]:
    """history, curves, slices and parallel (.png), importances where two trials or more are scored, and pareto where
    there are two objectives. Returns the files written, in that order."""
    scored = [row for row in found["trials"] if row["ended"] == "finished"]
    with _style():
        pictures = {
            "history": _history(found, scored),
            "curves": _curves(found),
            "importances": _importances(found) if found["importances"] else None,
            "slices": _slices(found, scored),
            "parallel": _parallel(found, scored),
            "pareto": _pareto(found, scored) if found["against"] else None,
        }
        return [_save(figure, folder / f"{name}.png") for name, figure in pictures.items() if figure]


def _history(found: Result, scored: Sequence[Row]) -> Figure:
    """Each trial's score, the best so far, and when others were stopped."""
    objective = found["objective"]
    figure = _figure(f"{objective} of each trial on its half of validation", 4.2)
    axes = figure.subplots()
    numbers, scores = [row["number"] for row in scored], [row[objective] for row in scored]
    axes.plot(numbers, scores, "o", color=BLUE, label="trial", markersize=6)
    axes.step(numbers, np.maximum.accumulate(scores), color=ORANGE, where="post", label="best so far")
    stopped = [row["number"] for row in found["trials"] if row["ended"] != "finished"]
    axes.plot(stopped, [min(scores)] * len(stopped), "x", color=GREY, label="stopped early", markersize=6)
    axes.set(xlabel="trial", ylabel=objective)
    _whole_numbers(axes)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, borderaxespad=0.2)
    return figure


def _curves(found: Result) -> Figure | None:
    """How trials went with the texts that they saw; the best in colour, a cross where one was stopped."""
    rows = [row for row in found["trials"] if row["curve"]]
    if not rows:
        return None
    figure = _figure(f"{found['objective']} by texts seen", 4.6)
    axes = figure.subplots()
    for row in sorted(rows, key=lambda row: row["number"] == found["best"]["number"]):
        best = row["number"] == found["best"]["number"]
        texts, scores = zip(*row["curve"], strict=True)
        if row["ended"] == "finished":
            texts, scores = (*texts, row["texts"]), (*scores, row[found["objective"]])
        color, width = (ORANGE, 2.4) if best else (BLUE if row["ended"] == "finished" else GREY, 1.2)
        axes.plot(texts, scores, color=color, linewidth=width, marker=".", alpha=1.0 if best else 0.7)
        if row["ended"] != "finished":
            axes.plot(texts[-1], scores[-1], "x", color=INK, markersize=6)
    axes.set(xlabel="texts seen", ylabel=found["objective"])
    _whole_numbers(axes)
    axes.set_title("orange: the best trial; crosses: stopped", loc="right", fontsize=10, color="#6E6E6E")
    return figure


def _importances(found: Result) -> Figure:
    """What share of the differences between trials goes with each parameter."""
    shares = sorted(found["importances"].items(), key=lambda pair: -pair[1])
    figure = _figure(f"What {found['objective']} hung on", 1.4 + 0.32 * len(shares))
    axes = figure.subplots()
    bars = axes.barh([name for name, _ in shares], [share for _, share in shares], color=BLUE, height=0.6)
    axes.bar_label(bars, [f"{share:.2f}" for _, share in shares], padding=4, fontsize=9, color="#555555")
    axes.invert_yaxis()
    axes.grid(visible=False)
    scored = sum(row["ended"] == "finished" for row in found["trials"])
    axes.set(xlabel=f"importance (PED-ANOVA on {scored} scored trials: a hint, with few of them little more)")
    return figure


def _slices(found: Result, scored: Sequence[Row]) -> Figure:
    """Score over each parameter; later trials darker, the best in orange; crosses where a trial was stopped."""
    names = list(found["domains"])
    stopped = _stopped(found)
    rows = -(-len(names) // COLUMNS)
    figure = _figure(f"{found['objective']} over each parameter", 0.8 + 1.75 * rows)
    grid = figure.subplots(rows, COLUMNS, sharey=True, squeeze=False)
    for axes in grid.flat[len(names) :]:
        axes.set_axis_off()
    last = max(row["number"] for row in scored) or 1
    for axes, name in zip(grid.flat, names, strict=False):
        places = partial(_places, found["domains"][name])
        dots = {"color": GREY, "marker": "x", "s": 14, "linewidths": 0.8}
        axes.scatter(places([row["params"][name] for row in stopped]), [row["curve"][-1][1] for row in stopped], **dots)
        at = places([row["params"][name] for row in scored])
        shades = [0.35 + 0.65 * row["number"] / last for row in scored]
        scores = [row[found["objective"]] for row in scored]
        axes.scatter(at, scores, c=colormaps["Blues"](shades), s=22, edgecolors="none")
        best = [row["number"] == found["best"]["number"] for row in scored].index(True)
        axes.scatter(at[best], scores[best], color=ORANGE, s=40)
        axes.set_title(name, fontsize=9, loc="left")
        axes.tick_params(labelsize=8)
        _ends(axes, found["domains"][name])
    return figure


def _stopped(found: Result) -> list[Row]:
    """Trials that were looked at and not finished."""
    return [row for row in found["trials"] if row["ended"] != "finished" and row["curve"]]


def _parallel(found: Result, scored: Sequence[Row]) -> Figure:
    """Every scored trial as a line over all parameters, darker the better; the best in orange, stopped ones grey."""
    names = list(found["domains"])
    figure = _figure("Trials over all parameters", 5.6)
    axes = figure.subplots()
    scores = [row[found["objective"]] for row in scored]
    shade = Normalize(min(scores), max(max(scores), min(scores) + 1e-9))
    for row in _stopped(found):
        places = [_places(found["domains"][name], [row["params"][name]])[0] for name in names]
        axes.plot(range(len(names)), places, color=GREY, linewidth=0.6, alpha=0.6, zorder=0)
    for row in sorted(scored, key=lambda row: row[found["objective"]]):
        best = row["number"] == found["best"]["number"]
        places = [_places(found["domains"][name], [row["params"][name]])[0] for name in names]
        color = ORANGE if best else colormaps["Blues"](0.2 + 0.8 * shade(row[found["objective"]]))
        axes.plot(range(len(names)), places, color=color, linewidth=2.4 if best else 1.2, marker=".", zorder=1 + best)
    for k, name in enumerate(names):
        low, high = _named_ends(found["domains"][name])
        for y, word in ((-0.04, low), (1.04, high)):
            axes.text(
                k, y, word, ha="center", va="top" if y < 0 else "bottom", fontsize=7, color="#555555", rotation=45
            )
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right", rotation_mode="anchor", fontsize=9)
    axes.set(yticks=[], ylim=(-0.16, 1.16), xlim=(-0.5, len(names) - 0.5))
    axes.spines["left"].set_visible(False)
    figure.colorbar(
        ScalarMappable(shade, colormaps["Blues"]), ax=axes, label=found["objective"], fraction=0.03, pad=0.01
    )
    return figure


def _pareto(found: Result, scored: Sequence[Row]) -> Figure:
    """Score over cost; the front joined and numbered."""
    against, objective = found["against"], found["objective"]
    figure = _figure(f"{objective} against {against}", 4.6)
    axes = figure.subplots()
    front = sorted((row for row in scored if row["number"] in found["front"]), key=lambda row: row[against])
    axes.plot([row[against] for row in scored], [row[objective] for row in scored], "o", color=GREY, label="beaten")
    xs, ys = [row[against] for row in front], [row[objective] for row in front]
    axes.step(xs, ys, "o-", where="post", color=ORANGE, label="the front: no trial is better in both")
    for row in front[:NAMED]:
        axes.annotate(
            str(row["number"]), (row[against], row[objective]), xytext=(4, 5), textcoords="offset points", fontsize=9
        )
    axes.set(xlabel=against, ylabel=objective)
    _whole_numbers(axes)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, borderaxespad=0.2)
    return figure


# ------------------------------------------------------------------------------------------------- parameters as places


def _places(domain: Row, values: Sequence[Any]) -> list[float]:
    """Where values lie between the ends of their domain, 0 to 1."""
    if "choices" in domain:
        most = max(1, len(domain["choices"]) - 1)
        return [domain["choices"].index(value) / most for value in values]
    numbers = np.array([domain["low"], domain["high"], *values], dtype=float)
    numbers = np.log(numbers) if domain["log"] else numbers
    return ((numbers[2:] - numbers[0]) / (numbers[1] - numbers[0])).tolist()


def _named_ends(domain: Row) -> tuple[str, str]:
    if "choices" not in domain:
        return f"{domain['low']:.3g}", f"{domain['high']:.3g}"
    words = [_word(choice) for choice in domain["choices"]]
    return words[0], words[-1] if len(words) > 1 else ""


def _word(value: Any) -> str:
    return text if len(text := str(value)) <= 12 else f"{text[:11]}…"


def _ends(axes: Axes, domain: Row) -> None:
    """Ticks at the ends of a range, or at each of a few choices."""
    if "choices" in domain:
        at, words = _places(domain, domain["choices"]), [_word(choice) for choice in domain["choices"]]
    else:
        at, words = [0.0, 1.0], list(_named_ends(domain))
    axes.set_xticks(at, words, fontsize=7)
    axes.set_xlim(-0.12, 1.12)
