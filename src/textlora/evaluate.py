"""A run and a split in, a report out: figures, pictures, the surest mistakes."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from textlora import card, data, flips, metrics, perturb, plots, predict, runs, shift, slices
from textlora.data import Split
from textlora.errors import UsageError
from textlora.flips import Flips
from textlora.longtext import Cut
from textlora.metrics import Scores
from textlora.paired import paired_gain
from textlora.predict import Predictor
from textlora.runs import Run
from textlora.shift import Shift
from textlora.tokens import Tokens

log = logging.getLogger("textlora")
REPORT = "report.json"
TEST = "test"  # a split of this name is read to report, never to choose; each reading is counted


@dataclass(frozen=True)
class Report:
    """What was measured on one split; its name travels with the figures, so that splits can't be mixed up."""

    split: str
    data: str
    fingerprint: str  # of the split's rows
    scores: Scores
    mistakes: list[dict[str, Any]]
    distribution: dict[str, int]  # predictions by label
    trainable_parameters: int | None
    test_reads: int | None  # how often the split named test was scored by this run; None for other splits
    cut: Cut  # what was done to texts longer than the model reads
    warnings: tuple[str, ...] = ()
    flips: Flips | None = None  # what rounding changed; None where nothing is rounded, or in training
    shift: Shift | None = None  # other shares of labels than in training, where they were looked for
    adapter_scale: float = 1.0  # of `predict.load`
    abstain: dict[str, Any] | None = None  # metrics.abstaining, where that was asked for
    slices: tuple[dict[str, Any], ...] = ()  # slices.table for each way that was asked for
    robustness: tuple[dict[str, Any], ...] = ()  # `robustness_of`, where that was asked for
    asked: Mapping[str, Any] | None = None  # split and columns as they were named; None: training judged

    def to_dict(self) -> dict[str, Any]:
        return {
            "split": self.split,
            "data": self.data,
            "fingerprint": self.fingerprint,
            **self.scores.to_dict(),
            "predictions": self.distribution,
            "trainable_parameters": self.trainable_parameters,
            "test_reads": self.test_reads,
            "long_texts": asdict(self.cut),
            "warnings": list(self.warnings),
            "flips": self.flips and self.flips.to_dict(),
            "label_shift": self.shift and self.shift.to_dict(),
            "adapter_scale": self.adapter_scale,
            "abstain": self.abstain,
            "slices": list(self.slices),
            "robustness": list(self.robustness),
            "asked": self.asked,
            "confident_mistakes": self.mistakes,
        }


def evaluate(
    run: str | Path,
    source: str,
    split: str = TEST,
    *,
    out: str | Path = "",
    text_column: Sequence[str] = (),
    label_column: str = "",
    label_shift: bool = False,
    abstain_below: float | None = None,
    slice_by: Sequence[str] = (),
    robustness: bool = False,
    say: Callable[[str], None] = log.info,
    **loading: Any,
) -> Report:
    """Score a run (or a bare adapter) on one split of `source` and write the report.

    A run's report goes into its evaluation/ folder or to `out`, a bare adapter's only to `out`; that the test split was
    read is counted in the run wherever the report goes, unless it can't be written to. `say` receives lines
    for people: what was recognised in the data, how many texts are too long; `loading` is passed to `predict.load`.
    `label_shift` judges with other shares of labels allowed for, found from the texts alone (textlora.shift).
    Where the model's matrices are rounded, labels that this flips are looked for among the rows nearest to a tie.
    `abstain_below` also judges what is left where less sure rows get no label; `slice_by` (length, agency or a column
    of the data) also judges groups of rows. `robustness` also judges the same rows with their texts changed
    (textlora.perturb): the same reading of the split, not another. Raises UsageError for it with `label_shift`.
    """
    if robustness and label_shift:
        raise UsageError("robustness is of the classifier as it is, label_shift of another", "ask for one of the two")
    metrics.check_abstain_below(abstain_below or 0.0)
    trained_shares = runs.label_shares(run) if label_shift else None
    predictor = predict.load(run, **loading)
    rows = rows_of(run, source, split, predictor, text_column, label_column)
    tokens = predictor.tokens(rows.texts)
    for line in (*rows.notes, tokens.cut.line(rows.name)):
        say(line)
    lengths = np.bincount(tokens.text_of, tokens.lengths, minlength=len(rows)).astype(np.int64)
    groups = {by: slices.groups(by, rows, lengths, source, _revision(run, source)) for by in slice_by}
    logits = predictor.predict_logits(tokens)
    probabilities, found = predict.probabilities(logits), None
    if trained_shares is not None:
        probabilities, found = shift.correct(probabilities, trained_shares)
        say(found.line(predictor.labels))
    home, counted = home_of(run, out), _counting(run, out)
    report = judge(
        rows,
        source,
        probabilities,
        predictor.labels,
        home,
        counted=counted,
        trainable_parameters=predictor.settings.trainable_parameters,
        cut=tokens.cut,
        warnings=overlap(run, rows),
        flips=_flips(logits, tokens, run, loading) if predictor.rounded else None,
        shift=found,
        adapter_scale=predictor.adapter_scale,
        abstain_below=abstain_below,
        groups=groups,
        robustness=robustness_of(predictor, rows, probabilities, say) if robustness else (),
        asked={"split": split, "text_column": list(text_column), "label_column": label_column},
    )
    if home and home.config_file.is_file():
        _renew_card(home)
    if counted and counted.config_file.is_file():
        seal_evaluation(counted)
    return report


