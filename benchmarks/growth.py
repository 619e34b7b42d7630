"""How the cost of training grows with the length of texts, the rank, threads and rows; a picture and the figures:

    python benchmarks/growth.py [--base minilm] [--base-weights random:0] [--out docs/pictures] [--seconds 2]

Every point is a process of its own that trains as `textlora bench train` does ("ours"), and the median of three rounds
in which the points of a plot take turns. Lengths: texts of one length. Rows: one whole pass over rows drawn from the
data, up to 100,000 of them, which takes most of the ten minutes; `--most-rows 10000` is quick.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from safetensors.numpy import save_file

from textlora.bench import figures
from textlora.bench.options import Options
from textlora.bench.task import SEED, TASK, TOKENS, Task, make
from textlora.bench.workers import Sides
from textlora.plots import BLUE, DPI, GREY, ORANGE, STYLE, WIDTH

LENGTHS = (16, 32, 64, 128, 256, 512)
RANKS = (1, 2, 4, 8, 16, 32, 64)
ROWS = (1_000, 3_000, 10_000, 30_000, 100_000)
BATCH_TOKENS = 4096
ROUNDS = 3
Point = dict[str, Any]


def say(line: str) -> None:
    """To people."""
    print(line, flush=True)


def derived(task: Task, folder: Path, texts: Sequence[np.ndarray], **changes: Any) -> Task:
    """`task` with other texts (token ids of each), in a folder of its own."""
    folder.mkdir()
    one = replace(
        task, folder=str(folder), count=len(texts), tokens_per_text=sum(map(len, texts)) / len(texts), **changes
    )
    offsets = np.cumsum([0, *map(len, texts)]).astype(np.int64)
    labels = np.arange(len(texts)) % len(task.labels)
    save_file({"ids": np.concatenate(texts), "offsets": offsets, "labels": labels}, folder / TOKENS)
    (folder / TASK).write_text(json.dumps(asdict(one)), encoding="utf-8")
    return one


def of_length(texts: Sequence[np.ndarray], length: int) -> list[np.ndarray]:
    """Enough texts of exactly `length` tokens, cut out of all texts in a row."""
    whole = np.concatenate(texts)
    count = max(4 * BATCH_TOKENS // length, 8)
    return [np.resize(np.roll(whole, -i * length), length) for i in range(count)]


@dataclass(frozen=True)
class Case:
    """One point to be measured: how much there is of what grows, and the rows it trains on."""

    value: int
    task: Task
    threads: int = 0


def measured(what: str, cases: Sequence[Case], seconds: float, epoch: bool = False) -> list[Point]:
    """Texts and tokens a second, and memory above the loaded base, of cases in turns; `epoch`: of whole passes."""
    names = {f"{what} {case.value:,}": case for case in cases}
    with Sides(Path(cases[0].task.folder), {}, say) as sides:
        for name, case in names.items():
            job = {"side": "ours", "folder": case.task.folder, "batch_tokens": BATCH_TOKENS, "epoch": epoch}
            sides.start(name, job, Options(threads=case.threads).environment)
        sides.rounds(1 if epoch else ROUNDS, 0.0 if epoch else seconds)
        workers = dict(sides.workers)
        said = sides.finish()
    if len(said) < len(names):
        raise SystemExit(f"not measured: {sides.failed}")
    return [{what: case.value} | _point(case, workers[name].rounds, said[name]) for name, case in names.items()]


def _point(case: Case, rounds: Sequence[figures.Round], said: Point) -> Point:
    kept = ("threads", "engine", "precision", "isa", "training_rss_bytes")
    rates = figures.rates(rounds, case.task.tokens_per_text, by_length=True)
    return rates | {key: said[key] for key in kept} | {"seconds": round(rounds[0].seconds, 2)}


def grow(task: Task, folder: Path, seconds: float, most_rows: int) -> dict[str, list[Point]]:
    """All points, by what grows."""
    tokens, _ = task.rows()
    texts = [tokens[i] for i in range(len(tokens))]
    lengths = [n for n in LENGTHS if n <= task.max_length]
    cases = {
        "tokens": [Case(n, derived(task, folder / f"tokens-{n}", of_length(texts, n))) for n in lengths],
        "rank": [Case(r, derived(task, folder / f"rank-{r}", texts, lora_r=r)) for r in RANKS],
        "threads": [Case(n, derived(task, folder / f"threads-{n}", texts), n) for n in range(1, _threads() + 1)],
    }
    found = {what: measured(what, some, seconds) for what, some in cases.items()}
    rng = np.random.default_rng(SEED)
    found["rows"] = []
    for rows in (n for n in ROWS if n <= most_rows):
        drawn = [texts[i] for i in rng.integers(0, len(texts), rows)]
        case = Case(rows, derived(task, folder / f"rows-{rows}", drawn))
        found["rows"] += measured("rows", [case], seconds, epoch=True)
    return found


def _threads() -> int:
    """What a side would use."""
    import torch

    return torch.get_num_threads()


def picture(found: dict[str, list[Point]], title: str, file: Path) -> None:
    """Four small plots: what grows to the right, what it costs upwards."""
    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(figsize=(WIDTH, 6.2), layout="constrained")
        figure.suptitle(title, ha="left", x=0.02, fontsize=13, fontweight="bold")
        places = dict(zip(AXES, figure.subplots(2, 2).flat, strict=True))
        for what in ("tokens", "rank", "threads"):
            _milliseconds(places[what], what, found[what])
        _rows(places["rows"], found["rows"])
        figure.savefig(file, dpi=DPI * 0.7, metadata={"Software": None})


WHOLE = FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")
AXES = {"tokens": "tokens of a text", "rank": "rank", "threads": "threads", "rows": "rows, one pass"}


def _milliseconds(axes: Axes, what: str, points: list[Point]) -> None:
    """Milliseconds a text, with a line from the origin for what grows with the length."""
    across, cost = [p[what] for p in points], [1000 / p["samples_per_second"] for p in points]
    axes.plot(across, cost, "o-", color=BLUE)
    if what == "tokens":
        at = across.index(128) if 128 in across else -1
        axes.plot([0, across[-1]], [0, cost[at] / across[at] * across[-1]], "--", color=GREY, label="in proportion")
        axes.legend(frameon=False)
    axes.set(xlabel=AXES[what], ylabel="ms a text", ylim=(0, max(cost) * 1.15))
    if what == "rank":
        axes.set_xscale("log", base=2)
    axes.set_xticks([n for n in across if what != "tokens" or n >= 64 or n == across[-1]])
    axes.xaxis.set_major_formatter(WHOLE)


def _rows(axes: Axes, points: list[Point]) -> None:
    """Seconds of a pass on the left, memory on the right."""
    across = [p["rows"] for p in points]
    axes.loglog(across, [p["seconds"] for p in points], "o-", color=BLUE)
    axes.set(xlabel=AXES["rows"])
    axes.set_ylabel("seconds", color=BLUE)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(WHOLE)
        axis.set_minor_formatter(NullFormatter())
    memory = axes.twinx()
    held = [p["training_rss_bytes"] / 1e9 for p in points]
    memory.plot(across, held, "s--", color=ORANGE)
    memory.set(ylim=(0, 1.6 * max(held)))
    memory.set_ylabel("GB above the loaded base", color=ORANGE)
    memory.grid(visible=False)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, write growth.json and growth.png."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--base", default="minilm")
    parser.add_argument("--base-weights", default="")
    parser.add_argument("--data", default="mini-news")
    parser.add_argument("--out", default="docs/pictures", type=Path)
    parser.add_argument("--seconds", default=2.0, type=float)
    parser.add_argument("--most-rows", default=ROWS[-1], type=int)
    a = parser.parse_args(argv)
    options = Options(base=a.base, base_weights=a.base_weights, data=a.data)
    a.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        task = make(options, folder)
        found = grow(task, folder, a.seconds, a.most_rows)
        about = {
            key: value for key, value in task.about(options).items() if key not in ("rows", "rounds", "round_seconds")
        }
    (a.out / "growth.json").write_text(json.dumps(about | found, indent=1) + "\n", encoding="utf-8")
    name = about["base"].rpartition("/")[2]
    picture(found, f"How the cost of training grows: {name}", a.out / "growth.png")


if __name__ == "__main__":
    main()
