"""Budget: planned counts are those of the model that transformers and PEFT build; `max` is the largest that fits."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from textlora import config as configs
from textlora.bases import BASES, Base, Shapes
from textlora.budget import linear_modules, pattern_key, plan
from textlora.config import Config
from textlora.counts import base_parameters, bias_parameters, usual_targets
from textlora.errors import BudgetError, UsageError

# PEFT 0.21 asks transformers 5.23 for a property that was renamed; neither we nor the counts have a part in it.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")

HEAD_RANK = 3  # of the tiny low-rank heads: labels are drawn on both sides of it
FULL = Config(head="full", pooling="cls", lora_r="max")
SELECTIVE = tuple(f"roberta.encoder.layer.{module}" for module in ("0.attention.self.query", "5.attention.self.query"))
FAMILIES = {base.shapes.family: base for base in BASES.values()}
CONTRACT = "base num_labels total trainable trainable_percent adapters head budget fits largest_r r lora_alpha"
CONTRACT += " target_modules modules biases head_kind head_rank pooling neighbours use_dora use_rslora bag_of_tokens"
CONTRACT += " memory memory_rows"


def planned(base: str = "roberta", labels: int = 4, **settings):
    return plan(replace(FULL, **settings), BASES[base].shapes, labels, base)


def tiny(family: str, **more) -> Base:
    """A base of the family with 16 numbers a token, 2 layers, feed-forward 24."""
    own = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24}
    usual = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    sizes = {**(own if family == "distilbert" else usual), "vocab_size": 50, "max_position_embeddings": 20}
    ids = {key: 3 for key in FAMILIES[family].config if key.endswith("_token_id")}
    config = {**FAMILIES[family].config, **sizes, **ids, **more}
    return Base("tiny", "tiny", Shapes.from_config(config), None, None, config)


NEAR = {"position_buckets": 4}
RELATIVE = {"relative_attention": True, "share_att_key": False, "pos_att_type": ["c2p", "p2c"]}
TINY = {
    **{family: tiny(family) for family in FAMILIES},
    "electra": tiny("electra", embedding_size=16),
    "electra-small": tiny("electra", embedding_size=8),
    "deberta-v2": tiny("deberta-v2", **NEAR),
    "deberta-v2-unshared": tiny(
        "deberta-v2", **RELATIVE, type_vocab_size=2, max_relative_positions=9, position_buckets=-1
    ),
    "deberta-v2-one-way": tiny("deberta-v2", **RELATIVE | {"pos_att_type": "P2C"}, **NEAR, position_biased_input=True),
    "deberta-v2-xlarge": tiny("deberta-v2", **NEAR, conv_kernel_size=3, conv_groups=2, embedding_size=8),
    "deberta-v2-absolute": tiny("deberta-v2", relative_attention=False, norm_rel_ebd="none", pos_att_type=None),
    "modernbert-biased": tiny("modernbert", attention_bias=True, mlp_bias=True, norm_bias=True, classifier_bias=True),
    "modernbert-half-biased": tiny("modernbert", mlp_bias=True),
}
ARCHITECTURES = {**BASES, **{name: base for name, base in TINY.items() if name not in FAMILIES}}


def network(base: Base, head: str, labels: int):
    """The transformers model with that head, random; and the names of its head's modules."""
    from torch import nn
    from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

    config = AutoConfig.for_model(**base.config, num_labels=labels)
    if head == "full":
        firsts = {"distilbert": ["pre_classifier"], "deberta-v2": ["pooler"], "modernbert": ["head"]}
        return AutoModelForSequenceClassification.from_config(config), [
            *firsts.get(base.shapes.family, []),
            "classifier",
        ]
    takes_pooler = "add_pooling_layer" in inspect.signature(AutoModel._model_mapping[type(config)]).parameters
    model = AutoModel.from_config(config, **({"add_pooling_layer": False} if takes_pooler else {}))
    d, k = base.shapes.hidden_size, HEAD_RANK
    if head == "linear":
        model.classifier = nn.Linear(d, labels)
    elif labels > k:
        model.classifier = nn.Sequential(nn.Linear(d, k, bias=False), nn.Linear(k, labels))
    else:
        model.classifier = nn.Sequential(nn.Linear(d, k, bias=False), nn.Linear(k, d), nn.Tanh(), nn.Linear(d, labels))
    return model, ["classifier"]


