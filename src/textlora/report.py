"""A run to one HTML page that needs nothing else: verdict, figures, pictures, mistakes, how to repeat it.

Every number is read from the run's files; here they are put in order and into words. `page/` holds the template and the
CSS; `charts` draws. Texts and labels are escaped by the template engine, so none of them can become markup.
"""

from __future__ import annotations

import logging
import re
import shlex
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from textlora import card, charts, predict, runs
from textlora import config as configs
from textlora.charts import Curve, Mark
from textlora.config import Config
from textlora.errors import ResourceError, UsageError
from textlora.explain import Explanation, explain
from textlora.runs import Run
from textlora.verdict import weaknesses

log = logging.getLogger("textlora")
PAGE = "report.html"
READ = ("config.toml", "plan.json", "environment.json", "summary.json", "metrics.jsonl", "evaluation/report.json")
SPLITS = ("train", "validation", "test")  # one of another name is called like its file
MISTAKES = 12  # shown, with the words that moved them
LONGEST = 1200  # characters of a mistake's text that are shown
MARKED = 0.2  # of the strongest word: weaker ones aren't marked
MATRIX = 30  # labels up to which the confusion matrix is shown whole; beyond, its largest entries
PAIRS, CLASSES = 20, 60  # rows of those lists
STRONGEST = 5  # words named below a mistake
LAYER = re.compile(r"(?:^|\.)(\d+)\.")  # the first number in a module's name is its layer
BASELINES = {"majority": "always the most frequent label", "tfidf-logreg": "TF-IDF and logistic regression"}
Facts = dict[str, Any]


def write_report(
    run: str | Path,
    out: str | Path = "",
    *,
    split: str = "",
    texts: bool = True,
    overwrite: bool = False,
    say: Callable[[str], None] = log.info,
    **loading: Any,
) -> Path:
    """Write the page of a finished run; returns its path, evaluation/report.html unless `out` names another.

    `split` is the one that the page is about, by its name in evaluation/report.json: test if it was judged, else
    validation. The words of mistakes are looked for with the run's model if its base is at hand (`loading` as for
    `predict.load`); else the page says what is missing. `texts`: whether texts of the data are shown at all. Raises
    UsageError for a folder that is no finished run, an `out` that exists or a split not judged yet, DamagedError for a
    file that isn't what the run wrote.
    """
    home = check(run, out, overwrite=overwrite)
    path = Path(out) if out else home.evaluation / PAGE
    runs.write_text(path, page(facts(home, split=split, texts=texts, say=say, **loading)))
    if not out:
        home.seal(f"evaluation/{PAGE}")
    return path


def check(run: str | Path, out: str | Path = "", *, overwrite: bool = False) -> Run:
    """The run, once what `write_report` would refuse of it and of `out` is refused: ask before long work."""
    home = runs.open_run(run)
    if not home.finished:
        raise UsageError(
            f"{home.folder} is a run that hasn't finished", f"go on with it: textlora train --resume --out {run}"
        )
    if out and Path(out).exists() and not overwrite:
        raise UsageError(f"{out} exists", "choose another --out, or replace it with --overwrite")
    for name in READ:
        runs.verify(home.folder, only=name)
    return home


def page(found: Facts) -> str:
    """HTML of what `facts` found."""
    loader = jinja2.PackageLoader("textlora", "page")
    made = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.filters |= {"percent": _percent, "count": "{:,}".format, "short": _short_count}
    css = resources.files("textlora").joinpath("page", "report.css").read_text(encoding="utf-8")
    return made.get_template("report.html.jinja").render(found, css=css)


