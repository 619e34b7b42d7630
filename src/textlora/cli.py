"""Words in: parse, call one verb, print, exit code. Results go to stdout, everything else to stderr.

torch is imported only inside a verb, so that `--help` and `plan` answer at once.
"""

from __future__ import annotations

import argparse
import errno
import io
import json
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn, get_args

import textlora
from textlora import config as configs
from textlora import space, study
from textlora.bench.options import Options
from textlora.config import Config
from textlora.errors import BudgetError, DataError, ResourceError, TextLoraError, UsageError, closest
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

INTERRUPTED = 130
STRONGEST = 8  # words that `classify --explain` prints of a text
HEADLINE = "Chip maker lifts its forecast as orders for satellite phones double"
CHECKED = ("text_column", "label_column", "label_names", "validation_fraction", "split_seed", "cleaning")
CHECKED += ("data_revision", "base", "base_weights", "tokenizer", "max_length")  # settings that `data` heeds
LISTS = (tuple[str, ...], tuple[int, ...])
TUNED = tuple(field.name for field in fields(study.Options) if field.name != "heartbeat")
TUNE_CHOICES = {
    "sampler": "how trials are chosen",
    "pruner": "which trials are stopped early",
    "objective": "what is best on validation",
    "against": "a second objective, for a Pareto front without a pruner",
}


