"""Words in: what each verb takes, and flags to settings. Flags of settings are made from `textlora.config.Config`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, get_args

from textlora import config as configs
from textlora import runs, space, study
from textlora.bench.options import Options
from textlora.config import Config
from textlora.errors import UsageError

CHECKED = ("text_column", "label_column", "label_names", "validation_fraction", "split_seed", "cleaning")
CHECKED += ("data_revision", "base", "base_weights", "tokenizer", "max_length")  # settings that `data` heeds
LISTS = (tuple[str, ...], tuple[int, ...])
TUNE_CHOICES = {
    "sampler": "how trials are chosen",
    "pruner": "which trials are stopped early",
    "objective": "what is best on validation",
    "against": "a second objective, for a Pareto front without a pruner",
}
UNSAID = {"pruner": "the space's own or hyperband"}  # what a flag that isn't given stands for


class Parser(argparse.ArgumentParser):
    """Raises a UsageError instead of exiting, so that a mistyped flag gets the same treatment as any mistake."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, f"see: {self.prog} --help")


# ---------------------------------------------------------------------------------------------------------------- flags


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
    one.add_argument(
        "--num-labels", "--num_labels", type=int, metavar="C", help="labels [those of --label-names or --data, else 4]"
    )


def _train_flags(one: Parser) -> None:
    _setting_flags(one)
    _out_flags(one)
    one.add_argument(
        "--resume", action="store_true", help="go on with the run in --out from its newest good checkpoint"
    )


def _tune_flags(one: Parser) -> None:
    usual = study.Options()
    one.add_argument("--trials", type=int, default=usual.trials, metavar="N", help=f"of the study [{usual.trials}]")
    one.add_argument(
        "--timeout", default="", metavar="T", help="for trials and confirmation: seconds, or 90s, 30m, 1.5h [none]"
    )
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
        now = getattr(usual, flag) or UNSAID.get(flag, "none")
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
    _scale_flag(one)
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


def _scale_flag(one: Parser) -> None:
    help = "multiply what the adapters add to the base: 0 is the base under the trained head, 2 the most [1]"
    one.add_argument("--adapter-scale", "--adapter_scale", type=float, default=1.0, metavar="S", help=help)


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
    _columns_flags(one)


def _columns_flags(one: Parser) -> None:
    one.add_argument(
        "--text-column", "--text_column", action="append", default=[], metavar="COLUMN", help="[as trained]"
    )
    one.add_argument("--label-column", "--label_column", default="", metavar="COLUMN", help="[as trained]")


def _report_flags(one: Parser) -> None:
    one.add_argument("model", metavar="RUN", help="run folder")
    _loading_flags(one)
    one.add_argument("--out", default="", metavar="FILE", help="[RUN/evaluation/report.html]")
    one.add_argument("--overwrite", action="store_true", help="replace an existing --out")
    one.add_argument("--data", default="", metavar="D", help="score the run on D first, as `evaluate`, and show that")
    one.add_argument("--split", default="", help="of that: train, validation or test [as `evaluate`]")
    _columns_flags(one)
    one.add_argument(
        *("--push-to-hub", "--push_to_hub"),
        default="",
        metavar="USER/NAME",
        help="upload adapter, card and report, without texts of the data, to that repository of the hub",
    )
    one.add_argument("--private", action="store_true", help="make that repository a private one")


def _shift_flag(one: Parser) -> None:
    words = (
        "allow for other shares of labels than in training, found from these texts: of the same source, else it harms"
    )
    one.add_argument("--label-shift", "--label_shift", action="store_true", help=words)


def _classify_flags(one: Parser) -> None:
    _run_flags(one)
    one.add_argument("texts", nargs="+", metavar="TEXT")
    _scale_flag(one)
    _abstain_flag(one)
    one.add_argument("--explain", action="store_true", help="the words that moved each decision, strongest first")


def _predict_flags(one: Parser) -> None:
    _run_flags(one)
    one.add_argument(
        "--input", required=True, metavar="FILE", help="CSV, TSV, JSONL, Parquet, a pickle, or TXT with a text a line"
    )
    one.add_argument("--output", default="", metavar="FILE", help="id (row from 0), label, ... [inference_output.csv]")
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
    _scale_flag(one)


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
        help="modules with adapters, what reads a block's input among them [the base's query and value]",
    )
    one.add_argument("--threads", type=int, default=0, metavar="N", help="of each side [torch's choice]")
    one.add_argument("--isa", default="", metavar="I", help="avx512 or avx2: no wider instructions [all there are]")


VERBS: dict[str, Callable[[Parser], None]] = {
    "quickstart": _out_flags,
    "plan": _plan_flags,
    "train": _train_flags,
    "tune": _tune_flags,
    "evaluate": _evaluate_flags,
    "report": _report_flags,
    "compare": _compare_flags,
    "classify": _classify_flags,
    "predict": _predict_flags,
    "inspect": _inspect_flags,
    "data": _data_flags,
    "bench": _bench_flags,
    "doctor": _doctor_flags,
}


# ------------------------------------------------------------------------------------------------------------- settings


def settings(args: argparse.Namespace, recipe: str = configs.DEFAULT_RECIPE) -> Config:
    """The recipe with the flags that were given."""
    given = {name: getattr(args, name, None) for name in configs.setting_fields()}
    overrides = {name: _value(name, text) for name, text in given.items() if text is not None}
    return configs.load(args.recipe or recipe, overrides)


def resumed_settings(args: argparse.Namespace) -> Config:
    """The settings of the run to go on with; flags must not say otherwise."""
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
