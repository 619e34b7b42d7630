"""What each verb does with its parsed flags; its docstring is its help, its result what --json prints.

torch is imported only inside a verb, so that `--help` and `plan` answer at once.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import textlora
from textlora import config as configs
from textlora import runs, space, study
from textlora.bench.options import Options
from textlora.config import Config
from textlora.errors import BudgetError, DataError, UsageError
from textlora.flags import resumed_settings, settings
from textlora.printing import out, say
from textlora.tables import (
    Result,
    bench_table,
    check_table,
    compare_table,
    doctor_table,
    plan_table,
    report_table,
    search_table,
    suspects_table,
    times,
)

LOADING = ("base_weights", "tokenizer", "allow_other_base", "precise", "adapter_scale")
USUAL_LABELS = 4  # that `plan` counts for, if nothing is said: AG News'
STRONGEST = 8  # words that `classify --explain` prints of a text
HEADLINE = "Chip maker lifts its forecast as orders for satellite phones double"
TUNED = tuple(field.name for field in fields(study.Options) if field.name != "heartbeat")


def quickstart(args: argparse.Namespace) -> Result:
    """Train the default on the embedded corpus, judge it on its test rows, classify a headline."""
    from textlora import predict
    from textlora.evaluate import evaluate as judge
    from textlora.train import train as fit

    versions = runs.versions()
    python, torch = versions["python"], versions["torch"]
    say(f"textlora {textlora.__version__}, Python {python}, torch {torch}, {os.cpu_count()} CPUs")
    run = fit(configs.load("quickstart"), out=args.out, overwrite=args.overwrite, say=say)
    report = judge(run.folder, "mini-news", "test", say=say).to_dict()
    answer = predict.load(run.folder).classify([HEADLINE])[0]
    low, high = report["accuracy_ci"]
    accuracy = f"{report['accuracy']:.3f} ({low:.3f} to {high:.3f} at 95 %"
    out(args, f"test accuracy {accuracy}, {report['n']} rows, read {times(report['test_reads'])})")
    out(args, f'"{HEADLINE}" -> {answer["label"]} ({answer["probability"]:.0%})')
    out(args, f"written to {run.folder}: adapter/ (the classifier), evaluation/ (figures, pictures), summary.json")
    out(args, f'try:  textlora classify {run.folder} "your text"')
    out(args, f"      textlora report {run.folder}")
    out(args, "      textlora train --data YOUR.csv --out runs/mine")
    return {"run": str(run.folder), "summary": run.summary(), "test": report, "classified": answer}


def plan(args: argparse.Namespace) -> Result:
    """Count the trainable parameters of a recipe or of flags, from shapes alone.

    For a base without a recipe or a flag that makes a plan: good plans for the budget, best first.
    """
    from textlora import bases, budget, plans
    from textlora.fitting import MOST_REMEMBERED, for_rows
    from textlora.tables import good_plans_table

    config = settings(args)
    base = bases.find(config.base, config.base_revision)
    shapes, num_labels = bases.shapes(base, config.base_weights), _num_labels(args, config)
    if args.base is None or args.recipe or any(getattr(args, name) is not None for name in plans.SPEC):
        enough = for_rows(config, MOST_REMEMBERED)  # rows for all that the recipe would remember
        result = budget.plan(enough, shapes, num_labels, base.hub_id).to_dict()
        out(args, plan_table(result))
        return result
    good = plans.good_plans(config, shapes, num_labels, base.hub_id)
    result = good[0].plan.to_dict() | {"plans": [one.to_dict() for one in good], "rule": plans.RULE}
    out(args, good_plans_table(result))
    return result


def _num_labels(args: argparse.Namespace, config: Config) -> int:
    """How many labels to plan for: as told, those of the data, or four, as AG News has. Raises UsageError for two
    different numbers."""
    told, named = args.num_labels, len(config.label_names)
    if told and named and told != named:
        raise UsageError(f"--num-labels {told}, but --label-names are {named}", "leave out --num-labels")
    if told is None and not named and config.data:
        from textlora.data import load

        columns = {"text_column": config.text_column, "label_column": config.label_column}
        named = len(load(config.data, **columns, revision=config.data_revision).label_names)
    return told if told is not None else named or USUAL_LABELS


def train(args: argparse.Namespace) -> Result:
    """Train a classifier: labelled texts in, a run folder out."""
    from textlora.train import train as fit

    config = resumed_settings(args) if args.resume else settings(args)
    if config.base_weights.startswith("random:"):
        say("WARNING: random base weights: right for counts, shapes and speed, worthless as a classifier")
    run = fit(config, out=args.out, overwrite=args.overwrite, resume=args.resume, say=say, began=args.began)
    out(args, str(run.folder))
    return {"run": str(run.folder), "summary": run.summary()}


def tune(args: argparse.Namespace) -> Result:
    """Search for settings that do better within the budget: trials on one half of validation, the gain told on the
    other. Test rows aren't read."""
    from textlora.search import tune as search

    options = study.Options(**{key: getattr(args, key) for key in TUNED})
    recipe = space.recipe_of(options.space) or configs.DEFAULT_RECIPE
    config = settings(args, recipe)
    result = search(config, options, out=args.out, overwrite=args.overwrite, say=say, began=args.began)
    out(args, search_table(result))
    return result


