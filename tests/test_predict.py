"""Prediction laws: alone or in company, as a file or a list, the same answer for the same text, in order."""

from __future__ import annotations

import csv
import json
import random

import numpy as np
import pytest

import textlora
from textlora import data, predict
from textlora.errors import DataError, ResourceError, UsageError


@pytest.fixture(scope="module")
def predictor(trained, tiny_base):
    return predict.load(trained("bert"), base_weights=str(tiny_base("bert")), precision="fp32")


def test_order_and_company_change_nothing(predictor, texts):
    some = texts[:40]
    alone = np.concatenate([predictor.predict_logits([text]) for text in some])
    together = predictor.predict_logits(some)
    np.testing.assert_allclose(alone, together, atol=1e-5)
    order = random.Random(0).sample(range(len(some)), len(some))
    np.testing.assert_allclose(predictor.predict_logits([some[i] for i in order]), together[order], atol=1e-5)


def test_probabilities_sum_to_one_and_predict_takes_the_largest(predictor, texts):
    p = predictor.predict_proba(texts[:20])
    assert p.shape == (20, 4)
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-12)
    assert predictor.predict(texts[:20]) == [predictor.labels[i] for i in p.argmax(1)]


@pytest.mark.parametrize(
    "text", ["", " ", "word " * 3000, "😀" * 50, "שלום עולם", "\x00", "<b>", "a\ud800b".replace("\ud800", "")]
)
def test_any_string_gets_finite_probabilities(predictor, text):
    assert np.isfinite(predictor.predict_proba([text])).all()


def test_no_texts_give_no_rows(predictor):
    assert predictor.predict([]) == []
    assert predictor.predict_proba([]).shape == (0, 4)


def test_a_string_in_place_of_a_list_is_a_clear_error(predictor):
    with pytest.raises(DataError, match="put it in a list"):
        predictor.predict("one text")
    with pytest.raises(DataError, match="not a string"):
        predictor.predict([1])


def test_classify_returns_the_labels_name_as_the_seed_does(predictor, texts):
    for text in texts[:5]:
        assert textlora.classify(predictor.model, predictor.tokenizer, text) in predictor.labels
    short = "Rain stopped play"
    assert textlora.classify(predictor.model, predictor.tokenizer, short) == predictor.predict([short])[0]


def test_classify_takes_any_plain_classifier(predictor, tiny_base, texts):
    from transformers import AutoModelForSequenceClassification

    plain = AutoModelForSequenceClassification.from_pretrained(tiny_base("bert"), num_labels=3)
    assert textlora.classify(plain, predictor.tokenizer, texts[0]) in {"LABEL_0", "LABEL_1", "LABEL_2"}


def test_a_file_without_rows_leaves_no_output(predictor, tmp_path):
    (tmp_path / "in.csv").write_text("text\n")
    with pytest.raises(DataError, match="no rows"):
        predict.predict_file(predictor, str(tmp_path / "in.csv"), tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


def test_load_is_public_and_lazy(trained, tiny_base, texts):
    loaded = textlora.load(trained("bert"), base_weights=str(tiny_base("bert")))
    assert isinstance(loaded, textlora.Predictor)
    assert loaded.predict(texts[:1])[0] in loaded.labels


# --------------------------------------------------------------------------------------------------------------- files


@pytest.fixture
def table(tmp_path, texts):
    path = tmp_path / "in.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["text"], *([text] for text in texts[:30])])
    return path


def test_kaggle_format_is_id_label_in_input_order(predictor, table, texts, tmp_path):
    out = tmp_path / "submission.csv"
    assert predict.predict_file(predictor, str(table), out, format="kaggle") == 30
    rows = [line.split(",") for line in out.read_text().splitlines()]
    assert rows[0] == ["ID", "Label"]
    expected = predictor.predict_proba(texts[:30]).argmax(1)
    assert rows[1:] == [[str(i), str(label)] for i, label in enumerate(expected)]


def test_all_formats_say_the_same(predictor, table, tmp_path):
    import pyarrow.parquet as pq

    paths = [tmp_path / f"out.{ending}" for ending in ("csv", "jsonl", "parquet")]
    for path in paths:
        predict.predict_file(predictor, str(table), path)
    from_csv = [row["label"] for row in csv.DictReader(paths[0].read_text(encoding="utf-8").splitlines())]
    from_jsonl = [json.loads(line)["label"] for line in paths[1].read_text(encoding="utf-8").splitlines()]
    assert from_csv == from_jsonl == pq.read_table(paths[2])["label"].to_pylist()


def test_chunks_don_t_show(predictor, table, tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole.csv", tmp_path / "parts.csv"
    predict.predict_file(predictor, str(table), whole, format="kaggle")
    monkeypatch.setattr(data, "CHUNK_ROWS", 7)
    predict.predict_file(predictor, str(table), parts, format="kaggle")
    assert whole.read_bytes() == parts.read_bytes()


def test_an_existing_output_is_kept_unless_told(predictor, table, tmp_path):
    out = tmp_path / "out.csv"
    out.write_text("mine")
    with pytest.raises(UsageError, match="exists"):
        predict.predict_file(predictor, str(table), out)
    assert out.read_text() == "mine"
    predict.predict_file(predictor, str(table), out, overwrite=True)
    assert out.read_text() != "mine"


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_bad_row_leaves_nothing_half_written(predictor, tmp_path, ending):
    source = tmp_path / "in.jsonl"
    source.write_text('{"text": "fine"}\n{"text": 7}\n')
    with pytest.raises(DataError):
        predict.predict_file(predictor, str(source), tmp_path / f"out.{ending}")
    assert [p.name for p in tmp_path.iterdir()] == ["in.jsonl"]


def test_a_full_disk_is_said_and_leaves_nothing(predictor, table, tmp_path, monkeypatch):
    import errno
    import os

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError, match="disk is full"):
        predict.predict_file(predictor, str(table), tmp_path / "out.csv")
    assert [p.name for p in tmp_path.iterdir()] == ["in.csv"]


def test_an_unknown_format_names_the_known(predictor, table, tmp_path):
    with pytest.raises(UsageError, match="kaggle"):
        predict.predict_file(predictor, str(table), tmp_path / "out.csv", format="xml")


def test_a_file_with_other_columns_is_read_by_name(trained, tiny_base, tmp_path):
    predictor = predict.load(trained("bert"), base_weights=str(tiny_base("bert")))
    source = tmp_path / "in.csv"
    source.write_text("Title,Description\nRain,stops play\n")
    assert predict.predict_file(predictor, str(source), tmp_path / "out.csv") == 1
