"""Config: every setting once; what is written is read back, the nearest flag wins, every problem is told at once."""

from __future__ import annotations

import tomllib
from dataclasses import FrozenInstanceError, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from textlora import config as configs
from textlora.config import CHOICES, Config
from textlora.errors import DamagedError, UsageError

BATCHED = Config(batch_tokens=2048)  # valid; the default leaves the batching mode to the recipe
SHIPPED = (
    "minilm-best",
    "minilm-fast",
    "minilm-small",
    "quickstart",
    "roberta-best",
    "roberta-qv-r10",
    "roberta-selective-r36",
)

# ---------------------------------------------------------------------------------------------- valid configs to draw

words = st.text(st.characters(codec="utf-8"), max_size=12)  # quotes, newlines, NUL, every plane; no half surrogates
counts = st.integers(1, 10**9)
naturals = st.integers(0, 10**9)
shares = st.floats(0, 1, exclude_max=True)
positive = st.floats(0, 1e6, exclude_min=True)

BY_SETTING = {
    "auto": st.lists(st.sampled_from(configs.FITTABLE)).map(tuple),
    "validation_fraction": st.floats(0, 1, exclude_min=True, exclude_max=True),
    "split_seed": st.integers(0, 2**32 - 1),
    "seed": st.integers(0, 2**32 - 10),
    "seeds": st.integers(1, 10),
    "time_limit": st.just("") | st.sampled_from(["90s", "10m", "1.5h"]),
    "base_weights": words.filter(lambda text: not text.startswith("random:"))
    | st.integers(0, 2**32 - 1).map("random:{}".format),
    "lora_r": counts | st.just("max"),
    "lora_alpha": counts,
    "head_rank": counts,
    "budget": counts,
    "gradient_accumulation_steps": counts,
    "logging_steps": counts,
    "num_cycles": counts,
    "max_steps": counts | st.just(-1),
    "learning_rate": positive,
    "loraplus_lr_ratio": positive,
    "num_train_epochs": positive,
    "weight_decay": st.floats(0, 1e6),
    "max_grad_norm": st.floats(0, 1e6),
    "sam_rho": st.floats(0, 1e6),
    "rank_pattern": st.dictionaries(words, counts, max_size=3),
    "alpha_pattern": st.dictionaries(words, counts, max_size=3),
}
BY_TYPE = {
    bool: st.booleans(),
    str: words,
    int: naturals,
    float: shares,
    tuple[str, ...]: st.lists(words).map(tuple),
    tuple[int, ...]: st.lists(naturals).map(tuple),
}
TOGETHER = {
    "quantize",
    "batch_tokens",
    "per_device_train_batch_size",
    "max_length",
    "head",
    "pooling",
    "lora_dropout_curve",
    "lora_dropout_end",
}


def strategy(name: str) -> st.SearchStrategy:
    if name in CHOICES:
        return st.sampled_from(CHOICES[name])
    return BY_SETTING[name] if name in BY_SETTING else BY_TYPE[configs.setting_type(name)]


@st.composite
def valid_configs(draw) -> Config:
    values = {name: draw(strategy(name)) for name in configs.setting_fields() if name not in TOGETHER}
    length = draw(st.integers(4, 600))
    tokens = draw(st.just(0) | st.integers(length, 10**6))
    values |= {
        "max_length": length,
        "batch_tokens": tokens,
        "per_device_train_batch_size": 0 if tokens else draw(counts),
    }
    values |= draw(st.sampled_from([{"base_weights": ""}, {"base_revision": ""}]))
    values |= draw(
        st.sampled_from(
            [
                {"head": "full", "pooling": "cls", "bag_of_tokens": False, "memory": 0},
                {"pooling": "mean"},
                {"head": "low-rank"},
            ]
        )
    )
    paired = {"head": "linear", "pooling": "mean", "label_smoothing_factor": 0.0, "long_text": "truncate"}
    values |= draw(st.sampled_from([{"loss": "cross-entropy"}, paired]))
    values |= draw(st.sampled_from([{"refit": False}, {"time_limit": "", "early_stopping_patience": 0}]))
    if draw(st.booleans()):
        values |= {"quantize": "4bit", "base_weights": "", "bias": "none"}
    if draw(st.booleans()):
        values |= {"lora_dropout_curve": draw(st.sampled_from(["linear", "cosine"])), "lora_dropout_end": draw(shares)}
    return Config(**values)


