"""Prediction laws: alone or in company, as a file or a list, the same answer for the same text, in order."""

from __future__ import annotations

import copy
import csv
import json
import random
import threading
import time
from typing import Any

import laws
import numpy as np
import pytest
import torch
from conftest import FAMILIES
from peft import PeftModel
from peft.tuners.lora import LoraLayer

import textlora
from textlora import bases, budget, data, engine, predict, tokens
from textlora import model as models
from textlora.engine.families import FAMILIES as ENGINE
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


def test_that_ids_of_the_files_own_are_not_taken_over_is_said(predictor, table, texts, tmp_path):
    own = tmp_path / "own.csv"
    own.write_text("ID,text\n" + "".join(f"{100 + i},some words {i}\n" for i in range(3)))
    said: list[str] = []
    predict.predict_file(predictor, str(own), tmp_path / "a.csv", say=said.append)
    assert said[0].startswith("id counts rows from 0: the file's own column 'ID' isn't it")
    said.clear()
    predict.predict_file(predictor, str(table), tmp_path / "b.csv", say=said.append)
    assert not any("id counts" in line for line in said)


def test_rows_below_the_probability_get_no_label_in_any_format(predictor, table, texts, tmp_path):
    import pyarrow.parquet as pq

    sure = predictor.predict_proba(texts[:30]).max(1)
    below = float(np.sort(sure)[12])  # twelve are less sure
    paths = [tmp_path / f"out.{ending}" for ending in ("csv", "jsonl", "parquet")]
    said: list[str] = []
    for path in paths:
        predict.predict_file(predictor, str(table), path, abstain_below=below, say=said.append)
    rows = [list(csv.DictReader(paths[0].read_text(encoding="utf-8").splitlines()))]
    rows += [[json.loads(line) for line in paths[1].read_text(encoding="utf-8").splitlines()]]
    rows += [pq.read_table(paths[2]).to_pylist()]
    for found in rows:
        assert [not row["label"] for row in found] == (sure < below).tolist()
        assert all((row["label_id"] in ("", None)) == (row["label"] == "") for row in found)
    assert sum(line.startswith("12 of 30 rows got no label") for line in said) == 3
    assert predictor.classify(texts[:30], abstain_below=0.0) == predictor.classify(texts[:30])


@pytest.mark.parametrize("below", [-0.1, 1.1, float("nan")])
def test_no_probability_to_abstain_below(predictor, table, tmp_path, below):
    with pytest.raises(UsageError, match="from 0 to 1"):
        predictor.classify(["x"], abstain_below=below)
    with pytest.raises(UsageError, match="from 0 to 1"):
        predict.predict_file(predictor, str(table), tmp_path / "out.csv", abstain_below=below)
    assert not (tmp_path / "out.csv").exists()


def test_a_competition_takes_no_row_without_a_label(predictor, table, tmp_path):
    with pytest.raises(UsageError, match="a label for every row"):
        predict.predict_file(predictor, str(table), tmp_path / "out.csv", format="kaggle", abstain_below=0.5)
    assert not (tmp_path / "out.csv").exists()


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


# ------------------------------------------------------------------------------- merged, rounded once, or PEFT's own


MERGED = {
    "plain": {},
    "every linear": {"target_modules": ["all-linear"], "lora_r": 3},
    "embeddings too": {"embeddings": True},
    "DoRA": {"use_dora": True, "target_modules": ["all-linear"]},
    "biases": {"bias": "all"},
    "rsLoRA, low-rank head": {"use_rslora": True, "head": "low-rank", "head_rank": 3},
    "the base's own head": {"head": "full", "pooling": "cls"},
    "bag of tokens": {"bag_of_tokens": True, "budget": 10**6},
}


def stirred(config: Any, dtype: torch.dtype = torch.float32, embeddings: bool = False) -> PeftModel:
    """A model as training leaves it: noise in all that is trained. The same for the same settings."""
    base = bases.find(config.base)
    plan = budget.plan(config, bases.shapes(base, config.base_weights), 4, base.hub_id)
    network, _ = models.build(config, plan, tuple("abcd"), dtype)
    if embeddings:  # which our plans don't offer, but an adapter of another tool may have
        lora = copy.deepcopy(network.peft_config["default"])
        lora.target_modules = {*lora.target_modules, "word_embeddings"}
        network = models._wrap(network.unload(), lora)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, tensor in network.named_parameters():
            if tensor.requires_grad or "bag_of_tokens.modules_to_save" in name:
                tensor += 0.1 * torch.randn_like(tensor)
    return network.eval()


