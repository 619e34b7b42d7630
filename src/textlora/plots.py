"""Pictures of a run: how training went, and where the classifier errs. PNG, readable at 900 pixels' width.

Only the object API of matplotlib (no pyplot, no window, no state), under its default style whatever the user's is.
Numbers come from metrics.jsonl and `metrics.Scores`; nothing is computed here but shares of a row. Colours: Okabe & Ito
(2008), told apart in every common form of colour blindness; markers and dashes say the same once more.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager, get_font
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, MaxNLocator
from scipy.optimize import isotonic_regression

WIDTH = 9.0  # inches; with DPI, 1,440 pixels: sharp where a browser shows 900
DPI = 160
BLUE, ORANGE, GREEN, GREY, INK = "#0072B2", "#D55E00", "#009E73", "#9A9A9A", "#222222"
FONT = "DejaVu Sans"  # ships with matplotlib
STYLE = {
    "font.family": [FONT],
    "font.size": 11,
    "text.color": INK,
    "text.parse_math": False,  # a label such as "$ and €" is not a formula
    "axes.labelcolor": "#555555",
    "axes.edgecolor": "#BBBBBB",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E9E9E9",
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "xtick.major.size": 0,
    "ytick.major.size": 0,
}
LABEL_LENGTH = 26  # characters of a label's name on an axis; longer ones lose their middle
BOTH_NUMBERS = 10  # labels up to which a cell of the confusion matrix holds count and share
ONE_NUMBER = 40  # and up to which it holds the share; beyond, colour alone, and the bars show just so many labels
NAMED = 80  # labels up to which the matrix names them; beyond, their numbers
MARKED = 40  # points of a curve up to which each bears its marker

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Line:
    """One curve: name, x and y (NaN = gap), colour, and its look."""

    name: str
    steps: list[float]
    values: list[float]
    color: str
    marker: str = ""
    dashes: str = "-"
    width: float = 2.0


# ------------------------------------------------------------------------------------------------------ the training


def training_plots(records: Sequence[Record], folder: Path) -> list[Path]:
    """loss, accuracy, precision_recall_f1 and learning_rate_dropout (.png) from the lines of metrics.jsonl.

    A picture without a single value to show is left out. Returns the files written, in that order.
    """
    with _style():
        pictures = {
            "loss": _curves(
                "Loss on train and validation",
                "cross entropy (nats)",
                _splits(records, "loss", with_train=True),
                floor=0.0,
            ),
            "accuracy": _curves(
                "Accuracy on train sample and validation",
                "share of texts right",
                _splits(records, "accuracy"),
                best=True,
            ),
            "precision_recall_f1": _curves(
                f"Precision, recall and F1, {_with_n('validation', records)}", "weighted by label", _quality(records)
            ),
            "learning_rate_dropout": _schedules(records),
        }
        return [_save(figure, folder / f"{name}.png") for name, figure in pictures.items() if figure]


def _splits(records: Sequence[Record], key: str, with_train: bool = False) -> list[Line]:
    """`key` on validation and train sample, and as logged in training."""
    lines = [
        Line(_with_n("validation", records), *_points(records, "validation", key), BLUE, "o"),
        Line(_with_n("train sample", records), *_points(records, "train_sample", key), ORANGE, "s", "--", 1.6),
    ]
    if with_train:
        lines.append(Line("train, as logged", *_points(records, "train", key), GREY, width=1.2))
    return lines


def _quality(records: Sequence[Record]) -> list[Line]:
    looks = {"precision": (BLUE, "o", "-"), "recall": (ORANGE, "s", "--"), "F1": (GREEN, "^", ":")}
    return [Line(name, *_points(records, "validation", name.lower()), *look) for name, look in looks.items()]


def _schedules(records: Sequence[Record]) -> Figure | None:
    """Learning rate, and below it the dropout if there is any."""
    rate = Line("learning rate", *_points(records, "train", "learning_rate"), BLUE)
    dropout = Line("adapter dropout", *_points(records, "train", "dropout"), ORANGE)
    lines = [rate] if not any(v > 0 for v in dropout.values) else [rate, dropout]
    if not _shown([rate]):
        return None
    rest = " and dropout" if len(lines) == 2 else ", no adapter dropout"
    figure = _figure(f"Learning rate{rest}", 1.6 + 2.4 * len(lines))
    for axes, line in zip(figure.subplots(len(lines), sharex=True, squeeze=False)[:, 0], lines, strict=True):
        _draw(axes, line)
        axes.set_ylabel(line.name)
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("optimizer step")
    _whole_numbers(axes)
    return figure


def _curves(
    title: str, unit: str, lines: list[Line], *, floor: float | None = None, best: bool = False
) -> Figure | None:
    """Curves over the step, each named at its right end with its last value; None when there is nothing to draw."""
    lines = _shown(lines)
    if not lines:
        return None
    figure = _figure(title, 5.0)
    axes = figure.subplots()
    for line in reversed(lines):  # the first line is the one that matters, so it is drawn on top
        _draw(axes, line)
    axes.set(ylabel=unit)
    if floor is not None:
        axes.set_ylim(bottom=floor)
    if best:
        _ring(axes, lines[0])
    axes.set_xlabel("optimizer step")
    _whole_numbers(axes)
    _name_ends(axes, lines)
    return figure


def _draw(axes: Axes, line: Line) -> None:
    marker = line.marker if line.marker or len(line.steps) > 1 else "o"  # a single point has no line to be seen by
    marker = marker if len(line.steps) <= MARKED else ""
    axes.plot(line.steps, line.values, line.dashes, color=line.color, lw=line.width, marker=marker, ms=5, clip_on=False)


def _ring(axes: Axes, line: Line) -> None:
    """A ring around the curve's highest value: the state that is kept."""
    at = int(np.nanargmax(line.values))
    x, y = line.steps[at], line.values[at]
    axes.plot([x], [y], "o", ms=13, mfc="none", mec=line.color, mew=1.6, clip_on=False)
    axes.set_title(f"ring: best {line.name.split(' (')[0]}, {y:.4f} at step {x:,.0f}", loc="left", **_SMALL)