def facts(
    home: Run, *, split: str = "", texts: bool = True, say: Callable[[str], None] = log.info, **loading: Any
) -> Facts:
    """All that the template shows of a run; `check` comes first."""
    config, plan, summary = home.config(), runs.read_json(home.folder / "plan.json"), home.summary()
    environment = runs.read_json(home.folder / "environment.json")
    splits = runs.read_json(home.evaluation / "report.json")["splits"]
    judged = _judged(splits, split)
    rows = _rows(judged, config)
    data = _shown(config) or environment["data"]["name"]  # rows given in Python are in no source
    return {
        "title": f"{config.base.rpartition('/')[2]} on {data}",
        "name": home.folder.resolve().name,
        "written": time.strftime("%d %B %Y").lstrip("0"),
        "version": environment["versions"]["textlora"],
        "judged": judged,
        "rows": rows,
        "headline": f"{charts.percent(judged['accuracy'])} of {judged['n']:,} {rows} are right",
        "verdict": [_without_path(line, config, home) for line in _verdict(judged, summary, environment)],
        "caveats": _caveats(judged, splits, plan),
        "summary": summary,
        "plan": plan,
        "ruler": _ruler(summary, splits, judged, rows),
        "majority": summary["baselines"].get("majority"),
        "classes": _classes(judged),
        "matrix": _matrix(judged),
        "calibration": _calibration(judged),
        "training": _training(home.metrics()),
        "mistakes": _mistakes(home, judged, texts, say, loading),
        "budget": _budget(plan),
        "environment": environment,
        "notes": [_without_path(note, config, home) for note in environment["data"]["notes"]],
        "splits": splits,
        "changed": _changed(config),
        "settings": configs.to_toml(_public(config)),
        "commands": _commands(judged, config, environment["versions"]["textlora"]),
        "from_python": not config.data,
        "duration": _duration(summary["train_seconds"]),
    }


# ------------------------------------------------------------------------------------------------------------ verdict


def _judged(splits: Facts, split: str) -> Facts:
    """The report of `split`, else of test, else of validation."""
    if split and split not in splits:
        raise UsageError(f"split {split!r} isn't judged yet", f"judged are {', '.join(splits)}; --data judges more")
    return splits[split] if split else splits.get("test") or splits["validation"]


def _rows(judged: Facts, config: Config) -> str:
    """What was judged, in words: `test rows` of the run's own data, or `rows of mine.csv`."""
    kind = f"{judged['split']} rows" if judged["split"] in SPLITS else "rows"
    return kind if judged["data"] == config.data or not config.data else f"{kind} of {card.source(judged['data'])[1]}"


def _verdict(judged: Facts, summary: Facts, environment: Facts) -> list[str]:
    """Training's verdict where the page is about its validation rows; else what is weak here, then training's gain."""
    lines = [line for line in summary["verdict"] if not line.startswith("Next: ")]
    if judged["fingerprint"] == environment["data"]["fingerprints"]["validation"]:
        return lines
    return [*weaknesses(judged), *(f"After training: {line}" for line in lines[:1])]


def _caveats(judged: Facts, splits: Facts, plan: Facts) -> list[str]:
    """What a reader should know before believing the headline."""
    found = [f"Warning: {warning}." for warning in judged["warnings"]]
    if judged["split"] == "validation" and "test" not in splits:
        found.append(
            "Not judged on test rows yet. The best weights were chosen on these validation rows, so their figures read "
            "a little high. textlora evaluate RUN --data D --split test adds the test figures."
        )
    if (reads := judged["test_reads"]) and reads > 1:
        found.append(f"These test rows were read {reads} times: the more often, the less of a test they are.")
    small = [row["label"] for row in judged["per_class"] if 0 < row["total"] < 20]
    if small:
        named = ", ".join(small[:5]) + (f" and {len(small) - 5} more" if len(small) > 5 else "")
        found.append(f"Fewer than 20 rows of {named}: figures of such classes are rough.")
    cut = judged["long_texts"]
    if cut["longer"] > 0.05 * cut["texts"]:
        found.append(f"{charts.percent(cut['longer'] / cut['texts'])} of the texts are longer than the model reads.")
    return found


def _ruler(summary: Facts, splits: Facts, judged: Facts, rows: str) -> str:
    """Baselines and this run on one scale; the majority class, far below, has its sentence instead."""
    names = [name for name in summary["baselines"] if name != "majority"] or list(summary["baselines"])
    marks = [Mark(f"{BASELINES.get(name, name)}, validation", summary["baselines"][name], None, "c3") for name in names]
    for name, look in (("validation", "c1"), ("test", "c2")):
        if name in splits:
            marks.append(Mark(f"this run, {name}", splits[name]["accuracy"], tuple(splits[name]["accuracy_ci"]), look))
    if judged["split"] not in ("validation", "test"):
        marks.append(Mark(f"this run, {rows}", judged["accuracy"], tuple(judged["accuracy_ci"]), "c4"))
    words = "; ".join(f"{mark.name} {charts.percent(mark.value)}" for mark in marks)
    return charts.ruler(marks, f"Accuracy: {words}")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