def judge(
    rows: Split,
    source: str,
    probabilities: np.ndarray,
    labels: Sequence[str],
    home: Run | None,
    *,
    counted: Run | None = None,
    trainable_parameters: int | None,
    cut: Cut,
    warnings: tuple[str, ...] = (),
    flips: Flips | None = None,
    shift: Shift | None = None,
    adapter_scale: float = 1.0,
    abstain_below: float | None = None,
    groups: Mapping[str, Sequence[str]] | None = None,
    robustness: tuple[dict[str, Any], ...] = (),
    asked: Mapping[str, Any] | None = None,
) -> Report:
    """The report on `rows` from their probabilities (N, C), written under `home`'s evaluation/ if there is one.

    `counted` is where a reading of the test split is counted.
    """
    scores = metrics.score(rows.labels, probabilities, labels)
    correct = probabilities.argmax(1) == rows.labels
    report = Report(
        split=rows.name,
        data=source,
        fingerprint=rows.fingerprint,
        scores=scores,
        mistakes=metrics.confident_mistakes(rows.labels, probabilities, rows.texts, labels),
        distribution=metrics.prediction_distribution(probabilities, labels),
        trainable_parameters=trainable_parameters,
        test_reads=count_read(counted, rows, source, scores.accuracy),
        cut=cut,
        warnings=warnings,
        flips=flips,
        shift=shift,
        adapter_scale=adapter_scale,
        abstain=None if abstain_below is None else metrics.abstaining(rows.labels, probabilities, abstain_below),
        slices=tuple(slices.table(by, names, correct) for by, names in (groups or {}).items()),
        robustness=robustness,
        asked=asked,
    )
    if home:
        _write(report, home)
    return report


def robustness_of(
    predictor: Predictor, rows: Split, probabilities_NC: np.ndarray, say: Callable[[str], None]
) -> tuple[dict[str, Any], ...]:
    """For each change of the texts: change, texts (that it alters), accuracy, drop from that of the unchanged texts
    and drop_ci (paired bootstrap), flipped (labels predicted otherwise)."""
    before, found = probabilities_NC.argmax(1), []
    for name, change in perturb.CHANGES.items():
        say(f"texts changed: {name}")
        texts = [change(text) for text in rows.texts]
        after = predictor.predict_logits(texts).argmax(1)
        gain = paired_gain(before == rows.labels, after == rows.labels)
        found.append(
            {
                "change": name,
                "texts": sum(a != b for a, b in zip(texts, rows.texts, strict=True)),
                "accuracy": float((after == rows.labels).mean()),
                "drop": 0.0 - gain.gain,
                "drop_ci": [0.0 - gain.high, 0.0 - gain.low],
                "flipped": int((after != before).sum()),
            }
        )
    return tuple(found)


def _flips(fast_NC: np.ndarray, tokens: Tokens, run: str | Path, loading: dict[str, Any]) -> Flips:
    """How the labels compare with those of the reference: PEFT's own model in fp32."""
    reference = predict.load(run, **(loading | {"precision": "fp32", "precise": True}))
    return flips.find(fast_NC, lambda rows: reference.predict_logits(tokens.take(rows)))


