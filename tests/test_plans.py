"""Plans: every plan in the table fits, is as large as it can be, can be asked for by its flags, and stands in order."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from textlora import cli, plans
from textlora import config as configs
from textlora.bases import BASES
from textlora.budget import plan
from textlora.errors import BudgetError
from textlora.plans import good_plans

CONFIG = configs.load()


def run(capsys, *argv: str) -> dict:
    assert cli.main([*argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@given(st.sampled_from(sorted(BASES)), st.integers(3_000, 3_000_000), st.integers(2, 100))
@settings(max_examples=50, deadline=None)
def test_each_plan_fits_is_the_largest_and_no_two_are_the_same(name, budget, labels):
    base = BASES[name]
    try:
        good = good_plans(replace(CONFIG, budget=budget), base.shapes, labels, name)
    except BudgetError:  # then the smallest of them doesn't fit either
        with pytest.raises(BudgetError):
            plan(replace(CONFIG, budget=budget, lora_r=1), base.shapes, labels, name)
        return
    for one in good:
        assert one.plan.trainable <= budget
        assert one.plan.r == one.plan.largest_r >= 1
    assert len({(p.plan.head_kind, p.plan.target_modules) for p in good}) == len(good)


@given(st.sampled_from(sorted(BASES)), st.integers(20_000, 3_000_000))
@settings(max_examples=30, deadline=None)
def test_all_linears_come_before_attention_and_a_smaller_head_before_a_larger(name, budget):
    try:
        good = good_plans(replace(CONFIG, budget=budget), BASES[name].shapes, 4, name)
    except BudgetError:
        return
    rank = [(p.plan.target_modules != ("all-linear",), -len(p.plan.target_modules), p.plan.head) for p in good]
    assert rank == sorted(rank)


def test_roberta_for_a_million_as_the_design_counted_it():
    good = good_plans(CONFIG, BASES["roberta"].shapes, 4, "roberta")
    found = {(p.plan.head_kind, p.plan.target_modules): (p.plan.r, p.plan.trainable) for p in good}
    assert found[("linear", ("all-linear",))] == (6, 998_404)
    assert found[("full", ("query", "value"))] == (11, 999_172)
    assert (good[0].plan.head_kind, good[0].plan.r) == ("linear", 6)
    full = next(p for p in good if p.plan.head_kind == "full")
    assert "59.4 % of the budget" in full.reason


def test_a_base_alone_prints_the_table_and_says_that_its_order_is_a_rule(capsys):
    assert cli.main(["plan", "--base", "roberta"]) == 0
    out = capsys.readouterr().out
    assert "a rule, not a measurement" in out
    assert "--head linear --pooling mean --target-modules all-linear --lora-r 6" in out


@pytest.mark.parametrize("base", ["roberta", "minilm", "modernbert", "deberta-xsmall"])
def test_the_flags_of_each_plan_give_that_plan(base, capsys):
    table = run(capsys, "plan", "--base", base)
    for one in table["plans"]:
        same = run(capsys, "plan", "--base", base, *one["flags"].split())
        assert {key: same[key] for key in one if key not in ("reason", "flags")} == {
            key: value for key, value in one.items() if key not in ("reason", "flags")
        }


def test_the_json_of_the_table_is_the_best_plans_with_the_list_beside_it(capsys):
    table = run(capsys, "plan", "--base", "roberta", "--budget", "700000")
    best = run(capsys, "plan", "--base", "roberta", "--budget", "700000", *table["plans"][0]["flags"].split())
    assert set(table) == set(best) | {"plans", "rule"}
    assert {key: table[key] for key in best} == best


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["--recipe", "roberta-qv-r10"],
        ["--base", "bert", "--lora-r", "2"],
        ["--base", "bert", "--bias", "all", "--lora-r", "1"],
    ],
)
def test_with_a_recipe_or_a_spec_there_is_one_plan(argv, capsys):
    assert "plans" not in run(capsys, "plan", *argv)


def test_every_flag_that_makes_a_plan_is_a_setting():
    assert set(plans.SPEC) <= set(configs.setting_fields())


def test_nothing_fits_is_over_budget_and_says_what_would(capsys):
    assert cli.main(["plan", "--base", "roberta", "--budget", "3000", "--json"]) == 4
    error = json.loads(capsys.readouterr().out)["error"]
    assert (error["code"], "raise --budget to 39,940 for rank 1" in error["fix"]) == (4, True)


@pytest.mark.parametrize("base", ["roberta", "electra-small", "mpnet", "deberta", "modernbert"])
def test_a_table_loads_neither_torch_nor_transformers(base):
    code = "import sys; from textlora import cli; cli.main(['plan', '--base', sys.argv[1], '--json']);"
    code += "sys.exit([name for name in ('torch', 'transformers', 'peft', 'numpy') if name in sys.modules] != [])"
    env = {"PYTHONPATH": str(Path(__file__).parents[1] / "src")}
    done = subprocess.run([sys.executable, "-c", code, base], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