def evaluate(args: argparse.Namespace) -> Result:
    """Score a run on one split and write the report beside it."""
    from textlora.evaluate import evaluate as judge

    report = judge(
        args.model,
        args.data,
        _split(args),
        out=args.out,
        text_column=args.text_column,
        label_column=args.label_column,
        label_shift=args.label_shift,
        abstain_below=args.abstain_below,
        slice_by=args.slice,
        robustness=args.robustness,
        say=say,
        **_loading(args),
    ).to_dict()
    for warning in report["warnings"]:
        say(f"WARNING: {warning}")
    out(args, report_table(report))
    return report


def report(args: argparse.Namespace) -> Result:
    """Write a run as one HTML page: verdict, figures, pictures, mistakes and their words, how to repeat it."""
    from textlora import publish
    from textlora import report as reporting
    from textlora.evaluate import evaluate as judge

    _check_report_flags(args)
    reporting.check(args.model, args.out, overwrite=args.overwrite)
    if args.push_to_hub:
        publish.check(args.model, args.push_to_hub, private=args.private)
    split, url = "", None
    if args.data:
        columns = {"text_column": args.text_column, "label_column": args.label_column}
        split = judge(args.model, args.data, _split(args), **columns, say=say, **_loading(args)).split
    path = reporting.write_report(
        args.model, args.out, split=split, overwrite=args.overwrite, say=say, **_loading(args)
    )
    out(args, str(path))
    if args.push_to_hub:
        url = publish.publish(args.model, args.push_to_hub, split=split, private=args.private, say=say)
        out(args, url)
    return {"run": args.model, "report": str(path), "bytes": path.stat().st_size, "url": url}


def _check_report_flags(args: argparse.Namespace) -> None:
    """Raises UsageError for a flag that would be passed over without another."""
    for name in ("split", "text_column", "label_column"):
        if getattr(args, name) and not args.data:
            raise UsageError(f"--{name.replace('_', '-')} is of --data, which isn't given", "name rows with --data D")
    if args.private and not args.push_to_hub:
        raise UsageError("--private is of --push-to-hub, which isn't given", "name a repository with it")


def _split(args: argparse.Namespace) -> str:
    return args.split or ("" if Path(args.data).is_file() else "test")


def compare(args: argparse.Namespace) -> Result:
    """Score several runs on the same rows and tell which differ by more than chance.

    Runs whose settings differ in the seed alone are one thing, judged by all of its seeds.
    """
    from textlora.compare import compare as comparing

    columns = {"text_column": args.text_column, "label_column": args.label_column}
    result = comparing(args.models, args.data, _split(args), **columns, say=say, **_loading(args))
    for warning in result["warnings"]:
        say(f"WARNING: {warning}")
    out(args, compare_table(result))
    return result