class Parser(argparse.ArgumentParser):
    """Raises a UsageError instead of exiting, so that a mistyped flag gets the same treatment as any mistake."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, f"see: {self.prog} --help")


# ------------------------------------------------------------------------------------------------------------ parsing


def parser() -> Parser:
    """All verbs with their flags. Flags of settings are made from `textlora.config.Config`."""
    top = Parser(
        "textlora",
        description="Train, judge and use LoRA text classifiers inside a budget of parameters.",
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"textlora {textlora.__version__}")
    verbs = top.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=Parser)

    _verb(verbs, quickstart, "train, judge and try a classifier on the embedded corpus", _out_flags)
    _verb(verbs, plan, "count trainable parameters before anything is loaded", _plan_flags)
    _verb(verbs, train, "train a classifier", _train_flags)
    _verb(verbs, tune, "search for better settings within the budget", _tune_flags)
    _verb(verbs, evaluate, "score a run on a split", _evaluate_flags)
    _verb(verbs, report, "a run as one HTML page, to look at", _report_flags)
    _verb(verbs, compare, "tell which of several runs differ by more than chance", _compare_flags)
    _verb(verbs, classify, "label texts given on the command line", _classify_flags)
    _verb(verbs, predict, "label every row of a file", _predict_flags)
    _verb(verbs, inspect, "count what is in an adapter folder", _inspect_flags)
    _verb(verbs, data, "look at data before it is trained on: what is in it, what is odd, what is done", _data_flags)
    _verb(verbs, bench, "measure training or prediction beside peers and the machine's limit", _bench_flags)
    _verb(verbs, doctor, "look at this machine: what a run would use, how fast, what stands in its way", _doctor_flags)
    return top


def _verb(verbs: Any, run: Callable[[argparse.Namespace], Result], help: str, flags: Callable[[Parser], None]) -> None:
    one = verbs.add_parser(run.__name__, help=help, description=(run.__doc__ or help), allow_abbrev=False)
    flags(one)
    one.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    flags_of = [flag for action in one._actions for flag in action.option_strings]
    one.set_defaults(run=run, known_flags=[flag for flag in flags_of if "_" not in flag])


def _out_flags(one: Parser) -> None:
    one.add_argument("--out", default="", metavar="DIR", help="run folder [runs/<date>-<base>-<data>]")
    one.add_argument("--overwrite", action="store_true", help="replace an existing run")


def _setting_flags(one: Parser, names: Sequence[str] = ()) -> None:
    """Flags of the settings `names`, or of all."""
    one.add_argument("--recipe", metavar="R", help=f"a shipped recipe or a TOML file [{configs.DEFAULT_RECIPE}]")
    for name, field in configs.setting_fields().items():
        if names and name not in names:
            continue
        spellings = dict.fromkeys([f"--{name.replace('_', '-')}", f"--{name}"])
        help = field.metadata["help"].replace("%", "%%")
        if configs.setting_type(name) is bool:
            one.add_argument(*spellings, dest=name, nargs="?", const="true", metavar="true|false", help=help)
            continue
        metavar = name.split("_")[-1].upper()
        action = "append" if configs.setting_type(name) in LISTS else "store"
        one.add_argument(*spellings, dest=name, action=action, metavar=metavar, help=help)


def _plan_flags(one: Parser) -> None:
    _setting_flags(one)
    one.add_argument("--num-labels", "--num_labels", type=int, metavar="C", help="labels [4]", default=4)


def _train_flags(one: Parser) -> None:
    _setting_flags(one)
    _out_flags(one)
    one.add_argument(
        "--resume", action="store_true", help="go on with the run in --out from its newest good checkpoint"
    )


def _tune_flags(one: Parser) -> None:
    usual = study.Options()
    one.add_argument("--trials", type=int, default=usual.trials, metavar="N", help=f"of the study [{usual.trials}]")
    one.add_argument("--timeout", default="", metavar="T", help="for the trials: seconds, or 90s, 30m, 1.5h [none]")
    one.add_argument(
        "--storage",
        default="",
        metavar="URL",
        help="sqlite:///FILE, postgresql://USER@HOST/DATABASE or journal:FILE; several processes may share it "
        "[study.db in --out]",
    )
    one.add_argument(
        *("--study-name", "--study_name"), default=usual.study_name, metavar="S", help=f"[{usual.study_name}]"
    )
    one.add_argument(
        "--space", default=usual.space, metavar="S", help=f"{', '.join(space.names())} or a TOML file [{usual.space}]"
    )
    for flag, help in TUNE_CHOICES.items():
        known = " or ".join(filter(None, study.FLAGS[flag]))
        now = getattr(usual, flag) or "none"
        one.add_argument(f"--{flag}", default=getattr(usual, flag), metavar="X", help=f"{help}: {known} [{now}]")
    one.add_argument(
        *("--confirm-seeds", "--confirm_seeds"),
        type=int,
        default=usual.confirm_seeds,
        metavar="N",
        help=f"then train the winner and the recipe on so many new seeds and say what survives; 0: don't "
        f"[{usual.confirm_seeds}]",
    )
    _setting_flags(one)
    one.add_argument("--out", default="", metavar="DIR", help="search folder; one that exists is gone on with")
    one.add_argument("--overwrite", action="store_true", help="replace an existing search")


def _run_flags(one: Parser) -> None:
    one.add_argument("model", metavar="RUN", help="run folder or bare adapter folder")
    _loading_flags(one)


def _loading_flags(one: Parser) -> None:
    one.add_argument("--base-weights", "--base_weights", default="", metavar="DIR", help="folder with the base's files")
    one.add_argument("--tokenizer", default="", metavar="DIR", help="folder with tokenizer files [the adapter's]")
    one.add_argument("--allow-other-base", "--allow_other_base", action="store_true", help="accept other base weights")
    one.add_argument("--precise", action="store_true", help="in fp32, on PEFT's own model: slower, the reference")


def _evaluate_flags(one: Parser) -> None:
    _run_flags(one)
    _rows_flags(one)
    one.add_argument("--out", default="", metavar="DIR", help="where the report goes [the run]")
    _shift_flag(one)
    _abstain_flag(one)
    one.add_argument(
        "--slice",
        action="append",
        default=[],
        metavar="BY",
        help="also judge groups of rows: length (quartiles of tokens), agency (AP, Reuters, AFP named in the text), or "
        "a column of the data; may be repeated",
    )
    words = "also judge the rows with their texts changed: typos, case, halves, headlines, an added sentence"
    one.add_argument("--robustness", action="store_true", help=words)


def _abstain_flag(one: Parser) -> None:
    help = "a row whose highest probability is below P gets no label"
    one.add_argument("--abstain-below", "--abstain_below", type=float, metavar="P", help=help)


def _compare_flags(one: Parser) -> None:
    one.add_argument("models", nargs="+", metavar="RUN", help="run folders (of --seeds K: all seeds) or bare adapters")
    _loading_flags(one)
    _rows_flags(one)


def _rows_flags(one: Parser) -> None:
    one.add_argument("--data", required=True, metavar="D", help="a name, a folder or a file")
    one.add_argument("--split", default="", help="train, validation or test [test; a single file needs none]")
    one.add_argument(
        "--text-column", "--text_column", action="append", default=[], metavar="COLUMN", help="[as trained]"
    )
    one.add_argument("--label-column", "--label_column", default="", metavar="COLUMN", help="[as trained]")


def _report_flags(one: Parser) -> None:
    _run_flags(one)
    one.add_argument("--out", default="", metavar="FILE", help="[RUN/evaluation/report.html]")
    one.add_argument("--overwrite", action="store_true", help="replace an existing --out")
    one.add_argument("--data", default="", metavar="D", help="score the run on D first, as `evaluate` does")
    one.add_argument("--split", default="", help="of that: train, validation or test [as `evaluate`]")
    one.add_argument(
        *("--push-to-hub", "--push_to_hub"),
        default="",
        metavar="USER/NAME",
        help="upload adapter, card and report, without texts of the data, to that repository of the hub",
    )
    one.add_argument("--private", action="store_true", help="make that repository a private one")


def _shift_flag(one: Parser) -> None:
    words = "allow for other shares of labels than in training, found from these texts"
    one.add_argument("--label-shift", "--label_shift", action="store_true", help=words)


def _classify_flags(one: Parser) -> None:
    _run_flags(one)
    one.add_argument("texts", nargs="+", metavar="TEXT")
    _abstain_flag(one)
    one.add_argument("--explain", action="store_true", help="the words that moved each decision, strongest first")


def _predict_flags(one: Parser) -> None:
    _run_flags(one)
    one.add_argument(
        "--input", required=True, metavar="FILE", help="CSV, TSV, JSONL, Parquet, a pickle, or TXT with a text a line"
    )
    one.add_argument("--output", default="", metavar="FILE", help="[inference_output.csv]")
    one.add_argument(
        "--format", default="", metavar="F", help="kaggle (ID,Label), csv, jsonl, parquet [by the file's ending]"
    )
    one.add_argument(
        "--text-column", "--text_column", action="append", default=[], metavar="COLUMN", help="[as trained]"
    )
    one.add_argument(
        "--sample-submission",
        "--sample_submission",
        default="",
        metavar="FILE",
        help="a competition's sample: its header, ids, order and way of writing labels are checked and taken over",
    )
    _abstain_flag(one)
    one.add_argument("--overwrite", action="store_true", help="replace an existing output")
    _shift_flag(one)


def _inspect_flags(one: Parser) -> None:
    one.add_argument("folder", metavar="DIR", help="a run folder or any PEFT LoRA adapter folder")


def _data_flags(one: Parser) -> None:
    words = "check: what train would say of D, nothing is trained or written; suspects: rows whose label looks wrong"
    one.add_argument("action", choices=["check", "suspects"], help=words)
    one.add_argument("source", metavar="D", help="a name, a folder or a file, as train's --data")
    one.add_argument("--out", default="", metavar="FILE", help="suspects as CSV: file, row (from 0), labels, score")
    one.add_argument("--overwrite", action="store_true", help="replace an existing --out")
    one.add_argument("--folds", type=int, metavar="N", help="suspects: no row is judged by a model of its fold [5]")
    _setting_flags(one, (*CHECKED, "label_shares"))


def _doctor_flags(one: Parser) -> None:
    one.add_argument(
        "--seconds", type=float, default=4.0, metavar="S", help="of training steps to measure, 0 for none [4]"
    )


def _bench_flags(one: Parser) -> None:
    usual = Options()
    one.add_argument("what", choices=["train", "predict"])
    one.add_argument("--peers", action="store_true", help="the peers too; else ours and the limit")
    one.add_argument("--base", default=usual.base, metavar="B", help=f"as train's [{usual.base}]")
    one.add_argument("--base-weights", "--base_weights", default="", metavar="DIR", help="a folder, or random:SEED")
    one.add_argument("--tokenizer", default="", metavar="DIR", help="tokenizer files [the base's; random: minilm's]")
    one.add_argument("--data", default=usual.data, metavar="D", help=f"as train's [{usual.data}]")
    one.add_argument("--rows", type=int, default=usual.rows, metavar="N", help=f"at most so many [{usual.rows}]")
    one.add_argument("--rounds", type=int, default=usual.rounds, metavar="N", help=f"of each side [{usual.rounds}]")
    one.add_argument("--seconds", type=float, default=usual.seconds, metavar="S", help=f"a round [{usual.seconds:g}]")
    one.add_argument("--lora-r", "--lora_r", type=int, default=usual.lora_r, metavar="R", help=f"rank [{usual.lora_r}]")
    one.add_argument(
        *("--target-modules", "--target_modules"),
        default=usual.target_modules,
        metavar="A,B",
        help=f"modules with adapters, query or value among them [{usual.target_modules}]",
    )
    one.add_argument("--threads", type=int, default=0, metavar="N", help="of each side [torch's choice]")
    one.add_argument("--isa", default="", metavar="I", help="avx512 or avx2: no wider instructions [all there are]")


def _config(args: argparse.Namespace, recipe: str = configs.DEFAULT_RECIPE) -> Config:
    """The recipe with the flags that were given."""
    given = {name: getattr(args, name, None) for name in configs.setting_fields()}
    overrides = {name: _value(name, text) for name, text in given.items() if text is not None}
    return configs.load(args.recipe or recipe, overrides)


def _value(name: str, text: Any) -> Any:
    """A flag's text as its setting's type: tables are name=value pairs, lists comma-separated or the flag repeated.

    A column's name may hold a comma, so `text_column` is only repeated.
    """
    wanted = configs.setting_type(name)
    if name == "text_column":
        return text
    try:
        if wanted == dict[str, int]:
            return {key: int(value) for key, value in (pair.split("=", 1) for pair in text.split(","))}
        if wanted in LISTS:
            return [get_args(wanted)[0](item.strip()) for item in ",".join(text).split(",") if item.strip()]
        if wanted == int | str:
            return text if text == configs.MAX else int(text)
        if wanted is bool:
            return {"true": True, "false": False}[text.lower()]
        return wanted(text)
    except (ValueError, KeyError):
        kinds = {int: "a whole number", float: "a number", tuple[int, ...]: "whole numbers with commas"}
        kinds[bool] = "true or false"
        expected = kinds.get(
            wanted, "pairs like query=8,value=4" if wanted == dict[str, int] else "a whole number or max"
        )
        raise UsageError(f"--{name.replace('_', '-')} takes {expected}, got {text!r}", "correct the flag") from None


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command in `argv`. Raises UsageError; for a misspelt flag with the closest known one."""
    args, surplus = parser().parse_known_args(argv)
    if not surplus:
        return args
    flag = surplus[0].split("=")[0]
    if flag.startswith("--"):
        raise UsageError(f"{args.verb} has no flag {flag}", closest(flag.replace("_", "-"), args.known_flags))
    raise UsageError(f"{args.verb} doesn't take {surplus[0]!r}", f"see: textlora {args.verb} --help")


