"""Both seeds' recipes on a RoBERTa-base of random weights: the plain Trainer's losses, and they learn.

Needs ../shared (RoBERTa's tokenizer, AG News rows), which isn't part of the project.
"""

from __future__ import annotations

import csv
from collections import defaultdict

import numpy as np
import pytest
from conftest import SHARED
from plain_trainer import assert_first_losses_equal_the_plain_trainers, quiet

from textlora import config as configs
from textlora.runs import Run
from textlora.train import train

SEEDS = ("roberta-qv-r10", "roberta-selective-r36")
TOKENIZER, ROWS = SHARED / "data" / "roberta_tokenizer", SHARED / "data" / "ag_news" / "train.csv"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not ROWS.is_file(), reason=f"{SHARED} with AG News rows and RoBERTa's tokenizer isn't here"),
]


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """A folder with 64 training and 16 validation rows of AG News, balanced, of middling length."""
    by_label = defaultdict(list)
    with ROWS.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if 20 <= len(row["text"].split()) <= 40:
                by_label[row["label"]].append((row["text"], row["label"]))
    folder = tmp_path_factory.mktemp("ag")
    for name, first, last in (("train", 0, 16), ("validation", 16, 20)):
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            chosen = [row for label in sorted(by_label) for row in by_label[label][first:last]]
            csv.writer(file).writerows([("text", "label"), *chosen])
    return folder


def recipe(name, rows, **changes):
    given = {"data": str(rows), "base_weights": "random:0", "tokenizer": str(TOKENIZER), "max_length": 64}
    given |= {"logging_steps": 1, "train_sample_size": 64}
    return configs.load(name, given | changes)


@pytest.mark.parametrize("name", SEEDS)
def test_the_first_twenty_losses_equal_the_plain_trainers(name, rows, tmp_path):
    config = recipe(
        name,
        rows,
        precision="fp32",
        base_dropout=0.0,
        lora_dropout=0.0,
        lora_dropout_end=0.0,
        lora_dropout_curve="constant",
        per_device_train_batch_size=4,
        gradient_accumulation_steps=1,
        max_steps=20,
        eval_steps=0,
        learning_rate=3.99e-4,
    )
    assert_first_losses_equal_the_plain_trainers(config, tmp_path)


@pytest.mark.parametrize("name", SEEDS)
def test_it_learns_64_rows_to_100_percent(name, rows, tmp_path):
    config = recipe(
        name,
        rows,
        base_dropout=0.0,
        per_device_train_batch_size=16,
        gradient_accumulation_steps=1,
        num_train_epochs=30,
        max_steps=-1,
        eval_steps=20,
        early_stopping_patience=0,
        learning_rate=1e-3,
        lora_dropout=0.15,
        lora_dropout_end=0.05,
        lora_dropout_curve="linear",
    )
    run = train(config, out=tmp_path / "run", say=quiet)
    assert max(r["accuracy"] for r in run.metrics() if r["split"] == "train_sample") == 1.0
    assert_dropout_falls(run, 0.15, 0.05)


def assert_dropout_falls(run: Run, start: float, end: float) -> None:
    seen = [r["dropout"] for r in run.metrics() if r["split"] == "train"]
    np.testing.assert_allclose(seen, np.linspace(start, end, len(seen)), atol=1e-9)


def test_our_roberta_recipe_runs_twenty_steps(rows, tmp_path):
    """Its score isn't measured: on random weights only the way is checked, and the count."""
    config = recipe("roberta-best", rows, max_steps=20, batch_tokens=512, auto=[])
    run = train(config, out=tmp_path / "run")
    assert run.summary()["steps"] == 20
    assert run.summary()["trainable_parameters"] == 663_552 + 3_076 + 201_060 < config.budget