# ------------------------------------------------------------------------------------------------------------ classes


def _classes(judged: Facts) -> Facts:
    """The class table: in the labels' order, or the weakest first where there are many."""
    rows = judged["per_class"]
    many = len(rows) > MATRIX
    rows = sorted(rows, key=lambda row: row["f1"])[:CLASSES] if many else rows
    return {"rows": rows, "left": len(judged["per_class"]) - len(rows), "many": many}


def _matrix(judged: Facts) -> Facts:
    """Cells with the depth of their colour: found ones by their share of the row, mistakes by their number."""
    counts = judged["confusion_matrix"]
    labels = [row["label"] for row in judged["per_class"]]
    wrong = [(n, i, j) for i, row in enumerate(counts) for j, n in enumerate(row) if i != j and n]
    most = max((n for n, _, _ in wrong), default=1)
    if len(labels) > MATRIX:
        pairs = sorted(wrong, key=lambda cell: -cell[0])[:PAIRS]
        return {"labels": None, "pairs": [{"count": n, "label": labels[i], "taken": labels[j]} for n, i, j in pairs]}
    rows = []
    for i, row in enumerate(counts):
        total = max(1, sum(row))
        cells = [
            {"count": n, "share": n / total, "right": i == j, **_depth(n / total if i == j else n / most, i == j)}
            for j, n in enumerate(row)
        ]
        rows.append({"label": labels[i], "cells": cells})
    return {"labels": labels, "rows": rows, "pairs": None}


def _depth(share: float, deep: bool = True) -> Facts:
    """A colour's depth in percent for a share, and whether letters on it have to change theirs.

    Between 55 and 78 neither dark nor light letters are easy to read on the ramp, so no cell has such a depth.
    """
    if not deep:
        return {"depth": round(60 * share), "turned": False}
    turned = share > 0.7
    return {"depth": round(78 + 22 * (share - 0.7) / 0.3 if turned else 55 * share / 0.7), "turned": turned}


# -------------------------------------------------------------------------------------------------------- calibration


def _calibration(judged: Facts) -> Facts:
    """ECE in words, and the reliability and risk-coverage curves where the report has them."""
    ece = judged["ece"]
    words = (
        "agree closely" if ece < 0.02 else "agree roughly" if ece < 0.05 else "differ: don't take them at face value"
    )
    bins, kept = judged.get("reliability") or [], judged.get("risk_coverage") or []
    rest = min(kept, key=lambda point: abs(point["coverage"] - 0.9), default=None)
    return {"ece": ece, "words": words, "rest": rest, "reliability": _reliability(bins), "coverage": _coverage(kept)}


def _reliability(bins: Sequence[Facts]) -> str:
    least = min((min(b["confidence"], b["accuracy"]) for b in bins), default=0.0)
    measured = Curve("accuracy", [(b["confidence"], b["accuracy"]) for b in bins], "c1", marked=True)
    ideal = Curve("where both agree", [(least, least), (1.0, 1.0)] if bins else [], "ideal")
    gap = max((abs(b["confidence"] - b["accuracy"]) for b in bins), default=0.0)
    words = (
        f"Accuracy by stated probability in {len(bins)} groups of rows; they differ by {charts.percent(gap)} at most"
    )
    return charts.curves([ideal, measured], words, "probability", shown=charts.percent, x_shown=charts.percent)


def _coverage(kept: Sequence[Facts]) -> str:
    points = sorted((point["coverage"], point["accuracy"]) for point in kept if point["accuracy"] is not None)
    ends = (
        f"{charts.percent(points[-1][1])} of all rows, {charts.percent(points[0][1])} of the surest" if points else ""
    )
    words = f"Accuracy when only the surest rows are kept: {ends}"
    curve = Curve("accuracy on the rows kept", points, "c1", marked=True)
    return charts.curves([curve], words, "rows kept", shown=charts.percent, x_shown=charts.percent)


# ----------------------------------------------------------------------------------------------------------- training


