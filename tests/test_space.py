"""Search spaces: whatever is drawn is a config within the budget, and what is wrong with a space is said."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from textlora import bases, space
from textlora import config as configs
from textlora.config import Config
from textlora.errors import BudgetError, DamagedError, UsageError
from textlora.space import Task, open_space, propose

BASES = ("minilm", "roberta", "distilbert", "deberta", "modernbert", "electra", "mpnet")


class Drawn:
    """A trial whose values Hypothesis draws."""

    def __init__(self, draw: Any) -> None:
        self.draw, self.params = draw, {}

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False):
        if step:
            value = low + step * self.draw(st.integers(0, round((high - low) / step)))
        else:
            value = self.draw(st.floats(low, high))
        return self.params.setdefault(name, value)

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False):
        return self.params.setdefault(name, self.draw(st.integers(low, high)))

    def suggest_categorical(self, name: str, choices: Any):
        return self.params.setdefault(name, self.draw(st.sampled_from(choices)))


class Given:
    """A trial with the parameters it is told."""

    def __init__(self, params: dict[str, Any]) -> None:
        self.params = params

    def suggest_float(self, name: str, low: float, high: float, **_: Any):
        assert low <= self.params[name] <= high
        return self.params[name]

    suggest_int = suggest_float

    def suggest_categorical(self, name: str, choices: Any):
        assert self.params[name] in choices
        return self.params[name]


def task(base: str = "minilm", num_labels: int = 4, **changes: Any) -> Task:
    config = configs.load("minilm-fast", {"base": base, "max_length": 128, **changes})
    config = replace(config, auto=())
    found = bases.find(config.base)
    return Task(config, ("warmup_ratio", "eval_steps"), bases.shapes(found), num_labels, found.hub_id)


@given(st.data(), st.sampled_from(BASES), st.integers(2, 150), st.integers(5_000, 3_000_000))
def test_any_draw_is_a_config_within_the_budget(data, base, num_labels, budget):
    more = {
        "use_dora": data.draw(st.booleans()),
        "bias": data.draw(st.sampled_from(["none", "lora_only"])),
        "bag_of_tokens": data.draw(st.booleans()),
    }
    asked = task(base, num_labels, budget=budget, **more)
    try:
        opened = open_space("budget", asked)
    except BudgetError:
        assume(False)
    trial = Drawn(data.draw)
    config = propose(trial, opened)
    assert config.problems() == []
    plan = asked.plan(config)
    assert plan.adapters > 0
    assert plan.trainable <= budget
    assert set(trial.params) == set(opened.domains)  # the same parameters in every draw
    assert configs.from_dict(tomllib.loads(configs.to_toml(config))) == config


@given(st.data())
def test_shares_decide_on_ranks_and_a_share_of_nothing_is_no_adapter(data):
    opened = open_space("budget", task(budget=10_000_000))
    trial = Drawn(data.draw)
    plan = opened.task.plan(propose(trial, opened))
    ranks = {module.name: module.r for module in plan.modules}
    most = space.most_rank(opened.task)
    shares = {cell: trial.params[cell.name] for cell in space.cells(opened.task)}
    for cell, share in shares.items():
        found = {ranks.get(module.name, 0) for module in cell.modules}
        if any(shares.values()):
            assert found == {max(1, round(share * most)) if share else 0}


def test_what_is_over_the_limit_is_scaled_down_until_it_nearly_fills_it():
    opened = open_space("budget", task(budget=500_000, lora_r="max"))
    params = opened.start() | {cell.name: 1.0 for cell in space.cells(opened.task)}
    plan = opened.task.plan(propose(Given(params), opened))
    assert 450_000 < plan.trainable <= 500_000
    assert len({module.r for module in plan.modules}) == 1


def test_the_first_trial_is_the_recipe_itself_where_the_space_holds_it():
    opened = open_space("budget", task())
    config, start = propose(Given(opened.start()), opened), opened.task.config
    same = ("lora_r", "lora_alpha", "rank_pattern", "target_modules", "head", "pooling", "learning_rate", "cleaning")
    same += ("batch_tokens", "num_train_epochs", "weight_decay", "lora_dropout", "bag_of_tokens")
    assert {key: getattr(config, key) for key in same} == {key: getattr(start, key) for key in same}


def test_the_first_seed_s_space_is_its_four_settings_and_its_short_trials():
    config = replace(configs.load("roberta-qv-r10"), auto=())
    found = bases.find("roberta")
    opened = open_space("roberta-qv-r10", Task(config, (), bases.shapes(found), 4, found.hub_id))
    assert space.recipe_of("roberta-qv-r10") == "roberta-qv-r10"
    wanted = {"learning_rate", "per_device_train_batch_size", "gradient_accumulation_steps", "weight_decay"}
    assert set(opened.domains) == wanted
    drawn = propose(Given(opened.start()), opened)
    short = opened.short(drawn)
    assert (short.max_steps, short.eval_steps) == (200, 50)
    assert opened.full(short) == replace(drawn, max_steps=2000, eval_steps=100)
    assert opened.task.plan(short).trainable == 962_308


def write(tmp_path, text: str) -> str:
    file = tmp_path / "space.toml"
    file.write_text(text)
    return str(file)


@given(st.data())
def test_a_rank_of_a_file_s_space_that_does_not_fit_becomes_the_largest_that_does(tmp_path_factory, data):
    file = write(tmp_path_factory.mktemp("space"), "[search]\nlora_r = {low = 1, high = 200}\nlora_dropout = [0, 0.1]")
    opened = open_space(file, task(budget=400_000))
    config = propose(Drawn(data.draw), opened)
    assert opened.task.plan(config).fits


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[search]\nlearning_rat = [1e-3]", "'learning_rat'"),
        ("[search]\nseed = [1, 2]", "'seed'"),
        ("[serch]\nlearning_rate = [1e-3]", "'serch'"),
        ("recipe = 'minilm-fast'", "no [search]"),
        ("[search]\nlearning_rate = {low = 1e-3, high = 1e-4}", "no range"),
        ("[search]\nlearning_rate = {low = 0.0, high = 1e-4, log = true}", "no range"),
        ("[search]\nlearning_rate = {low = 1e-4}", "give a list of values"),
        ("[search]\nlearning_rate = ['high']", "learning_rate must be float"),
        ("[search]\nlearning_rate = [-1.0]", "learning_rate must be above 0"),
        ("[search]\nhead = ['linear', 'round']", "head is 'round'"),
        ("[search]\nweight_decay = [0.0]\n[pruner]\nkind = 'x'", "'kind'"),
        ("[search]\nweight_decay = [0.0]\n[trial]\nsteps = 3", "'steps'"),
        ("search = 3", "search is 3"),
        ("trial = 3\n[search]\nweight_decay = [0.0]", "trial is 3"),
        ("pruner = 'median'\n[search]\nweight_decay = [0.0]", "pruner is 'median'"),
        ("[search]\nweight_decay = [0.0]\n[pruner]\nstartup_trials = -1", "startup_trials is -1"),
        ("[search]\nweight_decay = [0.0]\n[pruner]\nwarmup_texts = '1k'", "warmup_texts is '1k'"),
        ("[search]\nlora_r = {low = 1, high = 8, step = 0.5}", "in steps of 0.5"),
        ("[search]\nlora_r = {low = 1, high = 8, step = 0}", "in steps of 0"),
        ("[search]\nlora_r = {low = 1, high = 8, step = 9}", "in steps of 9"),
        ("[search]\nlora_r = {low = 1, high = 'max'}", "no range"),
        ("[search]\nlora_r = {low = 1, high = 8, log = 'no'}", "log true or false"),
        ("[search]\nrank_pattern = [1, 2]", "rank_pattern is a table"),
        ("[search]\nrank_pattern = [{'layer.0.output.dense' = 4}]", "rank_pattern is a table"),
        ("[search]\nbatch_tokens = [64, 2048]", "batch_tokens 64 is below max_length 128"),
        ("[search]\nbatch_tokens = [256, 2048]\nmax_length = [128, 512]", "batch_tokens 256 is below max_length 512"),
    ],
)
def test_what_is_wrong_with_a_space_is_said(tmp_path, text, words):
    with pytest.raises(UsageError) as caught:
        open_space(write(tmp_path, text), task())
    assert words in str(caught.value)


def test_a_stepped_range_ends_on_a_step_and_max_is_its_end(tmp_path):
    space_of = "[search]\nlora_r = {low = 1, high = 8, step = 3}\nlora_dropout = {low = 0.0, high = 0.25, step = 0.1}"
    opened = open_space(write(tmp_path, space_of), task(lora_r="max"))
    assert [domain.told()["high"] for domain in opened.domains.values()] == [7, pytest.approx(0.2)]
    assert opened.start()["lora_r"] == 7


def test_spaces_that_are_not_there_or_no_toml(tmp_path):
    with pytest.raises(UsageError, match="no space 'budgets'"):
        open_space("budgets", task())
    with pytest.raises(UsageError, match="no space file"):
        open_space(str(tmp_path / "none.toml"), task())
    with pytest.raises(DamagedError):
        open_space(write(tmp_path, "[search"), task())


def test_a_space_that_can_not_fit_is_a_budget_error(tmp_path):
    with pytest.raises(BudgetError, match="nothing in the space budget fits"):
        open_space("budget", task(budget=2_000, bag_of_tokens=False))
    file = write(tmp_path, "[search]\nhead = ['linear', 'low-rank']\nlora_dropout = [0.0, 0.1]")
    with pytest.raises(BudgetError, match="can't fit with head low-rank"):
        open_space(file, task(budget=10_000, bag_of_tokens=False, target_modules=["query"]))
    file = write(tmp_path, "[search]\nhead_rank = {low = 1, high = 10_000}\nlora_dropout = [0.0, 0.1]")
    with pytest.raises(BudgetError, match="can't fit with head_rank 10000"):
        open_space(file, task(head="low-rank"))


def test_a_left_to_right_base_is_read_by_its_mean_only(tiny_config):
    config: Config = replace(tiny_config("qwen2"), auto=())
    found = bases.find(config.base)
    opened = open_space("budget", Task(config, (), bases.shapes(found, config.base_weights), 4, found.hub_id))
    assert opened.domains["pooling"].told() == {"choices": ["mean"]}
    assert opened.task.plan(propose(Given(opened.start()), opened)).fits
