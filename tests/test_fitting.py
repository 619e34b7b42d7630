"""The fitted recipe: today's for 20,000 rows, more passes over fewer rows, and a user's word above any rule."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from textlora import config as configs
from textlora import fitting
from textlora.errors import UsageError
from textlora.fitting import Facts, fitted
from textlora.longtext import WIDTH_STEP
from textlora.train import train

DEFAULT = configs.load()
ONE_BY_ONE = replace(DEFAULT, auto=tuple(name for name in DEFAULT.auto if name != "loss"))  # rows, not pairs


def facts(counts=(4578, 4578, 4578, 4578), length=50, validation=None):
    rows = sum(counts)
    return Facts(
        tuple(counts), np.full(rows, length), rows // 9 if validation is None else validation, bag_of_tokens=True
    )


MANY = st.lists(st.integers(1, 30_000), min_size=2, max_size=30)


def test_every_fittable_setting_has_a_rule_and_words():
    assert set(fitting.RULES) == set(fitting.WORDS) == set(configs.FITTABLE) == set(DEFAULT.auto)


def test_for_20_000_rows_the_recipe_stays_as_it_was_measured():
    config, lines = fitted(DEFAULT, facts())
    assert config == replace(DEFAULT, auto=())
    assert lines[0].startswith(
        "fitted to 18,312 training rows (labels 1:1 from most frequent to rarest): 128 tokens of a text, "
        "2048 tokens a batch, 2 epochs, learning rate 0.001, warm-up 6 %"
    )


@pytest.mark.parametrize(
    ("rows", "changes", "expected"),
    [
        (1700, {}, True),
        (1900, {}, False),  # with a ninth of it for validation more than 2,000
        (40, {"time_limit": "60s"}, False),
        (40, {"early_stopping_patience": 3}, False),
    ],
)
def test_few_rows_are_trained_on_once_more_with_those_of_validation(rows, changes, expected):
    config, lines = fitted(replace(DEFAULT, **changes), facts((rows // 2, rows // 2)))
    assert config.refit is expected
    assert ("once more on validation rows too" in lines[0]) is expected


@pytest.mark.parametrize(
    ("counts", "changes", "expected"),
    [
        ((7, 7, 7, 7), {}, "contrastive"),
        ((58, 58, 58, 58), {}, "contrastive"),
        ((250, 250, 250, 250), {}, "cross-entropy"),
        ((3, 7, 7, 7), {}, "cross-entropy"),  # too few of one label to make pairs of
        ((30, 90, 30, 30), {}, "cross-entropy"),  # skewed
        ((4,) * 40, {}, "cross-entropy"),  # more labels than a batch has several texts of
        ((7, 7), {"base": "roberta"}, "cross-entropy"),
        ((7, 7), {"head": "low-rank"}, "cross-entropy"),
        ((7, 7), {"label_smoothing_factor": 0.1}, "cross-entropy"),
        ((7, 7), {"long_text": "window-mean"}, "cross-entropy"),
    ],
)
def test_few_rows_are_learned_from_in_pairs(counts, changes, expected):
    config, lines = fitted(replace(DEFAULT, **changes), facts(counts))
    assert config.loss == expected
    assert config.problems() == []
    assert ("learning from pairs" in lines[0]) is (expected == "contrastive")


@pytest.mark.parametrize(("rows", "epochs"), [(28, 40), (56, 28), (232, 10)])
def test_pairs_take_about_the_passes_that_were_measured(rows, epochs):
    config, _ = fitted(DEFAULT, facts((rows // 4,) * 4, length=54, validation=4))
    assert (config.num_train_epochs, config.batch_tokens) == (epochs, 2048)
    assert config.learning_rate == pytest.approx(2e-4)


@given(MANY, st.integers(3, 128), st.integers(1, 20_000))
def test_what_is_fitted_is_valid_and_replays(counts, length, validation):
    known = facts(counts, length, validation)
    config, lines = fitted(DEFAULT, known)
    assert config.problems() == []
    assert config.auto == ()
    assert len(lines) == 1
    assert fitted(config, known) == (config, ())


@given(st.integers(2, 200_000), st.integers(2, 200_000), st.integers(5, 128))
def test_more_rows_never_mean_more_passes(one, other, length):
    few, many = (fitted(ONE_BY_ONE, facts((n // 2, n - n // 2), length))[0] for n in sorted((one, other)))
    assert few.batch_tokens <= many.batch_tokens
    assert (few.num_train_epochs >= many.num_train_epochs) or few.batch_tokens < many.batch_tokens


@given(st.integers(40, 40_000), st.integers(5, 128))
def test_a_run_has_enough_updates_unless_its_rows_are_very_few(rows, length):
    known = facts((rows // 2, rows - rows // 2), length)
    config, _ = fitted(ONE_BY_ONE, known)
    updates = config.num_train_epochs * known.updates_per_epoch(config)
    assert updates >= fitting.UPDATES - 1e-9 or config.num_train_epochs == fitting.MANY_EPOCHS


def test_many_labels_take_more_passes_over_few_rows_and_no_more_over_many():
    epochs = {labels: fitted(DEFAULT, facts((1200 // labels,) * labels))[0].num_train_epochs for labels in (4, 12, 24)}
    assert epochs[4] == epochs[12] < epochs[24]
    absent = facts((50,) * 4 + (0,) * 20)
    assert fitted(DEFAULT, absent)[0] == fitted(DEFAULT, facts((50,) * 4, validation=absent.validation))[0]
    assert fitted(DEFAULT, facts((2000,) * 24))[0].num_train_epochs == fitted(DEFAULT, facts())[0].num_train_epochs


@pytest.mark.parametrize(("rows", "epochs"), [(9_998, 3), (20_000, 2), (108_000, 2), (1_000_000, 1)])
def test_large_data_takes_fewer_passes(rows, epochs):
    config, _ = fitted(DEFAULT, facts((rows,) * 2 if rows < 2 else (rows // 2, rows - rows // 2)))
    assert config.num_train_epochs == epochs
    assert config.learning_rate == (5e-4 if epochs == 3 else 1e-3)


@pytest.mark.parametrize(
    ("rows", "epochs", "rate"), [(9_998, 3, 5e-4), (18_000, 3, 1e-3), (108_000, 3, 1e-3), (1_000_000, 1, 1e-3)]
)
def test_sharpness_aware_steps_take_one_pass_more_at_the_high_rate(rows, epochs, rate):
    best = configs.load("minilm-best")
    config, _ = fitted(best, facts((rows // 2,) * 2))
    assert (config.num_train_epochs, config.learning_rate) == (epochs, rate)
    assert fitted(best, facts())[0] == replace(best, auto=())  # the recipe, as it was measured
    other = replace(best, base="roberta")
    assert fitted(other, facts())[0] == fitted(replace(DEFAULT, base="roberta", sam_rho=best.sam_rho), facts())[0]
    assert fitted(replace(best, auto=("learning_rate",), num_train_epochs=4), facts())[0].learning_rate == 1e-3


@pytest.mark.parametrize("recipe", [replace(DEFAULT, sam_rho=0.05), configs.load("minilm-small")])
def test_large_data_takes_no_more_passes_than_the_recipe_has(recipe):
    passes = [
        fitted(recipe, facts((rows // 2,) * 2))[0].num_train_epochs for rows in (18_000, 49_998, 50_000, 1_000_000)
    ]
    assert passes == sorted(passes, reverse=True)
    assert passes[0] == recipe.num_train_epochs


def test_minilm_best_is_the_default_recipe_with_sharpness_aware_steps():
    assert replace(configs.load("minilm-best"), sam_rho=0.0, num_train_epochs=2.0) == DEFAULT


def test_minilm_small_is_minilm_best_for_longer_with_less_to_train():
    small, best = configs.load("minilm-small"), configs.load("minilm-best")
    assert fitted(small, facts())[0] == replace(small, auto=())  # the recipe, as it was measured
    changed = {"lora_r": 2, "lora_alpha": 4, "sam_rho": 0.1, "num_train_epochs": 6.0, "bag_of_tokens": False}
    assert replace(best, **changed, auto=small.auto) == small
    assert set(best.auto) - set(small.auto) == {"bag_of_tokens", "memory"}


def test_few_fast_passes_are_for_the_base_they_were_measured_on_and_give_way_to_flags():
    other = fitted(replace(DEFAULT, base="roberta"), facts())[0]
    slow = fitted(configs.load(overrides={"num_train_epochs": 3}), facts())[0]
    assert (other.num_train_epochs, other.learning_rate) == (slow.num_train_epochs, slow.learning_rate) == (3, 5e-4)
    assert fitted(configs.load(overrides={"learning_rate": 7e-4}), facts())[0].learning_rate == 7e-4


def test_a_base_is_the_same_by_each_of_its_names():
    for known in (facts(), facts((20,) * 2, validation=4)):
        short = fitted(DEFAULT, known)[0]
        for name in ("sentence-transformers/all-MiniLM-L6-v2", "all-MiniLM-L6-v2"):
            assert fitted(replace(DEFAULT, base=name), known)[0] == replace(short, base=name)


def test_large_data_is_judged_within_an_epoch_and_on_a_sample():
    known = facts((54_000, 54_000), validation=12_000)
    config, lines = fitted(DEFAULT, known)
    per_epoch = known.updates_per_epoch(config)
    assert config.eval_steps == math.ceil(per_epoch / 3)
    assert config.max_eval_samples == fitting.JUDGED_ROWS
    assert "on 4,000 validation rows" in lines[0]


def test_a_handful_of_validation_rows_chooses_nothing():
    few, enough = (fitted(DEFAULT, facts((500, 500), validation=n)) for n in (199, 200))
    assert few[0].eval_steps == fitting.AT_THE_END
    assert "judged once, at the end" in few[1][0]
    assert enough[0].eval_steps == 0
    patient = replace(DEFAULT, early_stopping_patience=3)
    assert fitted(patient, facts((500, 500), validation=10))[0].eval_steps < 10_000


def test_labels_are_weighted_when_they_are_skewed_and_only_then():
    even, skewed = (fitted(DEFAULT, facts(counts))[0] for counts in ((100, 120), (500, 10)))
    assert (even.class_weights, even.metric_for_best_model) == ("none", "accuracy")
    assert skewed.class_weights == "sqrt"
    assert skewed.metric_for_best_model == "f1_macro"


@pytest.mark.parametrize(
    ("flag", "value", "name"),
    [
        ("num_train_epochs", 3.0, "num_train_epochs"),
        ("max_steps", 10, "num_train_epochs"),
        ("warmup_steps", 5, "warmup_ratio"),
        ("batch_tokens", 2048, "batch_tokens"),
        ("per_device_train_batch_size", 8, "batch_tokens"),
        ("class_weights", "none", "class_weights"),
    ],
)
def test_a_flag_takes_its_setting_off_the_list(flag, value, name):
    config = configs.load(overrides={flag: value})
    assert set(DEFAULT.auto) - set(config.auto) == {name}
    chosen, _ = fitted(config, facts((300, 6)))
    assert getattr(chosen, flag) == value


def test_a_layer_may_set_the_list_itself_and_a_wrong_name_is_told():
    assert configs.load(overrides={"auto": ["class_weights"], "num_train_epochs": 2}).auto == ("class_weights",)
    with pytest.raises(UsageError, match="auto lists 'class_weight'"):
        configs.load(overrides={"auto": ["class_weight"]})


def test_a_run_says_what_was_chosen_and_keeps_it(tiny_config, tmp_path):
    said: list[str] = []
    config = replace(tiny_config("bert"), auto=("warmup_ratio", "class_weights", "eval_steps"))
    run = train(config, out=tmp_path / "run", say=said.append)
    kept = run.config()
    assert kept.auto == ()
    assert kept.warmup_ratio == fitting.LONG_WARMUP
    assert any(line.startswith("fitted to ") and "class weights none" in line for line in said)


def test_the_validation_sample_is_scored_while_training_and_all_of_it_at_the_end(tiny_config, tmp_path):
    run = train(tiny_config("bert", max_eval_samples=20), out=tmp_path / "run", say=lambda line: None)
    assert {r["n"] for r in run.metrics() if r["split"] == "validation"} == {20}
    splits = json.loads((run.evaluation / "report.json").read_text())["splits"]
    assert splits["validation"]["n"] > 20


def test_the_best_evaluation_may_be_the_one_of_the_best_macro_f1(tiny_config, tmp_path):
    config = tiny_config(
        "bert", metric_for_best_model="f1_macro", max_steps=12, eval_steps=3, learning_rate=0.05, warmup_ratio=0.0
    )
    run = train(config, out=tmp_path / "run", say=lambda line: None)
    best = max(r["f1_macro"] for r in run.metrics() if r["split"] == "validation")
    report = json.loads((run.evaluation / "report.json").read_text())["splits"]["validation"]
    assert report["f1_macro"] == pytest.approx(best)


# ------------------------------------------------------------------------------------------------------- max_length


@given(st.lists(st.integers(1, 700), min_size=1, max_size=300), st.integers(8, 512))
def test_max_length_covers_99_percent_of_the_texts_and_no_more_than_needed(lengths, longest):
    known = Facts((len(lengths),), np.array(lengths), 10, longest)
    config, lines = fitted(replace(DEFAULT, auto=("max_length", "batch_tokens")), known)
    assert config.problems() == []
    assert config.max_length <= longest
    assert f"{config.max_length} tokens of a text" in lines[0]
    if config.max_length < longest:
        assert np.mean(np.array(lengths) <= config.max_length) >= fitting.COVERED
        shorter = np.mean(np.array(lengths) <= config.max_length - WIDTH_STEP)
        assert config.max_length == fitting.USUAL_LENGTH or shorter < fitting.COVERED


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, (400, 2048)),
        ({"max_length": 96}, (96, 2048)),
        ({"max_length": 3000}, (3000, 3000)),
        ({"batch_tokens": 300}, (300, 300)),
    ],
)
def test_a_named_length_or_batch_wins(given, expected):
    config, _ = fitted(configs.load(overrides=given), facts(length=400))
    assert (config.max_length, config.batch_tokens) == expected
    assert config.problems() == []


def test_windows_are_counted_whole_cut_texts_as_cut():
    known, config = facts(length=1000), replace(DEFAULT, max_length=100)
    windows = replace(config, long_text="window-mean")
    assert known.updates_per_epoch(windows) == pytest.approx(10 * known.updates_per_epoch(config))