def classify(args: argparse.Namespace) -> Result:
    """Label texts given on the command line."""
    from textlora import predict as predicting

    _check_texts(args.texts)
    predictor = predicting.load(args.model, **_loading(args))
    results = predictor.classify(args.texts, abstain_below=args.abstain_below or 0.0)
    words = _explained(predictor, args.texts) if args.explain else [{}] * len(results)
    for result, more in zip(results, words, strict=True):
        result |= more
        out(args, f"{result['label']}\t{result['probability']:.3f}\t{result['text']}")
        for word in sorted(result.get("words", []), key=lambda word: -abs(word["drop"]))[:STRONGEST]:
            out(args, f"  {word['drop']:+6.2f}  {word['text']}  ({word['without']:.3f} without)")
    return {"results": results}


def _explained(predictor: Any, texts: Sequence[str]) -> list[Result]:
    """What each word of each text does to its label: log-odds lost by leaving it out, and the probability then."""
    from textlora.explain import explain

    return [{"words": found.to_dict()["words"]} for found in explain(predictor, texts)]


def _check_texts(texts: Sequence[str]) -> None:
    """Texts from the command line, held to what data files are held to."""
    for number, text in enumerate(texts, 1):
        if not text.strip():
            raise DataError(f"text {number} is empty", "give a text to classify")
        if any("\ud800" <= c <= "\udfff" for c in text):  # how Python hands on bytes that it can't decode
            raise DataError(f"text {number} is not UTF-8", "give UTF-8, or put it in a file and use `textlora predict`")


def predict(args: argparse.Namespace) -> Result:
    """Label every row of a file, in order."""
    from textlora import predict as predicting

    trained_shares = runs.label_shares(args.model) if args.label_shift else None
    predictor = predicting.load(args.model, **_loading(args))
    usual = predictor.settings.text_columns
    for note in predicting.data.texts_notes(args.input, text_column=args.text_column, usual=usual):
        say(note)
    output = args.output or predicting.DEFAULT_OUTPUT
    rows = predicting.predict_file(
        predictor,
        args.input,
        output,
        format=args.format,
        text_column=args.text_column,
        sample_submission=args.sample_submission,
        trained_shares=trained_shares,
        abstain_below=args.abstain_below or 0.0,
        overwrite=args.overwrite,
        say=say,
    )
    out(args, f"{rows} rows -> {output}")
    return {"rows": rows, "output": output}


def inspect(args: argparse.Namespace) -> Result:
    """Count what is in an adapter folder, from its config and the header of its safetensors file."""
    from textlora.inspect import inspect_adapter

    found = inspect_adapter(Path(args.folder))
    shown = {key: value for key, value in found.items() if key not in ("modules", "neighbours")}
    out(args, "\n".join(f"{key:<18}{value}" for key, value in shown.items()))
    for module in found["modules"]:
        out(args, f"  r {module['r']:<4}{module['parameters']:>9,}  {module['name']}")
    return found


def data(args: argparse.Namespace) -> Result:
    """Look at data as train would: sizes, labels, lengths, repeats, leaks, what is odd, and what would be done.

    Or find the rows whose label looks wrong: two quick models, on TF-IDF and on the frozen base, are trained on folds.
    """
    config = settings(args)
    return _suspects(args, config) if args.action == "suspects" else _checked(args, config)


def _suspects(args: argparse.Namespace, config: Config) -> Result:
    from textlora import suspects

    if args.split_seed is not None or args.validation_fraction is not None:
        fix = "leave out --split-seed and --validation-fraction"
        raise UsageError("data suspects looks at all rows: no validation is carved", fix)
    folds = suspects.FOLDS if args.folds is None else args.folds
    found = suspects.find(args.source, config, folds=folds, out=args.out, overwrite=args.overwrite, say=say)
    result = found.to_dict() | {"out": args.out}
    out(args, suspects_table(result))
    return result


