"""Preparation says in words what it made of the data."""

from __future__ import annotations

import csv
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import corpus_rows

from textlora.prepare import prepare


def test_it_says_how_rows_are_weighted_what_is_cut_and_what_would_read_it(tiny_config, tmp_path):
    rows = [row for row in corpus_rows("train") if row["label"] == "World"][:40]
    rows += [row for row in corpus_rows("train") if row["label"] == "Sports"][:10]
    with (tmp_path / "skewed.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ("text", "label"), extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    skewed = {"data": str(tmp_path / "skewed.csv"), "class_weights": "sqrt", "max_length": 16}
    said: list[str] = []
    found = prepare(tiny_config("bert", **skewed), said.append)
    weights, counts = found.label_weights, np.bincount(found.data.train.labels)
    assert counts.tolist() == [9, 36]
    words = f"one of Sports {weights[0]:.2f} (9 rows), one of World {weights[1]:.2f} (36 rows)"
    assert f"  rows are weighted by label: {words}" in said
    assert weights[0] == pytest.approx(2 * weights[1].item())
    assert any("45 train texts" in line and "cut at 16 tokens" in line for line in said)
    assert "--long-text head-tail" in said[-1]
    said.clear()
    prepare(tiny_config("bert", **skewed | {"long_text": "window-mean", "class_weights": "none"}), said.append)
    assert not any("--long-text" in line or "weighted" in line for line in said)
    said.clear()
    prepare(tiny_config("bert", **skewed | {"max_length": 128}), said.append)
    assert not any("--long-text" in line for line in said)


def test_a_tokenizer_without_a_padding_token_pads_with_its_first(tiny_config):
    found = prepare(tiny_config("bert"), lambda line: None)
    without = replace(found, tokenizer=SimpleNamespace(pad_token_id=None))
    assert (found.pad_id, without.pad_id) == (found.tokenizer.pad_token_id, 0)