# -------------------------------------------------------------------------------------------------------------- verbs


def quickstart(args: argparse.Namespace) -> Result:
    """Train the default on the embedded corpus, judge it on its test rows, classify a headline."""
    from textlora import predict
    from textlora.evaluate import evaluate as judge
    from textlora.train import train as fit

    versions = _versions()
    python, torch = versions["python"], versions["torch"]
    _say(f"textlora {textlora.__version__}, Python {python}, torch {torch}, {os.cpu_count()} CPUs")
    run = fit(configs.load("quickstart"), out=args.out, overwrite=args.overwrite, say=_say)
    report = judge(run.folder, "mini-news", "test", say=_say).to_dict()
    answer = predict.load(run.folder).classify([HEADLINE])[0]
    low, high = report["accuracy_ci"]
    accuracy = f"{report['accuracy']:.3f} ({low:.3f} to {high:.3f} at 95 %"
    _out(args, f"test accuracy {accuracy}, {report['n']} rows, read {times(report['test_reads'])})")
    _out(args, f'"{HEADLINE}" -> {answer["label"]} ({answer["probability"]:.0%})')
    _out(args, f"written to {run.folder}: adapter/ (the classifier), evaluation/ (figures, pictures), summary.json")
    _out(args, f'try:  textlora classify {run.folder} "your text"')
    _out(args, f"      textlora report {run.folder}")
    _out(args, "      textlora train --data YOUR.csv --out runs/mine")
    return {"run": str(run.folder), "summary": run.summary(), "test": report, "classified": answer}