def _name_ends(axes: Axes, lines: list[Line]) -> None:
    """Each curve's name and last value right of the axes, in its colour, pushed apart where they would overlap.

    A curve that ended in NaN says so, at the height of its last finite value.
    """
    low, high = axes.get_ylim()
    last = [next(v for v in reversed(line.values) if math.isfinite(v)) for line in lines]
    heights = _apart([(value - low) / (high - low) for value in last], gap=0.055)
    for line, height in zip(lines, heights, strict=True):
        color = "#6E6E6E" if line.color == GREY else line.color  # the grey of a thin line is too light for words
        at = {"xy": (1, height), "xycoords": "axes fraction", "xytext": (10, 0), "textcoords": "offset points"}
        axes.annotate(f"{line.name}  {line.values[-1]:.4f}", **at, color=color, va="center")


def _apart(heights: Sequence[float], gap: float) -> list[float]:
    """The heights, moved as little as keeps neighbours `gap` apart and all of them in their order."""
    order = np.argsort(heights, kind="stable")
    steps = gap * np.arange(len(order))
    placed = np.empty(len(order))
    placed[order] = isotonic_regression(np.asarray(heights)[order] - steps).x + steps
    return placed.tolist()


def _points(records: Sequence[Record], split: str, key: str) -> tuple[list[float], list[float]]:
    """Steps and values of `key` on `split`; a value that isn't finite becomes a gap."""
    found = [(r["step"], r[key]) for r in records if r["split"] == split and r.get(key) is not None]
    return [step for step, _ in found], [v if math.isfinite(v) else math.nan for _, v in found]


def _shown(lines: list[Line]) -> list[Line]:
    return [line for line in lines if any(map(math.isfinite, line.values))]


def _with_n(name: str, records: Sequence[Record]) -> str:
    """The split's name, with its number of rows where the records hold it."""
    n = next((r["n"] for r in records if r["split"] == name.replace(" ", "_") and "n" in r), None)
    return name if n is None else f"{name} (n = {n:,})"


# ---------------------------------------------------------------------------------------------------- the evaluation


def evaluation_plots(scores: Mapping[str, Any], split: str, folder: Path) -> list[Path]:
    """confusion_matrix, prediction_distribution, reliability, risk_coverage (_<split>.png) from `Scores.to_dict()`."""
    matrix = np.asarray(scores["confusion_matrix"])
    names, fonts = _drawable([row["label"] for row in scores["per_class"]])
    with _style({"font.family": fonts}):
        pictures = {
            "confusion_matrix": _confusion(matrix, names, f"Confusion matrix, {split} (n = {scores['n']:,})"),
            "prediction_distribution": _distribution(
                matrix, names, f"True and predicted labels, {split} (n = {scores['n']:,})"
            ),
            "reliability": _reliability(scores, f"Is it as sure as it is right? {split} (n = {scores['n']:,})"),
            "risk_coverage": _risk_coverage(
                scores, f"If the least certain rows get no label, {split} (n = {scores['n']:,})"
            ),
        }
        return [_save(figure, folder / f"{name}_{split}.png") for name, figure in pictures.items()]