def built(base: Base, config: Config, labels: int, **lora):
    from peft import LoraConfig, get_peft_model

    model, modules = network(base, config.head, labels)
    task = "SEQ_CLS" if config.head == "full" else "FEATURE_EXTRACTION"
    named = {"task_type": task, "bias": config.bias, "modules_to_save": modules}
    return get_peft_model(model, LoraConfig(**{**named, **lora}))  # type: ignore[arg-type]


def counts(model) -> tuple[int, int]:
    """(trained, frozen), without PEFT's untrained copy of the head."""
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = (p.numel() for n, p in model.named_parameters() if not p.requires_grad and "original_module" not in n)
    return trained, sum(frozen)


def adapted(model, prefix: str) -> dict[str, tuple[int, float]]:
    """Module name without prefix -> (rank, alpha), of the adapters that PEFT made."""
    from peft.tuners.lora import LoraLayer

    names = {n.removeprefix("base_model.model.").removeprefix(prefix): m for n, m in model.named_modules()}
    return {n: (m.r["default"], m.lora_alpha["default"]) for n, m in names.items() if isinstance(m, LoraLayer)}


# --------------------------------------------------------------------------------------------------------------- laws


@st.composite
def questions(draw):
    """(base, config, labels) with targets and patterns that fit the family."""
    base = TINY[draw(st.sampled_from(sorted(TINY)))]
    paths = [m.name for m in linear_modules(base.shapes)]
    endings = [path.split(".0.", 1)[1] for path in paths if ".0." in path]
    short = list(dict.fromkeys(name for targets in usual_targets(base.shapes) for name in targets))
    names = [*short, *endings, "all-linear"]
    targets = st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True) | st.lists(
        st.sampled_from(paths).map(lambda path: draw(st.sampled_from(["", base.shapes.prefix])) + path),
        min_size=1,
        max_size=4,
        unique=True,
    )
    asked = tuple(draw(targets))
    is_path = asked[0].endswith(tuple(paths))
    keys = st.sampled_from([*short, r"layers?\.1\..*", paths[0], base.shapes.prefix + paths[-1]])
    patterns = st.dictionaries(keys, st.integers(1, 9), max_size=2)
    config = Config(
        budget=10**9,
        lora_r=draw(st.integers(1, 12)),
        lora_alpha=draw(st.integers(1, 64)),
        target_modules=asked,
        layers_to_transform=() if is_path else draw(st.sampled_from([(), (0,), (1,), (0, 1)])),
        rank_pattern=draw(patterns),
        alpha_pattern=draw(patterns),
        bias=draw(st.sampled_from(["none", "lora_only", "all"])),
        head=draw(st.sampled_from(["full", "linear", "low-rank"])),
        head_rank=HEAD_RANK,
        pooling="cls",
        use_dora=draw(st.booleans()),
        use_rslora=draw(st.booleans()),
    )
    return base, config, draw(st.integers(2, 7))


def plan_or_assume(config: Config, base: Base, labels: int):
    """The plan; a drawn pattern that matches none of the drawn targets is another test's business."""
    try:
        return plan(config, base.shapes, labels, base.name)
    except UsageError as error:
        assume("_pattern" not in error.message)
        raise


@given(questions())
@settings(max_examples=40, deadline=None)
def test_planned_is_what_transformers_and_peft_build(question):
    base, config, labels = question
    ours = plan_or_assume(config, base, labels)
    model = built(
        base,
        config,
        labels,
        r=ours.r,
        lora_alpha=ours.lora_alpha,
        target_modules=[m.name for m in ours.modules],
        rank_pattern=ours.rank_pattern,
        alpha_pattern=ours.alpha_pattern,
        use_dora=ours.use_dora,
        use_rslora=ours.use_rslora,
    )
    assert counts(model) == (ours.trainable, ours.base_parameters)
    made = adapted(model, base.shapes.prefix if config.head == "full" else "")
    assert made == {m.name: (m.r, m.lora_alpha) for m in ours.modules}