def _checked(args: argparse.Namespace, config: Config) -> Result:
    from textlora.data.check import check

    if args.out or args.folds is not None or args.overwrite or config.label_shares:
        fix = "leave out --out, --overwrite, --folds and --label-shares"
        raise UsageError("data check writes nothing, has no folds and predicts no label", fix)
    checked = check(
        args.source,
        text_column=config.text_column,
        label_column=config.label_column,
        label_names=config.label_names,
        revision=config.data_revision,
        split_seed=config.split_seed,
        validation_fraction=config.validation_fraction,
        count_tokens=_token_counter(config),
    )
    fit, over = _fit_to(checked, config)
    result = checked.to_dict() | fit
    out(args, check_table(result))
    if not checked.trainable:
        stops = sum(finding.stops for finding in checked.findings)
        things = "1 thing stands" if stops == 1 else f"{stops} things stand"
        raise DataError(f"{things} in the way of training on {args.source}", "mend what is marked !", details=result)
    if over:
        raise BudgetError(over.message, over.fix, details=result)
    return result


def _token_counter(config: Config) -> Callable[[list[str]], Any] | None:
    """A function from texts to their numbers of tokens if the base's tokenizer is on this machine."""
    import numpy as np

    from textlora import bases
    from textlora.clean import clean

    weights = "" if config.base_weights.startswith("random:") else config.base_weights
    folder = Path(config.tokenizer or weights) if config.tokenizer or weights else bases.here(bases.find(config.base))
    file = folder / "tokenizer.json" if folder else None
    if file is None or not file.is_file():
        return None
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_padding()
    tokenizer.no_truncation()

    def count(texts: list[str]) -> np.ndarray:
        cleaned = [clean(text, config.cleaning) for text in texts]
        parts = (tokenizer.encode_batch(cleaned[start : start + 8192]) for start in range(0, len(cleaned), 8192))
        return np.array([len(row.ids) for part in parts for row in part])

    return count


def _fit_to(checked: Any, config: Config) -> tuple[Result, BudgetError | None]:
    """What the recipe would choose for these rows, and how many texts it would cut; or why it can't."""
    nothing = {"max_length": config.max_length, "cut": None, "fitted": []}
    if checked.tokens is None or not checked.trainable:
        return nothing, None
    from textlora import bases, budget
    from textlora.fitting import Facts, fitted, for_rows

    base, num_labels = bases.find(config.base), len(checked.train.label_names)
    shapes = bases.shapes(base, config.base_weights)
    try:
        rows = len(checked.train)
        plan = budget.plan(for_rows(config, rows), shapes, num_labels, base.hub_id)
    except BudgetError as error:
        return nothing | {"trainable": False}, error
    counts = tuple(int((checked.train.labels == i).sum()) for i in range(num_labels))
    extras = (plan.bag_of_tokens > 0, plan.memory_rows)
    config, lines = fitted(config, Facts(counts, checked.tokens, checked.validation, shapes.longest_text, *extras))
    cut = int((checked.tokens > config.max_length).sum())
    return {"max_length": config.max_length, "cut": cut, "fitted": list(lines)}, None


def doctor(args: argparse.Namespace) -> Result:
    """Say what this machine brings to a run, what would be chosen and why, and measure a few seconds of training."""
    from textlora.doctor import examine

    if not 0 <= args.seconds <= 600:
        raise UsageError(f"--seconds must be from 0 to 600, got {args.seconds:g}", "4 is enough")
    facts = examine(args.seconds)
    out(args, doctor_table(facts))
    return facts


def bench(args: argparse.Namespace) -> Result:
    """Measure ours beside Trainer + PEFT (or other inference) and the machine's limit, in alternating rounds."""
    from textlora.bench import bench as measure

    options = Options(**{field.name: getattr(args, field.name) for field in fields(Options)})
    result = measure(args.what, options, say)
    out(args, bench_table(result))
    return result


def _loading(args: argparse.Namespace) -> dict[str, Any]:
    """The flags that `predict.load` heeds, of those that the verb has."""
    return {key: getattr(args, key) for key in LOADING if key in args}