def some_tokens() -> tokens.Tokens:
    return laws.tokens_of(np.random.default_rng(0), [3, 40, 17, 17, 1, 60], vocab=390)


@pytest.mark.parametrize(
    ("family", "variant"),
    [*(("bert", variant) for variant in MERGED)]
    + [(family, variant) for family in FAMILIES[1:] for variant in ("every linear", "the base's own head")],
)
def test_merged_says_what_the_adapted_model_says(tiny_config, family, variant):
    settings = dict(MERGED[variant])
    embeddings = settings.pop("embeddings", False)
    config = tiny_config(family, **settings)
    network = stirred(config, embeddings=embeddings)
    adapted = predict.logits(network, some_tokens(), laws.pad_id(network))
    silent = stirred(config, embeddings=embeddings)
    for name, tensor in silent.named_parameters():
        if "lora_B" in name or "lora_embedding_B" in name:
            tensor.data.zero_()
    assert np.abs(adapted - predict.logits(silent, some_tokens(), laws.pad_id(silent))).max() > 1e-2  # they say much
    merged = models.merged(network, torch.float32)
    assert not any("lora" in name for name, _ in merged.named_modules())
    closely = 2e-5 * max(1, np.abs(adapted).max())
    np.testing.assert_allclose(
        predict.logits(merged, some_tokens(), laws.pad_id(merged)), adapted, rtol=0, atol=closely
    )
    covered = not engine.swap_in(merged)
    assert covered == (family in ENGINE)
    np.testing.assert_allclose(
        predict.logits(merged, some_tokens(), laws.pad_id(merged)), adapted, rtol=0, atol=closely
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_merged_in_bf16_is_as_near_to_fp32_as_the_adapted_model_is(tiny_config, family):
    """Rounded once, after the adapter is added: not farther off than bf16 weights with an adapter beside them."""
    config = tiny_config(family, target_modules=["all-linear"])
    exact, rounded = (stirred(config, dtype) for dtype in (torch.float32, torch.bfloat16))
    pad = laws.pad_id(exact)
    wanted, adapted = (predict.logits(network, some_tokens(), pad) for network in (exact, rounded))
    merged = models.merged(exact, torch.bfloat16)
    for network in (merged, *([merged] if not engine.swap_in(merged) else [])):
        off = np.abs(predict.logits(network, some_tokens(), pad) - wanted)
        assert off.mean() <= 1.5 * np.abs(adapted - wanted).mean() + 1e-3
        assert off.max() > 0


def test_head_bag_and_vectors_stay_exact(tiny_config):
    network = stirred(tiny_config("bert", bias="all", bag_of_tokens=True, budget=10**6))
    whole = {name: p.detach().clone() for name, p in network.named_parameters() if ".modules_to_save." in name}
    merged = dict(models.merged(network, torch.bfloat16).named_parameters())
    for name, tensor in whole.items():
        short = name.removeprefix("base_model.model.").replace(".modules_to_save.default", "")
        assert torch.equal(merged[short], tensor)
    types = {(p.ndim > 1, p.dtype) for name, p in merged.items() if not name.startswith(("classifier", "bag_of"))}
    assert types == {(True, torch.bfloat16), (False, torch.float32)}


def test_precise_is_pefts_own_model_to_the_bit(trained, tiny_base, texts):
    run, base = trained("bert"), str(tiny_base("bert"))
    predictor = predict.load(run, base_weights=base, precise=True)
    assert isinstance(predictor.model, PeftModel)
    assert not engine.swapped_in(predictor.model)
    plain = models.load(run / "adapter", base_weights=base, dtype=torch.float32).model
    some = predictor.tokens(texts[:30])
    np.testing.assert_array_equal(predictor.predict_logits(some), predict.logits(plain, some, laws.pad_id(plain)))
    fast = predict.load(run, base_weights=base)
    assert not isinstance(fast.model, PeftModel)
    np.testing.assert_allclose(fast.predict_logits(some), predictor.predict_logits(some), atol=5e-2)


def test_precise_in_another_precision_is_refused(trained):
    with pytest.raises(UsageError, match="precise is fp32, precision says bf16"):
        predict.load(trained("bert"), precise=True, precision="bf16")


# ------------------------------------------------------------------------------------------------- scaled adapters


@pytest.mark.parametrize("precise", [True, False])
def test_adapters_at_scale_1_are_as_trained_and_at_0_switched_off(trained, tiny_base, texts, precise):
    run, base = trained("bert"), str(tiny_base("bert"))
    how = {"base_weights": base, "precise": precise, "precision": "fp32"}
    usual, one, none = (predict.load(run, **how, **at) for at in ({}, {"adapter_scale": 1.0}, {"adapter_scale": 0.0}))
    some = usual.tokens(texts[:30])
    np.testing.assert_array_equal(one.predict_logits(some), usual.predict_logits(some))
    off = models.load(run / "adapter", base_weights=base, dtype=torch.float32).model
    for module in off.modules():  # PEFT's disable_adapter would take the trained head, too
        if isinstance(module, LoraLayer):
            module.enable_adapters(False)
    expected = predict.logits(off, some, laws.pad_id(off))
    np.testing.assert_allclose(none.predict_logits(some), expected, atol=1e-5)
    assert np.abs(expected - usual.predict_logits(some)).max() > 1e-3


@pytest.mark.parametrize("scale", [0.0, 0.25, 1.5, 2.0])
def test_merged_matrices_move_along_the_line_from_base_to_adapter(tiny_config, scale):
    """Scaled then merged is merged then scaled; what is trained but added to nothing stays."""

    def matrices(factor: float) -> dict[str, torch.Tensor]:
        network = stirred(tiny_config("bert", bias="all", bag_of_tokens=True, budget=10**6), embeddings=True)
        models.scale_adapters(network, factor)
        return dict(models.merged(network, torch.float32).named_parameters())

    off, trained, found = matrices(0.0), matrices(1.0), matrices(scale)
    moved = [name for name in off if not torch.equal(off[name], trained[name])]
    assert moved
    assert not any(name.startswith(("classifier", "bag_of")) or name.endswith("bias") for name in moved)
    assert "embeddings.word_embeddings.weight" in moved
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, off[name] + scale * (trained[name] - off[name]), atol=1e-6, rtol=1e-5)