@given(questions())
@settings(max_examples=30, deadline=None)
def test_names_and_patterns_choose_what_peft_chooses(question):
    base, config, labels = question
    config = replace(config, head="full")  # only under the family's own head do prefixed names exist for PEFT
    assume("all-linear" not in config.target_modules)  # PEFT's takes BERT's pooler and DistilBERT's head too
    ours = plan_or_assume(config, base, labels)
    model = built(
        base,
        config,
        labels,
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        target_modules=list(config.target_modules),
        layers_to_transform=list(config.layers_to_transform) or None,
        rank_pattern=config.rank_pattern,
        alpha_pattern=config.alpha_pattern,
    )
    assert adapted(model, base.shapes.prefix) == {m.name: (m.r, m.lora_alpha) for m in ours.modules}


@given(questions(), st.integers(0, 30_000))
@settings(max_examples=50, deadline=None)
def test_max_is_the_largest_rank_that_fits(question, budget):
    base, config, labels = question
    free = plan_or_assume(replace(config, lora_r=1, budget=10**9), base, labels)
    assume(any(pattern_key(config.rank_pattern, base.shapes.prefix + m.name) is None for m in free.modules))
    config = replace(config, budget=budget, lora_r="max")
    if free.trainable > budget:
        with pytest.raises(BudgetError):
            plan(config, base.shapes, labels, base.name)
        return
    best = plan(config, base.shapes, labels, base.name)
    assert best.fits
    assert best.r == best.largest_r >= 1
    if best.r < base.shapes.hidden_size:
        with pytest.raises(BudgetError, match=f"--lora-r {best.r}, or --lora-r max"):
            plan(replace(config, lora_r=best.r + 1), base.shapes, labels, base.name)


@given(questions(), st.integers(1, 11))
@settings(max_examples=50, deadline=None)
def test_cost_grows_with_rank_and_only_by_the_adapters(question, step):
    base, config, labels = question
    ours = plan_or_assume(config, base, labels)
    more = plan(replace(config, lora_r=config.lora_r + step), base.shapes, labels, base.name)
    unpinned = [m for m in ours.modules if pattern_key(config.rank_pattern, base.shapes.prefix + m.name) is None]
    assert more.trainable - ours.trainable == step * sum(m.in_features + m.out_features for m in unpinned)
    assert (more.head, more.biases, more.base_parameters) == (ours.head, ours.biases, ours.base_parameters)


@given(questions(), st.integers(0, 30_000))
@settings(max_examples=50, deadline=None)
def test_neighbours_fit_differ_and_are_plans_of_the_same_head(question, budget):
    base, config, labels = question
    assume(not config.rank_pattern and not config.alpha_pattern)
    try:
        ours = plan(replace(config, budget=budget), base.shapes, labels, base.name)
    except BudgetError:
        return
    for other in ours.neighbours:
        asked = replace(config, target_modules=other.target_modules, lora_r=other.r, budget=budget)
        theirs = plan(asked, base.shapes, labels, base.name)
        assert theirs.trainable == other.trainable <= budget
        assert theirs.modules != ours.modules


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("head", ["full", "linear"])
def test_base_parameters_are_those_of_the_real_architecture(name, head):
    import torch

    base = ARCHITECTURES[name]
    with torch.device("meta"):
        model, modules = network(base, head, 4)
    own = {name: p.numel() for name, p in model.named_parameters() if name.split(".")[0] not in modules}
    assert base_parameters(base.shapes, head) == sum(own.values())
    biases = sum(numbers for name, numbers in own.items() if name.endswith(".bias"))  # PEFT's rule
    assert bias_parameters(base.shapes, head, "all", []) == biases