def _versions() -> dict[str, str]:
    from textlora import runs

    return runs.versions()


def plan(args: argparse.Namespace) -> Result:
    """Count the trainable parameters of a recipe or of flags, from shapes alone.

    For a base without a recipe or a flag that makes a plan: good plans for the budget, best first.
    """
    from textlora import bases, budget, plans
    from textlora.tables import good_plans_table

    config = _config(args)
    base = bases.find(config.base, config.base_revision)
    shapes = bases.shapes(base, config.base_weights)
    if args.base is None or args.recipe or any(getattr(args, name) is not None for name in plans.SPEC):
        result = budget.plan(config, shapes, args.num_labels, base.hub_id).to_dict()
        _out(args, plan_table(result))
        return result
    good = plans.good_plans(config, shapes, args.num_labels, base.hub_id)
    result = good[0].plan.to_dict() | {"plans": [one.to_dict() for one in good], "rule": plans.RULE}
    _out(args, good_plans_table(result))
    return result


def train(args: argparse.Namespace) -> Result:
    """Train a classifier: labelled texts in, a run folder out."""
    from textlora.train import train as fit

    config = _resumed(args) if args.resume else _config(args)
    if config.base_weights.startswith("random:"):
        _say("WARNING: random base weights: right for counts, shapes and speed, worthless as a classifier")
    run = fit(config, out=args.out, overwrite=args.overwrite, resume=args.resume, say=_say, began=args.began)
    _out(args, str(run.folder))
    return {"run": str(run.folder), "summary": run.summary()}