def test_dora_has_no_scale(tiny_config):
    with pytest.raises(UsageError, match="DoRA has no scale"):
        models.scale_adapters(stirred(tiny_config("bert", use_dora=True, budget=10**6)), 0.5)


@pytest.mark.parametrize("scale", [-0.1, 2.1, float("nan"), float("inf")])
def test_a_scale_out_of_range_is_refused(trained, scale):
    with pytest.raises(UsageError, match="--adapter-scale must be from 0 to 2, got"):
        predict.load(trained("bert"), adapter_scale=scale)


# ---------------------------------------------------------------------------------------------- one chunk ahead


def test_the_next_chunk_is_made_while_this_one_is_used():
    made, may_go = [], threading.Event()

    def chunks():
        for number in range(4):
            made.append(number)
            yield number

    for number in predict.ahead(chunks()):
        deadline = time.monotonic() + 5
        while len(made) < min(number + 2, 4) and time.monotonic() < deadline:
            may_go.wait(0.001)
        assert made == list(range(min(number + 2, 4)))  # one ahead, and no more


def test_an_error_comes_in_its_turn_and_stopping_early_is_clean():
    def chunks():
        yield 1
        raise DataError("row 2 is bad", "mend it")

    numbers = predict.ahead(chunks())
    assert next(numbers) == 1
    with pytest.raises(DataError, match="row 2"):
        next(numbers)
    before = threading.active_count()
    assert next(predict.ahead(iter(range(10**9)))) == 0
    assert threading.active_count() == before
    assert list(predict.ahead([])) == []


def test_a_bad_row_late_in_a_file_leaves_nothing(predictor, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "CHUNK_ROWS", 3)
    source = tmp_path / "in.jsonl"
    source.write_text('{"text": "fine"}\n' * 10 + '{"text": 7}\n')
    with pytest.raises(DataError, match=r"in\.jsonl.* 11"):
        predict.predict_file(predictor, str(source), tmp_path / "out.csv")
    assert [p.name for p in tmp_path.iterdir()] == ["in.jsonl"]