@pytest.mark.parametrize("name", TINY)
def test_linear_modules_are_the_linears_of_the_encoders_layers_in_order(name):
    from torch import nn

    model, _ = network(TINY[name], "linear", 2)
    linears = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear) and re.search(r"\.\d+\.", n)]
    ours = [(m.name, m.in_features, m.out_features, m.bias) for m in linear_modules(TINY[name].shapes)]
    assert ours == [(n, m.in_features, m.out_features, m.bias is not None) for n, m in linears]


@pytest.mark.parametrize(
    ("base", "millions"),
    [  # as published, without pooler and language-model head: model cards and papers
        *[("deberta", 183.8), ("deberta-small", 141.3), ("deberta-xsmall", 70.7)],
        *[("modernbert", 149.0), ("mpnet", 108.9), ("electra", 108.9), ("electra-small", 13.5)],
        *[("roberta-large", 354.3), ("distilroberta", 81.5), ("bge-small", 33.2)],
    ],
)
def test_sizes_are_the_published_ones(base, millions):
    assert round(base_parameters(BASES[base].shapes, "linear") / 1e6, 1) == millions


def test_pattern_keys_match_as_pefts_do():
    from peft.utils.other import get_pattern_key

    names = [m.name for m in linear_modules(BASES["roberta"].shapes)]
    for key in (
        "query",
        "uery",
        "encoder",
        r"layer\.[01]\..*query",
        "self.query|key",
        "attention.output.dense",
        "^encoder.*",
    ):
        for name in names:
            assert (pattern_key([key], name) or name) == get_pattern_key([key], name)
    assert pattern_key(["self.query", "query"], names[0]) == "self.query"  # the first one wins


# ------------------------------------------------------------------------------------------------------------- golden


@pytest.mark.parametrize(
    ("recipe", "adapters", "head", "percent"),
    [("roberta-qv-r10", 368_640, 593_668, 0.77), ("roberta-selective-r36", 221_184, 593_668, 0.65)],
)
def test_the_seeds_are_counted_exactly(recipe, adapters, head, percent):
    config = configs.load(recipe)
    ours = plan(config, BASES["roberta"].shapes, 4, "roberta")
    assert (ours.adapters, ours.head, ours.trainable) == (adapters, head, adapters + head)
    assert ours.trainable_percent == percent
    assert ours.base_parameters == 124_055_040


QKVO = ("query", "key", "value", "attention.output.dense")


@pytest.mark.parametrize(
    ("base", "head", "targets", "r", "trainable"),
    [  # shared/design/ecosystem.md, finding 6
        ("roberta", "full", ("query", "value"), 11, 999_172),
        ("roberta", "full", QKVO, 5, 962_308),
        ("roberta", "full", ("all-linear",), 2, 925_444),
        ("roberta", "linear", ("all-linear",), 6, 998_404),
        ("minilm", "linear", ("query", "value"), 108, 996_868),
        ("minilm", "linear", QKVO, 54, 996_868),
        ("minilm", "linear", ("all-linear",), 24, 996_868),
    ],
)
def test_max_finds_the_published_ranks(base, head, targets, r, trainable):
    ours = planned(base, head=head, target_modules=targets)
    assert (ours.r, ours.trainable) == (r, trainable)


@pytest.mark.parametrize(("targets", "r", "trainable"), [(QKVO[:3], 4, 916_996), (("query", "value"), 8, 990_724)])
def test_all_biases_of_roberta_are_102144(targets, r, trainable):
    ours = planned(bias="all", target_modules=targets, lora_r=r)
    assert (ours.biases, ours.trainable) == (102_144, trainable)
    assert ours.total == planned(target_modules=targets, lora_r=r).total  # a bias moves from frozen to trained


@pytest.mark.parametrize(
    ("base", "head", "parameters"),
    [
        ("roberta", "full", 593_668),
        ("xlm-roberta", "full", 593_668),
        ("roberta", "linear", 3_076),
        ("distilbert", "full", 593_668),
        ("distilbert", "linear", 3_076),
        ("minilm", "full", 1_540),
        ("minilm", "linear", 1_540),
    ],
)
def test_heads_for_four_labels(base, head, parameters):
    assert planned(base, head=head).head == parameters