def _training(records: Sequence[Facts]) -> list[Facts]:
    """Loss, accuracy and learning rate over the steps, each with its words; those without a point are left out."""
    logged = _points(records, "train", "loss")
    held, rate = _points(records, "validation", "loss"), _points(records, "train", "learning_rate")
    accuracy, sample = (_points(records, split, "accuracy") for split in ("validation", "train_sample"))
    loss = [
        Curve("train", logged, "c3", thin=True),
        Curve("train, smoothed", charts.smoothed(logged), "c3"),
        Curve("validation", held, "c1", marked=True),
    ]
    right = [Curve("train sample", sample, "c2", marked=True), Curve("validation", accuracy, "c1", marked=True)]
    pictures = [
        ("Loss", loss, charts.plain, "nats a text"),
        ("Accuracy", right, charts.percent, "share of texts right"),
        ("Learning rate", [Curve("learning rate", rate, "c1")], charts.plain, "its rise and fall"),
    ]
    return [
        {"name": name, "unit": unit, "chart": charts.curves(curves, _said(name, curves, shown), "step", shown=shown)}
        for name, curves, shown, unit in pictures
        if any(curve.points for curve in curves)
    ]


def _points(records: Sequence[Facts], split: str, key: str) -> list[tuple[float, float]]:
    return [(r["step"], r[key]) for r in records if r["split"] == split and r.get(key) is not None]


def _said(name: str, curves: Iterable[Curve], shown: charts.Shown) -> str:
    """A picture in words: where each line starts and ends."""
    drawn = [curve for curve in curves if curve.points and not curve.thin]
    return f"{name} by step: " + "; ".join(
        f"{curve.name} from {shown(float(f'{curve.points[0][1]:.3g}'))} to {shown(float(f'{curve.points[-1][1]:.3g}'))}"
        for curve in drawn
    )


# ----------------------------------------------------------------------------------------------------------- mistakes


def _mistakes(home: Run, judged: Facts, texts: bool, say: Callable[[str], None], loading: Facts) -> Facts:
    """The surest mistakes, each in pieces whose colour says what the words did; why the words are missing if so."""
    chosen = judged["confident_mistakes"][:MISTAKES]
    wrong = judged["n"] - sum(row["correct"] for row in judged["per_class"])
    if not texts:
        return {"rows": [], "wrong": wrong, "why": "Texts are left out of this page."}
    found, why = _explanations(home, [row["text"] for row in chosen], loading) if chosen else ([], "")
    if why:
        say(why)
    explained = [*found, *([None] * (len(chosen) - len(found)))]
    rows = [_mistake(row, one) for row, one in zip(chosen, explained, strict=True)]
    return {"rows": rows, "wrong": wrong, "why": why}


def _explanations(home: Run, texts: Sequence[str], loading: Facts) -> tuple[list[Explanation], str]:
    """What moved the decisions on `texts`; nothing and the reason where the base isn't at hand."""
    try:
        predictor = predict.load(home.folder, **loading)
    except (ResourceError, UsageError) as error:
        return [], f"The words that moved each decision are left out: {error.message}."
    return explain(predictor, texts), ""


def _mistake(row: Facts, found: Explanation | None) -> Facts:
    """A mistake with its text in pieces; without words where a model rounded otherwise decides otherwise."""
    found = found if found and found.label == row["predicted"] else None
    text, words = row["text"], found.words if found else ()
    most = max((abs(word.drop) for word in words), default=0.0) or 1.0
    pieces, at = [], 0
    for word in words:
        share = abs(word.drop) / most
        if share < MARKED or word.end > LONGEST:
            continue
        pieces.append({"text": text[at : word.start], "way": ""})
        pieces.append({"text": word.text, "way": "for" if word.drop > 0 else "against", "depth": round(60 * share)})
        at = word.end
    pieces.append({"text": text[at : max(at, LONGEST)] + ("…" if len(text) > max(at, LONGEST) else ""), "way": ""})
    strongest = found.strongest(STRONGEST) if found else []
    return row | {
        "pieces": [piece for piece in pieces if piece["text"]],
        "towards": [word for word in strongest if word.drop > 0],
        "away": [word for word in strongest if word.drop < 0],
    }


# ------------------------------------------------------------------------------------------------------------- budget