# --------------------------------------------------------------------------------------------------------------- laws


@given(valid_configs())
def test_a_valid_config_has_no_problems_and_survives_toml_unchanged(config):
    assert config.problems() == []
    assert config.checked() is config
    assert configs.from_dict(tomllib.loads(configs.to_toml(config))) == config


@given(valid_configs())
def test_the_plain_dictionary_gives_the_config_back(config):
    assert configs.from_dict(config.to_dict()) == config


@given(words)
def test_any_text_survives_as_a_setting_a_list_item_and_a_key(text):
    config = replace(BATCHED, data=text, label_names=(text, "b"), rank_pattern={text: 3})
    assert configs.from_dict(tomllib.loads(configs.to_toml(config))) == config


def test_every_setting_is_written_to_toml_with_its_help_above_it():
    lines = configs.to_toml(BATCHED).splitlines()
    for name, field in configs.setting_fields().items():
        at = next(i for i, line in enumerate(lines) if line.startswith(f"{name} = "))
        assert lines[at - 1] == f"# {field.metadata['help']}"


def test_a_config_is_frozen():
    with pytest.raises(FrozenInstanceError):
        BATCHED.seed = 1


def test_two_configs_share_no_table():
    assert Config().rank_pattern is not Config().rank_pattern


# ------------------------------------------------------------------------------------------------------------ recipes


def test_the_recipes_that_ship_are_these():
    assert configs.recipe_names() == sorted(SHIPPED)
    assert configs.DEFAULT_RECIPE in SHIPPED


@pytest.mark.parametrize("recipe", configs.recipe_names())
def test_a_shipped_recipe_is_valid_and_tells_its_command(recipe):
    config = configs.load(recipe)
    assert config.problems() == []
    head = (configs.resources.files("textlora.recipes") / f"{recipe}.toml").read_text().splitlines()[:3]
    assert any(line.startswith("# command:  textlora ") for line in head)


def test_the_first_seeds_recipe_is_what_the_seed_trained_with():
    c = configs.load("roberta-qv-r10")
    assert (c.base, c.lora_r, c.lora_alpha, c.lora_dropout, c.target_modules) == (
        "roberta",
        10,
        64,
        0.1,
        ("query", "value"),
    )
    assert (c.learning_rate, c.per_device_train_batch_size, c.gradient_accumulation_steps) == (3.99e-4, 32, 4)
    assert (c.lr_scheduler_type, c.num_cycles, c.warmup_ratio, c.weight_decay) == ("cosine_with_restarts", 1, 0.1, 0.0)
    assert (c.max_steps, c.eval_steps, c.early_stopping_patience, c.max_length, c.base_dropout) == (
        2000,
        100,
        3,
        512,
        0.1,
    )
    assert (c.head, c.budget) == ("full", 999_999)


def test_the_second_seeds_recipe_is_what_the_seed_trained_with():
    c = configs.load("roberta-selective-r36")
    layers = ("0.attention.self.query", "0.attention.self.key", "5.attention.self.query", "10.attention.self.query")
    assert c.target_modules == tuple(f"roberta.encoder.layer.{layer}" for layer in layers)
    assert (c.base, c.lora_r, c.lora_alpha, c.learning_rate, c.weight_decay) == ("roberta", 36, 32, 2e-5, 0.01)
    assert (c.lora_dropout, c.lora_dropout_end) == (0.15, 0.05)
    assert c.lora_dropout_curve != "constant"
    assert (c.per_device_train_batch_size, c.num_train_epochs, c.warmup_ratio, c.base_dropout) == (16, 4.0, 0.1, 0.1)
    assert (c.head, c.budget) == ("full", 999_999)


def test_the_default_recipe_stays_within_three_epochs():
    assert configs.load().num_train_epochs <= 3


