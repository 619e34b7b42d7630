"""Labels from a crowd, judged on gold: the default recipe as it is, and told how often each label truly occurs.

    python benchmarks/crowd_labels.py FILE --gold-column gold

FILE has a text, a label given by annotators, and a gold label that nothing but the judging reads. 2,000 rows are held
out; on the others both sides are trained with early stopping on the annotators' labels, once for each of `--seeds`
seeds: cross-entropy alone, and the same with `--label-shares` (equal: what is known of the labels, nothing of a row).
Prints one JSON object: accuracy on the held-out rows' gold labels, the paired gain over (seed, row), and how well each
agrees with the annotators there.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from small_data import HELD_OUT, Rows, read, take

from textlora import config as configs
from textlora import data, predict
from textlora.paired import p_value, paired_gain
from textlora.train import train


def run(settings: dict[str, Any], rows: Rows, held: list[str], names: tuple[str, ...]) -> np.ndarray:
    """Label ids that one training gives the held-out texts: (M,)."""
    config = configs.load("minilm-fast", {"early_stopping_patience": 2, "report_to": [], **settings})
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        said: list[str] = []
        done = train(config, rows=data.from_texts(*rows, names), out=Path(folder, "run"), say=said.append)
        found = predict.load(done.folder).predict_proba(held).argmax(1)
    moved = [line for line in said if line.startswith("label shares")]
    print(f"{settings}: {time.monotonic() - began:.0f} s {' '.join(moved)}", file=sys.stderr, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="a CSV file in UTF-8 with columns text, label and the gold column")
    parser.add_argument("--gold-column", required=True)
    parser.add_argument("--label-shares", default="equal")
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    rows, names = read(args.file)
    with args.file.open(newline="", encoding="utf-8") as file:
        gold = np.array([names.index(row[args.gold_column]) for row in csv.DictReader(file)])
    order = np.random.default_rng(0).permutation(len(gold))
    held, kept = order[:HELD_OUT], take(rows, order[HELD_OUT:])
    texts, given = take(rows, held)
    sides = {"plain": {}, "label_shares": {"label_shares": args.label_shares}}
    found = {
        name: np.stack([run({"seed": seed, **settings}, kept, texts, names) for seed in range(args.seeds)])
        for name, settings in sides.items()
    }
    right = {name: labels == gold[held] for name, labels in found.items()}
    result: dict[str, Any] = {
        "rows": len(kept[0]),
        "held_out": len(held),
        "wrong_labels": float((rows[1] != gold).mean()),
        "annotators": float((given == gold[held]).mean()),
    }
    for name, labels in found.items():
        result[name] = {
            "accuracy": float(right[name].mean()),
            "accuracies": right[name].mean(1).tolist(),
            "agrees_with_annotators": float((labels == given).mean()),
        }
    gain = paired_gain(right["plain"], right["label_shares"])
    print(json.dumps(result | {"gain": gain._asdict(), "p": p_value(right["plain"], right["label_shares"])}))


if __name__ == "__main__":
    main()
