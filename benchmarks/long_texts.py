"""Which way with long texts finds the sentence that decides: news items between sentences that say nothing.

    python benchmarks/long_texts.py train.csv --place tail      (a CSV with the columns text and label)

Trains the default recipe once for each `--long-text` on 200 documents and prints one JSON object: accuracy on the 60
that are held out, share of tokens lost, seconds of training.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import tempfile
from pathlib import Path

import textlora
from textlora.config import CHOICES
from textlora.runs import read_json

DOCUMENTS, SENTENCES, MAX_LENGTH = 200, 14, 96
FILLER = (
    "Please find below the notes of the last meeting.",
    "The office is open from nine to five on weekdays.",
    "This message was sent to all members of the list.",
    "Kindly reply to the address that is given above.",
    "The room on the second floor has been booked.",
    "You can change your preferences at any time.",
    "Copies are kept for a year and then deleted.",
    "Thank you for your patience in this matter.",
)


def documents(source: Path, place: str) -> list[tuple[str, str]]:
    """(text, label): a row of `source` at the head, middle or tail of sentences that say nothing."""
    rng = random.Random(0)
    with source.open(newline="", encoding="utf-8") as file:
        rows = rng.sample(list(csv.DictReader(file)), DOCUMENTS)
    made = []
    for row in rows:
        sentences = [f"{rng.choice(FILLER)} {rng.randrange(997)}" for _ in range(SENTENCES)]
        sentences.insert({"head": 0, "middle": SENTENCES // 2, "tail": SENTENCES}[place], row["text"])
        made.append((" ".join(sentences), row["label"]))
    return made


def measured(data: Path, mode: str, out: Path) -> dict[str, float]:
    given = {"data": str(data), "long_text": mode, "max_length": MAX_LENGTH, "batch_tokens": 512}
    given |= {"num_train_epochs": 3, "validation_fraction": 0.3}
    run = textlora.train(textlora.load_config(overrides=given), out=out / mode)
    report = read_json(run.evaluation / "report.json")["splits"]["validation"]
    cut = report["long_texts"]
    return {
        "accuracy": report["accuracy"],
        "tokens_lost": round(cut["lost"] / cut["tokens"], 3),
        "train_seconds": run.summary()["train_seconds"],
        "tfidf-logreg": run.summary()["baselines"]["tfidf-logreg"],
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("--place", choices=("head", "middle", "tail"), default="tail")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "documents.csv"
        with data.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("text", "label"), *documents(args.source, args.place)])
        print(json.dumps({mode: measured(data, mode, Path(folder)) for mode in CHOICES["long_text"]}))