def test_quickstart_is_the_default_recipe_on_the_embedded_corpus():
    quick, default = configs.load("quickstart"), configs.load()
    # A small corpus wants smaller batches, more passes, a lower rate.
    changed = {"data", "batch_tokens", "num_train_epochs", "learning_rate", "auto"}
    assert quick.data == "mini-news"
    assert {key for key in quick.to_dict() if getattr(quick, key) != getattr(default, key)} <= changed


# --------------------------------------------------------------------------------------------------------- precedence


@given(st.booleans(), st.booleans())
def test_flag_beats_recipe_beats_default(tmp_path_factory, in_recipe, as_flag):
    recipe = tmp_path_factory.mktemp("recipe") / "mine.toml"
    recipe.write_text("batch_tokens = 512\n" + ("seed = 11\n" if in_recipe else ""))
    config = configs.load(str(recipe), {"seed": 22} if as_flag else {})
    assert config.seed == (22 if as_flag else 11 if in_recipe else Config().seed)


def test_a_recipe_file_may_lie_anywhere(tmp_path):
    (tmp_path / "mine.toml").write_text('batch_tokens = 512\nlabel_names = ["ü", "\\"quoted\\""]\n')
    assert configs.load(str(tmp_path / "mine.toml")).label_names == ("ü", '"quoted"')


@pytest.mark.parametrize(
    ("mode", "other"),
    [("batch_tokens", "per_device_train_batch_size"), ("per_device_train_batch_size", "batch_tokens")],
)
@pytest.mark.parametrize("recipe", ["minilm-fast", "roberta-qv-r10"])
def test_naming_one_batching_mode_switches_the_other_off(mode, other, recipe):
    config = configs.load(recipe, {mode: 600})
    assert (getattr(config, mode), getattr(config, other)) == (600, 0)


def test_naming_both_batching_modes_is_refused():
    with pytest.raises(UsageError, match="set one of batch_tokens and per_device_train_batch_size"):
        configs.load("minilm-fast", {"batch_tokens": 600, "per_device_train_batch_size": 8})


def test_a_whole_number_may_stand_for_a_float_and_one_name_for_a_list():
    config = configs.load("minilm-fast", {"num_train_epochs": 2, "text_column": "body", "layers_to_transform": 3})
    assert (config.num_train_epochs, config.text_column, config.layers_to_transform) == (2.0, ("body",), (3,))
    assert type(config.num_train_epochs) is float


# ---------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("changes", "phrase"),
    [
        ({"lora_r": 0}, "lora_r must be a whole number from 1 or max, got 0"),
        ({"lora_r": -4}, "got -4"),
        ({"lora_r": "maximum"}, "from 1 or max, got maximum"),
        ({"rank_pattern": {"query": 0}}, r"rank_pattern\[query\] must be a whole number from 1, got 0"),
        ({"alpha_pattern": {"query": -1}}, r"alpha_pattern\[query\] must be above 0, got -1"),
        ({"lora_alpha": 0}, "lora_alpha must be above 0"),
        ({"budget": 0}, "budget must be above 0"),
        ({"learning_rate": -1e-3}, "learning_rate must be above 0"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"learning_rate": float("inf")}, "learning_rate"),
        ({"weight_decay": float("nan")}, "weight_decay"),
        ({"max_grad_norm": float("inf")}, "max_grad_norm"),
        ({"sam_rho": -0.05}, "sam_rho must not be negative, got -0.05"),
        ({"sam_rho": float("nan")}, "sam_rho must be finite"),
        ({"sam_rho": float("inf")}, "sam_rho must be finite"),
        ({"num_train_epochs": float("inf")}, "num_train_epochs"),
        ({"lora_dropout": 1.0}, r"lora_dropout is a share in \[0, 1\), got 1.0"),
        ({"warmup_ratio": -0.1}, "warmup_ratio is a share"),
        ({"label_smoothing_factor": float("nan")}, "label_smoothing_factor is a share"),
        ({"validation_fraction": 0.0}, "validation_fraction must be above 0"),
        ({"max_steps": 0}, "max_steps must be -1"),
        ({"max_steps": -2}, "max_steps must be -1"),
        ({"max_length": 3}, "max_length must leave room"),
        ({"seed": -1}, "seed must not be negative"),
        ({"seed": 2**32}, "seed must be below"),  # NumPy takes no more, and the Trainer hands it on
        ({"head": "full"}, "goes with pooling cls"),
        ({"batch_tokens": 0}, "set one of batch_tokens"),
        ({"max_length": 4096}, "batch_tokens 2048 is below max_length 4096"),
        ({"base_weights": "random:x"}, "random:SEED needs a whole number"),
        ({"base_weights": "random:²"}, "random:SEED needs a whole number"),
        ({"base_weights": f"random:{2**64}"}, "random:SEED needs a whole number"),
        ({"lora_dropout_end": 0.2}, "lora_dropout_end needs --lora-dropout-curve"),
    ],
)
def test_a_value_out_of_range_is_named_with_what_is_expected(changes, phrase):
    with pytest.raises(UsageError, match=phrase):
        replace(BATCHED, **changes).checked()


