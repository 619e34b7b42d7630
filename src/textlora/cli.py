"""A command line: parsed, one verb called, its exit code. `flags` says what may be given, `verbs` what is done."""

from __future__ import annotations

import argparse
import errno
import io
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import textlora
from textlora import flags, verbs
from textlora.errors import ResourceError, TextLoraError, UsageError, closest, is_out_of_memory
from textlora.flags import Parser
from textlora.printing import json_line, say
from textlora.tables import Result

INTERRUPTED = 130


def parser() -> Parser:
    """All verbs with their flags. Flags of settings are made from `textlora.config.Config`."""
    top = Parser(
        "textlora",
        description="Train, judge and use LoRA text classifiers inside a budget of parameters.",
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"textlora {textlora.__version__}")
    known = top.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=Parser)

    _verb(known, verbs.quickstart, "train, judge and try a classifier on the embedded corpus")
    _verb(known, verbs.plan, "count trainable parameters before anything is loaded")
    _verb(known, verbs.train, "train a classifier")
    _verb(known, verbs.tune, "search for better settings within the budget")
    _verb(known, verbs.evaluate, "score a run on a split")
    _verb(known, verbs.report, "a run as one HTML page, to look at")
    _verb(known, verbs.compare, "tell which of several runs differ by more than chance")
    _verb(known, verbs.classify, "label texts given on the command line")
    _verb(known, verbs.predict, "label every row of a file")
    _verb(known, verbs.inspect, "count what is in an adapter folder")
    _verb(known, verbs.data, "look at data before it is trained on: what is in it, what is odd, what is done")
    _verb(known, verbs.bench, "measure training or prediction beside peers and the machine's limit")
    _verb(known, verbs.doctor, "look at this machine: what a run would use, how fast, what stands in its way")
    return top


def _verb(known: Any, run: Callable[[argparse.Namespace], Result], help: str) -> None:
    one = known.add_parser(run.__name__, help=help, description=(run.__doc__ or help), allow_abbrev=False)
    flags.VERBS[run.__name__](one)
    one.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    flags_of = [flag for action in one._actions for flag in action.option_strings]
    one.set_defaults(run=run, known_flags=[flag for flag in flags_of if "_" not in flag])


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command in `argv`. Raises UsageError; for a misspelt flag with the closest known one."""
    args, surplus = parser().parse_known_args(argv)
    if not surplus:
        return args
    flag = surplus[0].split("=")[0]
    if flag.startswith("--"):
        raise UsageError(f"{args.verb} has no flag {flag}", closest(flag.replace("_", "-"), args.known_flags))
    raise UsageError(f"{args.verb} doesn't take {surplus[0]!r}", f"see: textlora {args.verb} --help")


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
            json_line(result)
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
        json_line({"error": error} | (details or {}))
    say(f"textlora: {message}" + (f"\n  {fix}" if fix else ""))
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
    if is_out_of_memory(error):
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