def tune(args: argparse.Namespace) -> Result:
    """Search for settings that do better within the budget: trials on one half of validation, the gain told on the
    other. Test rows aren't read."""
    from textlora.search import tune as search

    options = study.Options(**{key: getattr(args, key) for key in TUNED})
    recipe = space.recipe_of(options.space) or configs.DEFAULT_RECIPE
    config = _config(args, recipe)
    result = search(config, options, out=args.out, overwrite=args.overwrite, say=_say, began=args.began)
    _out(args, search_table(result))
    return result


def _resumed(args: argparse.Namespace) -> Config:
    """The settings of the run to go on with; flags must not say otherwise."""
    from textlora import runs

    if not args.out:
        raise UsageError("--resume needs the run to go on with", "name it with --out RUN")
    kept = runs.open_run(args.out).config()
    given = {name: getattr(args, name) for name in configs.setting_fields() if getattr(args, name) is not None}
    other = [
        name
        for name, text in given.items()
        if configs.from_dict({name: _value(name, text)}).to_dict()[name] != kept.to_dict()[name]
    ]
    if other or args.recipe:
        flag = f"--{other[0].replace('_', '-')}" if other else "--recipe"
        raise UsageError(
            f"--resume keeps the run's own settings, {flag} says otherwise", "leave it out, or start a new run"
        )
    return kept


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
        say=_say,
        **_loading(args),
    ).to_dict()
    for warning in report["warnings"]:
        _say(f"WARNING: {warning}")
    _out(args, report_table(report))
    return report


def report(args: argparse.Namespace) -> Result:
    """Write a run as one HTML page: verdict, figures, pictures, mistakes and their words, how to repeat it."""
    from textlora.evaluate import evaluate as judge
    from textlora.report import write_report

    if args.data:
        judge(args.model, args.data, _split(args), say=_say, **_loading(args))
    path = write_report(args.model, args.out, overwrite=args.overwrite, say=_say, **_loading(args))
    _out(args, str(path))
    url = _published(args) if args.push_to_hub else None
    return {"run": args.model, "report": str(path), "bytes": path.stat().st_size, "url": url}


