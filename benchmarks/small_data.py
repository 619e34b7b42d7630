"""Few rows, and skewed ones: the default recipe without a flag against TF-IDF + logistic regression.

    python benchmarks/small_data.py ag_news/train.csv

Takes stratified subsets of a file of labelled texts (columns text and label), trains the default recipe on each, and
scores both on 2,000 held-out rows of the same file. TF-IDF is fitted on all rows of the subset, ours on what is left
after carving validation. `skewed` has 50 rows of the first label to one of the last, two labels between; which label is
rare changes with the seed. `f1_macro` is on held-out rows of equal labels, `f1_macro_prior` on the same rows weighted
to the subset's own shares. Prints one JSON object; the table goes to stderr.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import accuracy_score, f1_score

from textlora import config as configs
from textlora import predict
from textlora.baseline import tfidf_logreg
from textlora.train import train

HELD_OUT = 2_000
SKEWED = (1_000, 300, 80, 20)  # rows by label, 50:1
Rows = tuple[list[str], np.ndarray]


def read(path: Path) -> tuple[Rows, tuple[str, ...]]:
    """Texts and label ids of a CSV, and the labels' names in order."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = [(row["text"], row["label"]) for row in csv.DictReader(file)]
    names = tuple(sorted({label for _, label in rows}))
    return ([text for text, _ in rows], np.array([names.index(label) for _, label in rows])), names


def take(rows: Rows, chosen: np.ndarray) -> Rows:
    return [rows[0][i] for i in chosen], rows[1][chosen]


def stratified(labels: np.ndarray, counts: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    """Row numbers: counts[c] of label c, in random order."""
    parts = [rng.permutation(np.flatnonzero(labels == c))[:n] for c, n in enumerate(counts)]
    return rng.permutation(np.concatenate(parts))


def counts_of(name: str, seed: int, num_labels: int) -> list[int]:
    if name == "skewed":
        return list(np.roll(SKEWED, seed))
    return [int(name) // num_labels] * num_labels


def scores(labels: np.ndarray, predicted: np.ndarray, counts: Sequence[int]) -> dict[str, float]:
    prior = (np.array(counts) / np.bincount(labels, minlength=len(counts)))[labels]
    return {
        "accuracy": float(accuracy_score(labels, predicted)),
        "f1_macro": float(f1_score(labels, predicted, average="macro")),
        "f1_macro_prior": float(f1_score(labels, predicted, average="macro", sample_weight=prior)),
    }


def one(name: str, seed: int, pool: Rows, held: Rows, names: tuple[str, ...], settings: dict[str, Any]) -> dict:
    """Train on one subset and score both on the held-out rows."""
    counts = counts_of(name, seed, len(names))
    texts, labels = take(pool, stratified(pool[1], counts, np.random.default_rng([seed, sum(counts)])))
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "train.csv")
        with file.open("w", newline="", encoding="utf-8") as out:
            csv.writer(out).writerows(
                [("text", "label"), *zip(texts, [names[i] for i in labels.tolist()], strict=True)]
            )
        said: list[str] = []
        config = configs.load(overrides={"data": str(file), "seed": seed, "label_names": list(names), **settings})
        run = train(config, out=Path(folder, "run"), say=said.append)
        ours = predict.load(run.folder).predict_proba(held[0]).argmax(1)
        fitted = next((line for line in said if line.startswith("fitted")), "")
        verdict = run.summary()["verdict"][0]
    seconds = time.monotonic() - began
    theirs = tfidf_logreg(texts, labels, held[0], len(names)).probabilities.argmax(1)
    result = {"subset": name, "seed": seed, "seconds": round(seconds, 1), "fitted": fitted, "verdict": verdict}
    result |= {"textlora": scores(held[1], ours, counts), "tfidf": scores(held[1], theirs, counts)}
    line = f"{name:>7} seed {seed}: " + "  ".join(
        f"{key} {result['textlora'][key]:.4f} (tfidf {result['tfidf'][key]:.4f})" for key in result["tfidf"]
    )
    print(f"{line}  {seconds:.0f} s\n        {fitted}", file=sys.stderr, flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--subsets", default="40,200,1000,5000,skewed")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--settings", default="{}", help="JSON of settings to try over the default recipe")
    args = parser.parse_args()

    rows, names = read(args.data)
    rng = np.random.default_rng(0)
    chosen = stratified(rows[1], [HELD_OUT // len(names)] * len(names), rng)
    held, pool = take(rows, chosen), take(rows, np.setdiff1d(np.arange(len(rows[0])), chosen))
    runs = [
        one(name, seed, pool, held, names, json.loads(args.settings))
        for name in args.subsets.split(",")
        for seed in range(args.seeds)
    ]
    print(json.dumps({"held_out": len(held[0]), "settings": json.loads(args.settings), "runs": runs}))


if __name__ == "__main__":
    main()