@pytest.mark.parametrize(
    ("labels", "rank", "parameters"),
    [  # D = 768: two thin matrices, then their biases, then the last linear
        (4, 8, 768 * 8 + 8 * 768 + 768 + 768 * 4 + 4),
        (8, 8, 768 * 8 + 8 * 768 + 768 + 768 * 8 + 8),
        (9, 8, 768 * 8 + 8 * 9 + 9),
        (23, 8, 6_351),
        (4, 2, 768 * 2 + 2 * 4 + 4),
    ],
)
def test_a_low_rank_head_is_a_product_where_there_are_more_labels_than_ranks(labels, rank, parameters):
    ours = planned(labels=labels, head="low-rank", head_rank=rank)
    assert (ours.head, ours.head_rank) == (parameters, rank)
    assert planned(labels=labels, head="linear").head_rank is None


def test_dora_adds_an_output_row_to_each_adapted_module():
    plain, dora = (planned(head="linear", target_modules=("query", "value"), use_dora=d) for d in (False, True))
    fixed = planned(head="linear", target_modules=("query", "value"), lora_r=dora.r)
    assert dora.adapters - fixed.adapters == 24 * 768
    assert dora.trainable <= dora.budget < planned(head="linear", budget=10**7, use_dora=True, lora_r=plain.r).trainable


# ------------------------------------------------------------------------------------------------------- the contract


def test_json_has_exactly_the_contracts_keys_and_adds_up():
    ours = planned(target_modules=SELECTIVE, rank_pattern={"0.attention.self.query": 40}, alpha_pattern={"query": 8})
    values = json.loads(json.dumps(ours.to_dict()))
    assert set(values) == set(CONTRACT.split())
    assert values["trainable"] == values["adapters"] + values["head"] + values["biases"] <= values["budget"]
    assert values["adapters"] == sum(m["r"] * (m["in"] + m["out"]) for m in values["modules"])
    assert values["modules"][0] == {
        "name": "encoder.layer.0.attention.self.query",
        "in": 768,
        "out": 768,
        "r": 40,
        "lora_alpha": 8,
        "parameters": 61_440,
    }
    assert ours.rank_pattern == {"encoder.layer.0.attention.self.query": 40}
    assert set(ours.alpha_pattern) == {m.name for m in ours.modules}


def test_neighbours_name_one_rank_up_and_down_and_the_usual_sets():
    found = {
        (n.target_modules, n.r): n.trainable for n in planned(target_modules=("query", "value"), lora_r=10).neighbours
    }
    assert found == {
        (("query", "value"), 9): 925_444,
        (("query", "value"), 11): 999_172,
        (QKVO[:3], 7): 980_740,
        (QKVO, 5): 962_308,
        (("all-linear",), 2): 925_444,
    }


def test_the_budget_is_an_at_most():
    exact = planned(target_modules=("query",)).trainable
    assert planned(target_modules=("query",), budget=exact).trainable == exact
    assert planned(target_modules=("query",), budget=exact - 1).r == planned(target_modules=("query",)).r - 1


def test_a_budget_that_pinned_ranks_fill_exactly_is_kept():
    exact = 593_668 + 12 * 3 * 1_536
    ours = planned(target_modules=("query",), rank_pattern={"query": 3}, lora_r=1, budget=exact)
    assert (ours.trainable, ours.fits) == (exact, True)


def test_a_pattern_key_may_carry_the_models_prefix():
    path = "encoder.layer.0.attention.self.query"
    plans = [planned(rank_pattern={prefix + path: 1}, alpha_pattern={prefix + path: 2}) for prefix in ("", "roberta.")]
    assert plans[0] == plans[1]
    assert plans[0].rank_pattern == {path: 1}


def test_a_plan_takes_under_a_second():
    code = "from textlora import bases, budget, config; c = config.load('roberta-qv-r10');"
    code += "print(budget.plan(c, bases.find(c.base).shapes, 4, c.base).trainable)"
    env = {"PYTHONPATH": str(Path(__file__).parents[1] / "src")}
    times = []
    for _ in range(3):  # the best of three: the machine may be busy
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
        times.append(time.perf_counter() - start)
        assert done.stdout.strip() == "962308", done.stderr
    assert min(times) < 1