def _confusion(matrix: np.ndarray, names: list[str], title: str) -> Figure:
    """Shares of each row as colour; in the cells count and share, for many labels the share, for very many nothing."""
    count = len(names)
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    height = min(WIDTH, 4.2 + 0.45 * count)
    figure = _figure(title, height)
    axes = figure.subplots()
    # The root makes a cell of 4 % a fifth of full colour: what is looked for here are the few mistakes.
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 1), aspect="equal")
    axes.set(xlabel="predicted label", ylabel="true label")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    _name_cells(axes, names, cell=(height - 1.3) / count)
    if count > ONE_NUMBER:
        figure.colorbar(image, ax=axes, shrink=0.6, label="share of the true label's texts")
        return figure
    _fill_cells(axes, matrix, shares)
    note = "count, and share of" if count <= BOTH_NUMBERS else "a cell without a number is empty; % of"
    axes.set_title(f"{note} the true label's texts", loc="left", **_SMALL)
    return figure


def _name_cells(axes: Axes, names: list[str], cell: float) -> None:
    """The labels along both sides, turned below where they are wider than a cell (in inches)."""
    count = len(names)
    if count > NAMED:
        axes.set(xlabel="predicted label (number, from 0)", ylabel="true label (number, from 0)")
        return
    size = next(size for most, size in ((12, 11), (20, 9), (ONE_NUMBER, 7.5), (NAMED, 5)) if count <= most)
    wide = max(map(len, names)) * 0.0085 * size > cell  # a character is about 0.6 of its size of 1/72 inch
    slant = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if count <= 20 else {"rotation": 90}
    turned: dict[str, Any] = slant if wide else {}
    axes.set_xticks(range(count), names, fontsize=size, **turned)
    axes.set_yticks(range(count), names, fontsize=size)


def _fill_cells(axes: Axes, matrix: np.ndarray, shares: np.ndarray) -> None:
    count = len(matrix)
    both = count <= BOTH_NUMBERS
    size = (12 if count <= 5 else 10 if count <= 8 else 8.5) if both else max(5.5, 9.5 - 0.1 * count)
    for row, column in np.argwhere(matrix):
        share = shares[row, column]
        text = f"{matrix[row, column]:,}\n{100 * share:.1f} %" if both else f"{100 * share:.0f}"
        axes.text(column, row, text, ha="center", va="center", fontsize=size, color="white" if share > 0.35 else INK)
    for row, column in np.argwhere(matrix == 0) if both else ():
        axes.text(column, row, "0", ha="center", va="center", fontsize=size, color=GREY)


def _distribution(matrix: np.ndarray, names: list[str], title: str) -> Figure:
    """How many texts have each label, and how many are given it: two bars to a label, in the order of the labels."""
    true, predicted = matrix.sum(1), matrix.sum(0)
    shown = np.sort(np.argsort(-np.abs(true - predicted), kind="stable")[:ONE_NUMBER])
    count, size = len(shown), 10 if len(shown) <= 12 else 8
    figure = _figure(title, 1.8 + (0.62 if count <= 12 else 0.42) * count)
    axes = figure.subplots()
    at = np.arange(count)
    for offset, name, values, color in (
        (-0.19, "true", true[shown], GREY),
        (0.19, "predicted", predicted[shown], BLUE),
    ):
        bars = axes.barh(at + offset, values, height=0.34, color=color, label=name)
        axes.bar_label(bars, [f"{value:,}" for value in values], padding=4, fontsize=size, color="#555555")
    axes.set_yticks(at, [names[k] for k in shown], fontsize=size + 1)
    axes.set(xlabel="texts", ylim=(count - 0.45, -0.55))  # upside down: the first label on top
    axes.grid(visible=False)  # each bar bears its number
    _whole_numbers(axes)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, borderaxespad=0.2, handlelength=1.2)
    if count < len(names):
        axes.set_title(f"the {count} of {len(names)} labels with the largest difference", loc="right", **_SMALL)
    return figure