def _published(args: argparse.Namespace) -> str:
    """The page of the repository that the run was uploaded to."""
    from textlora.publish import publish

    url = publish(args.model, args.push_to_hub, private=args.private)
    _out(args, url)
    return url


def _split(args: argparse.Namespace) -> str:
    return args.split or ("" if Path(args.data).is_file() else "test")


def compare(args: argparse.Namespace) -> Result:
    """Score several runs on the same rows and tell which differ by more than chance.

    Runs whose settings differ in the seed alone are one thing, judged by all of its seeds.
    """
    from textlora.compare import compare as comparing

    columns = {"text_column": args.text_column, "label_column": args.label_column}
    result = comparing(args.models, args.data, _split(args), **columns, say=_say, **_loading(args))
    for warning in result["warnings"]:
        _say(f"WARNING: {warning}")
    _out(args, compare_table(result))
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
        _out(args, f"{result['label']}\t{result['probability']:.3f}\t{result['text']}")
        for word in sorted(result.get("words", []), key=lambda word: -abs(word["drop"]))[:STRONGEST]:
            _out(args, f"  {word['drop']:+6.2f}  {word['text']}  ({word['without']:.3f} without)")
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
    from textlora import runs

    predictor = predicting.load(args.model, **_loading(args))
    usual = predictor.settings.text_columns
    for note in predicting.data.texts_notes(args.input, text_column=args.text_column, usual=usual):
        _say(note)
    output = args.output or predicting.DEFAULT_OUTPUT
    rows = predicting.predict_file(
        predictor,
        args.input,
        output,
        format=args.format,
        text_column=args.text_column,
        sample_submission=args.sample_submission,
        trained_shares=runs.label_shares(args.model) if args.label_shift else None,
        abstain_below=args.abstain_below or 0.0,
        overwrite=args.overwrite,
        say=_say,
    )
    _out(args, f"{rows} rows -> {output}")
    return {"rows": rows, "output": output}


def inspect(args: argparse.Namespace) -> Result:
    """Count what is in an adapter folder, from its config and the header of its safetensors file."""
    from textlora.inspect import inspect_adapter

    found = inspect_adapter(Path(args.folder))
    shown = {key: value for key, value in found.items() if key not in ("modules", "neighbours")}
    _out(args, "\n".join(f"{key:<18}{value}" for key, value in shown.items()))
    for module in found["modules"]:
        _out(args, f"  r {module['r']:<4}{module['parameters']:>9,}  {module['name']}")
    return found


def data(args: argparse.Namespace) -> Result:
    """Look at data as train would: sizes, labels, lengths, repeats, leaks, what is odd, and what would be done.

    Or find the rows whose label looks wrong: two quick models, on TF-IDF and on the frozen base, are trained on folds.
    """
    config = _config(args)
    return _suspects(args, config) if args.action == "suspects" else _checked(args, config)


def _suspects(args: argparse.Namespace, config: Config) -> Result:
    from textlora import suspects

    folds = suspects.FOLDS if args.folds is None else args.folds
    found = suspects.find(args.source, config, folds=folds, out=args.out, overwrite=args.overwrite, say=_say)
    result = found.to_dict() | {"out": args.out}
    _out(args, suspects_table(result))
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
    result = checked.to_dict() | _fit_to(checked, config)
    _out(args, check_table(result))
    if not checked.trainable:
        stops = sum(finding.stops for finding in checked.findings)
        things = "1 thing stands" if stops == 1 else f"{stops} things stand"
        raise DataError(f"{things} in the way of training on {args.source}", "mend what is marked !", details=result)
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


def _fit_to(checked: Any, config: Config) -> Result:
    """What the recipe would choose for these rows, and how many texts it would cut."""
    if checked.tokens is None or not checked.trainable:
        return {"max_length": config.max_length, "cut": None, "fitted": []}
    from textlora import bases, budget
    from textlora.fitting import Facts, fitted

    base, num_labels = bases.find(config.base), len(checked.train.label_names)
    shapes = bases.shapes(base, config.base_weights)
    try:
        bag = budget.plan(config, shapes, num_labels, base.hub_id).bag_of_tokens > 0
    except BudgetError as error:
        return {"max_length": config.max_length, "cut": None, "fitted": [f"{error.message}: {error.fix}"]}
    counts = tuple(int((checked.train.labels == i).sum()) for i in range(num_labels))
    config, lines = fitted(config, Facts(counts, checked.tokens, checked.validation, shapes.longest_text, bag))
    cut = int((checked.tokens > config.max_length).sum())
    return {"max_length": config.max_length, "cut": cut, "fitted": list(lines)}