def _write(report: Report, home: Run) -> None:
    """report.json holds one report for each split; pictures carry the split in their names.

    One with a label shift or scaled adapters stands apart: its figures are of another classifier than was saved.
    """
    path = home.evaluation / REPORT
    known = runs.read_json(path) if path.is_file() else {}
    kind = "label_shift" if report.shift else "splits" if report.adapter_scale == 1 else "adapter_scale"
    runs.write_json(path, {"splits": {}} | known | {kind: known.get(kind, {}) | {report.split: report.to_dict()}})
    if kind != "splits":
        return
    with runs.storing(home.evaluation):
        plots.evaluation_plots(report.scores.to_dict(), report.split, home.evaluation)


def _renew_card(home: Run) -> None:
    """The model card's figures are those of report.json."""
    path = home.adapter / "README.md"
    if path.is_file():
        splits = runs.read_json(home.evaluation / REPORT)["splits"]
        runs.write_text(path, card.with_figures(path.read_text(encoding="utf-8"), splits))
        home.seal("adapter/README.md")


def _counting(run: str | Path, out: str | Path) -> Run | None:
    """Where readings of the test split are counted: in the run itself; in `out` for a bare adapter, or a run that only
    may be read."""
    itself = home_of(run, "")
    return itself if itself and os.access(itself.evaluation, os.W_OK) else home_of(run, out)


def count_read(home: Run | None, rows: Split, source: str, accuracy: float) -> int | None:
    """Write down that `home` scored a split named test; how often by now. None for other splits, and without a home."""
    if rows.name != TEST or not home:
        return None
    seen = {"time": time.strftime("%Y-%m-%dT%H:%M:%S"), "data": source, "fingerprint": rows.fingerprint}
    return home.record_test_read(seen | {"accuracy": accuracy})


def seal_evaluation(run: Run) -> None:
    """Take the new files in evaluation/ into the manifest; of one of several seeds, into that of the run around it."""
    run.seal("evaluation/")
    around = Run(run.folder.parent.parent)
    if run.folder.parent.name == "seeds" and (around.folder / runs.MANIFEST).is_file():
        inside = run.folder.relative_to(around.folder).as_posix()
        written = ("evaluation/", "adapter/README.md", runs.MANIFEST)
        around.seal(tuple(f"{inside}/{name}" for name in written))


def home_of(run: str | Path, out: str | Path) -> Run | None:
    """Where the report is written: `out`, or the run itself, or (a bare adapter) nowhere."""
    if out:
        Path(out, "evaluation").mkdir(parents=True, exist_ok=True)
        return Run(Path(out))
    return Run(Path(run)) if (Path(run) / "config.toml").is_file() else None


def rows_of(
    run: str | Path, source: str, split: str, predictor: Predictor, text_column: Sequence[str], label_column: str
) -> Split:
    """The split's rows, read as the run read its own: same columns, labels and carving."""
    settings = predictor.settings
    carving: dict[str, Any] = {}
    if (Path(run) / "config.toml").is_file():
        config = runs.open_run(run).config()
        carving = {"split_seed": config.split_seed, "validation_fraction": config.validation_fraction}
        carving["revision"] = _revision(run, source)
    return data.load_split(
        source,
        split,
        label_names=settings.labels,
        text_column=text_column,
        label_column=label_column,
        usual=(settings.text_columns, settings.label_column),
        **carving,
    )


def _revision(run: str | Path, source: str) -> str:
    """Of data that the run was trained on, the commit of the very rows it was trained beside."""
    if not (Path(run) / "config.toml").is_file():
        return ""
    config = runs.open_run(run).config()
    return config.data_revision if source == config.data else ""


def overlap(run: str | Path, rows: Split) -> tuple[str, ...]:
    """A word of warning when the run was trained or chosen on just these rows."""
    if not (Path(run) / "environment.json").is_file():
        return ()
    known = runs.read_json(Path(run) / "environment.json").get("data", {}).get("fingerprints", {})
    used = {"train": "was trained on", "validation": "was chosen on"}
    summary = Path(run) / "summary.json"
    if summary.is_file() and runs.read_json(summary).get("refit_seconds"):
        used["validation"] += ", and trained on,"
    return tuple(
        f"the run {used[name]} these rows"
        for name, value in known.items()
        if value == rows.fingerprint and name in used
    )