def _reliability(scores: Mapping[str, Any], title: str) -> Figure:
    """Accuracy over confidence, bin by bin with its interval, beside the diagonal of a calibrated classifier."""
    bins = scores["reliability"]
    sure, right = ([one[key] for one in bins] for key in ("confidence", "accuracy"))
    low, high = zip(*(one["accuracy_ci"] for one in bins), strict=True)
    least = max(0.0, min(*sure, *low) - 0.03)
    figure = _figure(title, 6.2)
    axes = figure.subplots()
    axes.plot([least, 1], [least, 1], "--", color=GREY, lw=1.4)
    axes.vlines(sure, low, high, color=BLUE, lw=1.6, alpha=0.45)
    axes.plot(sure, right, "o", color=BLUE, ms=6, clip_on=False)
    axes.set(xlabel="confidence: mean highest probability of the bin", ylabel="share of the bin's texts right")
    axes.set(xlim=(least, 1 + 0.02 * (1 - least)), ylim=(least, 1 + 0.02 * (1 - least)))
    middle = (least + 1) / 2
    axes.annotate(
        "calibrated", (middle, middle), (8, -12), textcoords="offset points", color="#6E6E6E", va="top", fontsize=10
    )
    size = "" if len(bins) == 1 else f" in {len(bins)} bins of about {scores['n'] // len(bins):,} texts"
    axes.set_title(f"calibration error (ECE) {scores['ece']:.4f}{size}; bars: 95 %", loc="left", **_SMALL)
    return figure


def _risk_coverage(scores: Mapping[str, Any], title: str) -> Figure:
    """Accuracy on the rest over the share of rows that abstain; the point at a tenth named."""
    points = scores["risk_coverage"]
    away, right = [100 * (1 - point["coverage"]) for point in points], [point["accuracy"] for point in points]
    figure = _figure(title, 5.0)
    axes = figure.subplots()
    axes.plot(away, right, "-", color=BLUE, lw=2.0, marker="o", ms=5, clip_on=False)
    axes.set(xlabel="% of the texts without a label, the least certain first", ylabel="share of the rest right")
    axes.set_xlim(left=0)
    tenth = min(points, key=lambda point: abs(point["coverage"] - 0.9))
    axes.plot([100 * (1 - tenth["coverage"])], [tenth["accuracy"]], "o", ms=13, mfc="none", mec=BLUE, mew=1.6)
    words = f"{tenth['accuracy']:.4f} of the rest with a probability of {tenth['threshold']:.2f} or more"
    axes.set_title(f"{points[0]['accuracy']:.4f} of all; ring: {words}", loc="left", **_SMALL)
    return figure


# ----------------------------------------------------------------------------------------------------------- drawing

_SMALL = {"fontsize": 10, "color": "#6E6E6E"}


def _style(changes: Mapping[str, Any] | None = None) -> AbstractContextManager[None]:
    return matplotlib.style.context(["default", STYLE | dict(changes or {})])


def _figure(title: str, height: float) -> Figure:
    figure = Figure(figsize=(WIDTH, height), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1))
    figure.suptitle(title, x=0.12 / WIDTH, ha="left", fontsize=14, fontweight="bold")
    return figure


def _whole_numbers(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _save(figure: Figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=DPI, metadata={"Software": None})  # no version: equal input, equal bytes
    return path


def _drawable(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """The names as they can be drawn, and the fonts it takes.

    White space becomes one blank and a long name loses its middle. A character that no font of this machine has becomes
    a box. Where that leaves names unclear or equal, the label's number is put before them.
    """
    plain = [_shortened(" ".join(name.split())) for name in names]
    fonts, missing = _fonts("".join(plain))
    seen = Counter(plain)
    boxed = ["".join("□" if c in missing else c for c in name) for name in plain]
    clear = [old == new and seen[old] == 1 for old, new in zip(plain, boxed, strict=True)]
    return [name if clear[k] else f"{k}: {name}" for k, name in enumerate(boxed)], fonts


def _shortened(name: str) -> str:
    half = LABEL_LENGTH // 2
    return name if len(name) <= LABEL_LENGTH else f"{name[:half].rstrip()}…{name[-half + 1 :].lstrip()}"


def _fonts(text: Iterable[str]) -> tuple[list[str], set[str]]:
    """Font families that together have the characters, the default first; and the characters that none has."""
    missing = {c for c in text if ord(c) not in _characters(fontManager.findfont(FONT))}
    families = [FONT]
    for font in sorted(fontManager.ttflist, key=lambda font: (font.name, font.fname)) if missing else ():
        real = font.style == "normal" and not font.name.startswith("Last Resort")  # that one has a box for everything
        found = {c for c in missing if ord(c) in _characters(font.fname)} if real else set()
        families += [font.name] if found else []
        missing -= found
    return families, missing


@cache
def _characters(path: str) -> frozenset[int]:
    try:
        return frozenset(get_font(path).get_charmap())
    except (OSError, RuntimeError):  # removed since matplotlib listed it, or no font
        return frozenset()