def doctor(args: argparse.Namespace) -> Result:
    """Say what this machine brings to a run, what would be chosen and why, and measure a few seconds of training."""
    from textlora.doctor import examine

    if not 0 <= args.seconds <= 600:
        raise UsageError(f"--seconds must be from 0 to 600, got {args.seconds:g}", "4 is enough")
    facts = examine(args.seconds)
    _out(args, doctor_table(facts))
    return facts


def bench(args: argparse.Namespace) -> Result:
    """Measure ours beside Trainer + PEFT (or other inference) and the machine's limit, in alternating rounds."""
    from textlora.bench import bench as measure

    options = Options(**{field.name: getattr(args, field.name) for field in fields(Options)})
    result = measure(args.what, options, _say)
    _out(args, bench_table(result))
    return result


def _loading(args: argparse.Namespace) -> dict[str, Any]:
    return {key: getattr(args, key) for key in ("base_weights", "tokenizer", "allow_other_base", "precise")}


# ------------------------------------------------------------------------------------------------- printing, exit codes


def _say(line: str) -> None:
    """To people, beside the result."""
    print(line, file=sys.stderr, flush=True)


def _out(args: argparse.Namespace, text: str) -> None:
    if not args.json:
        print(text, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code (docs/map.md lists them)."""
    argv = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a console that lacks a letter shows its code
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _run(argv, as_json="--json" in argv)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read our stdout has left; devnull in its place keeps Python's exit quiet
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ResourceError.code
    return code


def _run(argv: Sequence[str], as_json: bool) -> int:
    began = time.monotonic()  # a time limit counts from here: loading torch takes seconds
    try:
        args = _parse(argv)
        args.began = began
        _quiet()
        result = args.run(args)
        if as_json:
            print(json.dumps(result, allow_nan=False))
    except KeyboardInterrupt as stop:
        return _fail(INTERRUPTED, "interrupted", str(stop) or "interrupted", "", as_json)
    except TextLoraError as error:
        return _fail(error.code, error.kind, error.message, error.fix, as_json, error.details)
    except BrokenPipeError:
        raise
    except Exception as error:
        return _unforeseen(error, as_json)
    return 0


def _fail(code: int, kind: str, message: str, fix: str, as_json: bool, details: Result | None = None) -> int:
    if as_json:
        error = {"code": code, "kind": kind, "message": message, "fix": fix}
        print(json.dumps({"error": error} | (details or {})), flush=True)
    _say(f"textlora: {message}" + (f"\n  {fix}" if fix else ""))
    return code


def _unforeseen(error: Exception, as_json: bool) -> int:
    """What no module foresaw: the machine's refusals as a ResourceError, the rest as our fault, with a traceback."""
    resource = _resource(error)
    if resource:
        return _fail(resource.code, resource.kind, resource.message, resource.fix, as_json)
    traceback.print_exception(error)
    return _fail(TextLoraError.code, "internal", f"{type(error).__name__}: {error}", "please report this", as_json)


def _resource(error: Exception) -> ResourceError | None:
    """Memory, disk and files that can't be used, wherever that showed; None for anything else."""
    text = str(error)
    if isinstance(error, MemoryError) or "out of memory" in text.lower() or "can't allocate memory" in text.lower():
        return ResourceError("out of memory", "use smaller batches: --batch-tokens, --max-length")
    if getattr(error, "errno", None) == errno.ENOSPC or "No space left" in text:
        return ResourceError("the disk is full", "free some space and repeat")
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        return ResourceError(f"{place}{error.strerror or text}", "check the path, its permissions and the connection")
    return None


def _quiet() -> None:
    """Libraries' own chatter off: what a user must know, textlora says."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("DATASETS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module=r"(torch|transformers|peft|accelerate)\b")
