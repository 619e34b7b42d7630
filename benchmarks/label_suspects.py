"""Label suspects: how many of the first 100, 500 and 1,000 have another label in a gold column.

    python benchmarks/label_suspects.py FILE --gold-column gold

`textlora data suspects` is given a copy of FILE with its text and label columns alone; the gold column is looked at
once, when the suspects are ranked. Two rankings are judged: ours (the given label's probability) and the normalised
margin (that minus the suggested label's). Beside the suspects' precision: `likely_right`, whether the suggested label
is the gold one. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import tempfile
import time
from pathlib import Path

from textlora import config, suspects
from textlora.suspects import Suspect

TOPS = (100, 500, 1000)


def without_gold(rows: list[dict[str, str]], text: str, label: str, folder: str) -> str:
    path = Path(folder, "rows.csv")
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *((row[text], row[label]) for row in rows)])
    return str(path)


def precisions(ranked: list[Suspect], gold: list[str]) -> dict[str, dict[str, float]]:
    found = {}
    for top in (top for top in TOPS if top <= len(ranked)):
        first = ranked[:top]
        wrong = sum(gold[one.row] != one.given for one in first) / top
        found[str(top)] = {"precision": wrong, "likely_right": sum(gold[s.row] == s.suggested for s in first) / top}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", help="a CSV file in UTF-8")
    parser.add_argument("--gold-column", required=True)
    parser.add_argument("--text-column", default="text")
    parser.add_argument("--label-column", default="label")
    parser.add_argument("--label-shares", default="", help="as `textlora data suspects` takes it: equal, or JSON")
    args = parser.parse_args()
    with Path(args.file).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        source = without_gold(rows, args.text_column, args.label_column, folder)
        told = config.load("minilm-fast", {"label_shares": args.label_shares})
        found = suspects.find(source, told, say=lambda line: print(line, file=sys.stderr))
    seconds = time.perf_counter() - start
    gold = [row[args.gold_column] for row in rows]
    by_margin = sorted(found.suspects, key=lambda one: one.score - one.probability)
    result = {
        "rows": found.rows,
        "suspects": len(found.suspects),
        "sure": sum(one.sure for one in found.suspects),
        "wrong": sum(row[args.gold_column] != row[args.label_column] for row in rows),
        "estimated": found.estimated,
        "cross_entropy": found.cross_entropy,
        "self_confidence": precisions(found.suspects, gold),
        "sure_ones": precisions([one for one in found.suspects if one.sure], gold),
        "normalised_margin": precisions(by_margin, gold),
        "seconds": seconds,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
