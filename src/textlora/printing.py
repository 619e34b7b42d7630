"""Words out: results to stdout, everything else to stderr. The one module that prints."""

from __future__ import annotations

import argparse
import json
import sys

from textlora.tables import Result


def say(line: str) -> None:
    """To people, beside the result."""
    print(line, file=sys.stderr, flush=True)


def out(args: argparse.Namespace, text: str) -> None:
    """A result for people; with --json there is one for programs at the end."""
    if not args.json:
        print(text, flush=True)


def json_line(result: Result) -> None:
    """A result for programs, on one line. Raises ValueError for a number that JSON can't hold."""
    print(json.dumps(result, allow_nan=False), flush=True)