def test_all_problems_are_told_at_once():
    config = replace(BATCHED, lora_r=0, learning_rate=-1.0, head="ful", batch_tokens=0, max_length=1)
    found = config.problems()
    for name in ("lora_r", "learning_rate", "head", "batch_tokens", "max_length"):
        assert any(name in line for line in found), name
    with pytest.raises(UsageError) as caught:
        config.checked()
    assert all(line in caught.value.message for line in found)


@pytest.mark.parametrize("name", sorted(CHOICES))
def test_an_unknown_choice_names_the_closest(name):
    allowed = CHOICES[name][-1]
    (line,) = [line for line in replace(BATCHED, **{name: allowed + "x"}).problems() if line.startswith(name)]
    assert f"did you mean {allowed}" in line


def test_an_unknown_key_names_the_closest():
    with pytest.raises(UsageError, match=r"no setting 'learning_rates'.*did you mean learning_rate"):
        configs.load("minilm-fast", {"learning_rates": 1.0})


def test_an_unknown_recipe_names_the_closest():
    with pytest.raises(
        UsageError, match=r"no recipe 'minilm-fsat'.*did you mean minilm-fast or minilm-best or minilm-small\?"
    ):
        configs.load("minilm-fsat")
    with pytest.raises(UsageError, match="no recipe file"):
        configs.load("/nowhere/mine.toml")


WRONG = {
    bool: ["true", 1, 0, [True], None],
    str: [3, 1.5, True, ["a"], None],
    int: ["3", 1.5, True, [3], None],
    float: ["0.1", True, [0.1], None],
    int | str: [1.5, True, [3], None],
    tuple[str, ...]: [1.5, [3], ["a", 3], [True], {"a": 1}, None],
    tuple[int, ...]: ["x", [1.5], [True], ["1"], {"a": 1}, None],
    dict[str, int]: ["query=3", [3], {"query": "3"}, {"query": 1.5}, {"query": True}, None],
}


@pytest.mark.parametrize("name", list(configs.setting_fields()))
def test_a_value_of_the_wrong_type_is_named_with_the_right_one(name):
    for value in WRONG[configs.setting_type(name)]:
        with pytest.raises(UsageError, match=f"^{name} must be "):
            configs.load("minilm-fast", {name: value})


@pytest.mark.parametrize(
    ("content", "phrase"), [(b"seed = \n", "not a TOML file"), (b'data = "\xff"\n', "not a TOML file")]
)
def test_a_recipe_that_is_no_toml_is_a_damaged_file(tmp_path, content, phrase):
    (tmp_path / "mine.toml").write_bytes(content)
    with pytest.raises(DamagedError, match=phrase):
        configs.load(str(tmp_path / "mine.toml"))


def test_a_table_in_a_recipe_is_no_setting(tmp_path):
    (tmp_path / "mine.toml").write_text("[training]\nseed = 1\n")
    with pytest.raises(UsageError, match="no setting 'training'"):
        configs.load(str(tmp_path / "mine.toml"))