def _budget(plan: Facts) -> Facts:
    """Where the parameters are: a row for each layer, a column for each matrix, and the parts as one bar."""
    layers: dict[int, dict[str, Facts]] = {}
    apart = []
    for module in plan["modules"]:
        found = LAYER.search(module["name"])
        if found:
            layers.setdefault(int(found[1]), {})[module["name"][found.end() :]] = module
        else:
            apart.append(module)
    names = list(dict.fromkeys(name for cells in layers.values() for name in cells))
    most = max((module["parameters"] for module in plan["modules"]), default=1)
    rows = []
    for layer in range(max(layers, default=-1) + 1):
        cells = [layers.get(layer, {}).get(name) for name in names]
        shown = [cell and cell | _depth(cell["parameters"] / most) for cell in cells]
        rows.append({"layer": layer, "cells": shown, "total": sum(cell["parameters"] for cell in cells if cell)})
    parts = [("adapters", plan["adapters"], "c1"), ("head", plan["head"], "c2")]
    parts += [("bag of tokens", plan["bag_of_tokens"], "c4"), ("memory", plan.get("memory", 0), "c3")]
    parts += [("biases", plan["biases"], "c5")]
    parts = [part for part in parts if part[1]]
    words = ", ".join(f"{name} {count:,}" for name, count, _ in parts)
    left = plan["budget"] - plan["trainable"]
    return {
        "names": [_matrix_name(name) for name in names],
        "rows": rows,
        "apart": apart,
        "parts": parts,
        "left": left,
        "bar": charts.bar(parts, max(plan["budget"], plan["trainable"]), f"{words}; {left:,} of the budget left"),
    }


def _matrix_name(name: str) -> str:
    """`attention.self.query` as people say it: query; two words where one alone could be another's."""
    parts = [part for part in name.split(".") if part not in ("self", "dense", "attn", "SelfAttention")]
    return " ".join(parts[-1:] if parts[-1] not in ("output", "weight") else parts[-2:]).replace("_", " ") or name


def _percent(value: float) -> str:
    """As in the pictures, with a blank that no line breaks at."""
    return charts.percent(value).replace(" ", "\u00a0")


def _short_count(count: int) -> str:
    """12,288 as 12.3 k, for a narrow cell."""
    return f"{count:,}" if count < 10_000 else f"{count / 1e3:.1f} k" if count < 1e6 else f"{count / 1e6:.2f} M"


# ---------------------------------------------------------------------------------------------------- how to repeat it


def _shown(config: Config) -> str:
    """The data's name without the folders of the machine that trained."""
    return config.data if config.data_revision else Path(config.data).name


def _basename(data: str) -> str:
    """The same of data that was judged."""
    return data if card.source(data)[0] != "unknown" else Path(data).name


def _public(config: Config) -> Config:
    """The settings without that machine's folders."""
    random = config.base_weights.startswith("random:")
    weights = config.base_weights if random else Path(config.base_weights).name
    return replace(config, data=_shown(config), base_weights=weights, tokenizer=Path(config.tokenizer).name)


def _without_path(line: str, config: Config, home: Run) -> str:
    for path, name in ((config.data, _shown(config)), (str(home.folder), "RUN")):
        line = line.replace(path, name) if "/" in path else line
    return line


def _commands(judged: Facts, config: Config, version: str) -> list[str]:
    """Commands for a shell that train and judge again as was done, with names in place of that machine's folders."""
    shown, asked = _public(config), judged.get("asked")
    train = ["textlora", "train", "--recipe", "config.toml", "--data", shown.data or "ROWS", "--out", "runs/again"]
    again = ["textlora", "report", "runs/again"]
    if asked:  # else training judges these rows by itself
        again += ["--data", _basename(judged["data"])]
        again += ["--split", asked["split"]] if asked["split"] else []
        again += [part for name in asked["text_column"] for part in ("--text-column", name)]
        again += ["--label-column", asked["label_column"]] if asked["label_column"] else []
    if shown.base_weights and not shown.base_weights.startswith("random:"):  # an adapter knows the seed of random ones
        train += ["--base-weights", shown.base_weights]
        again += ["--base-weights", shown.base_weights]
    return [f"pip install textlora=={version}", shlex.join(train), shlex.join(again)]


def _changed(config: Config) -> list[tuple[str, str]]:
    """The settings that aren't the program's defaults."""
    usual, given = configs.Config().to_dict(), _public(config).to_dict()
    return [(key, _setting(value)) for key, value in given.items() if value != usual[key]]


def _setting(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