# ---------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"target_modules": ("qurey",)}, "'qurey' matches nothing; did you mean query"),
        ({"target_modules": ("query", "q_lin")}, "'q_lin' matches nothing"),
        ({"target_modules": ("uery",)}, "did you mean query"),
        ({"target_modules": ("classifier",)}, "matches nothing"),
        ({"target_modules": ()}, "target_modules is empty"),
        ({"target_modules": ("roberta.encoder.layer.12.attention.self.query",)}, r"did you mean encoder\.layer\.\d+\."),
        ({"target_modules": ("bert.encoder.layer.0.attention.self.query",)}, r"did you mean encoder\.layer\.0\."),
        ({"target_modules": ("query",), "rank_pattern": {"value": 2}}, r"rank_pattern: 'value' matches no module"),
        ({"rank_pattern": {"qurey": 2}}, "did you mean query"),
        ({"alpha_pattern": {"layer.12.*": 2}}, "alpha_pattern: 'layer.12"),
        ({"rank_pattern": {"que(ry": 2}}, "no regular expression"),
        ({"layers_to_transform": (0, 12)}, "names layer 12; the base has layers 0 to 11"),
        ({"layers_to_transform": (-1,)}, "names layer -1"),
        ({"layers_to_transform": (1,), "target_modules": SELECTIVE}, "outside layers_to_transform"),
        ({"lora_r": 0}, "a rank is 0"),
        ({"rank_pattern": {"query": 0}}, "a rank is 0"),
        ({"target_modules": ("query",), "rank_pattern": {"query": 2}}, "rank_pattern sets the rank of every module"),
        ({"labels": 1}, "num_labels is 1"),
    ],
)
def test_a_setting_that_means_nothing_is_a_usage_error(setting, words):
    with pytest.raises(UsageError, match=words) as caught:
        planned(**setting)
    assert caught.value.code == 2


def test_every_near_match_is_a_target():
    with pytest.raises(UsageError) as caught:
        planned(target_modules=("intermediate",))
    suggestion = caught.value.fix.removeprefix("did you mean ").removesuffix("?").split(" or ")[0]
    assert planned(target_modules=(suggestion,)).modules


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        (
            {"target_modules": ("query", "value"), "lora_r": 10, "budget": 900_000},
            "rank 10 on query, value trains 962,308 parameters, the budget is 900,000; the largest rank that fits is 8",
        ),
        (
            {"budget": 593_667},
            "full head for 4 labels alone needs 593,668 parameters.*--head linear, which needs 3,076",
        ),
        ({"budget": 600_000, "bias": "all"}, "with bias all alone needs 695,812.*--bias none"),
        ({"budget": 600_000}, "even rank 1 on all-linear trains 759,556 parameters.*raise --budget to 759,556"),
        ({"budget": 600_000, "rank_pattern": {"query": 8}, "target_modules": QKVO}, "rank 1 on .* beside rank_pattern"),
        ({"budget": 3_000, "head": "linear"}, "linear head for 4 labels alone needs 3,076 parameters"),
        ({"budget": 20_000}, "--head linear, which needs 3,076, or use --head low-rank, which needs 16,132"),
        ({"budget": 9_000, "head": "linear", "labels": 23}, "17,687 .*use --head low-rank, which needs 6,351"),
        ({"budget": 600_000, "use_dora": True}, "rank 1 on .* trains 842,500 .*leave out --use-dora"),
    ],
)
def test_over_budget_says_what_would_fit(setting, words):
    with pytest.raises(BudgetError, match=words) as caught:
        planned(**setting)
    assert caught.value.code == 4


def test_the_largest_rank_that_an_error_names_fits():
    with pytest.raises(BudgetError, match="largest rank that fits is 8:"):
        planned(target_modules=("query", "value"), lora_r=10, budget=900_000)
    assert planned(target_modules=("query", "value"), lora_r=8, budget=900_000).trainable == 888_580
