"""Meta: a family that nobody counted by hand is counted right, or refused with its reason."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from conftest import OTHERS as TRAINED
from test_budget import adapted, built, counts

from textlora import bases, meta
from textlora.bases import Base
from textlora.budget import plan
from textlora.config import Config
from textlora.errors import UsageError
from textlora.shapes import PREFIXES, Part

SIZES = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
OTHERS = {  # a shared layer, RoBERTa's twin, a head with attention in between, one that reads left to right
    "albert": {"embedding_size": 8},
    "camembert": {},
    "convbert": {"embedding_size": 16, "conv_kernel_size": 3},
    "qwen2": {"num_key_value_heads": 1},
}


def config_of(family: str, **more) -> dict:
    return {"model_type": family, **SIZES, **OTHERS.get(family, {}), **more}


@pytest.mark.parametrize("family", OTHERS)
@pytest.mark.parametrize("head", ["full", "linear"])
@pytest.mark.parametrize("bias", ["none", "lora_only", "all"])
def test_planned_is_what_transformers_and_peft_build(family, head, bias):
    shapes = bases.shapes_of(config_of(family))
    base = Base("other", "some/other", shapes, None, None, config_of(family))
    config = Config(budget=10**9, lora_r=3, head=head, pooling="mean", bias=bias)
    ours = plan(config, shapes, 5, "other")
    modules = meta.own_head(_classifier(base)) if head == "full" else ("classifier",)
    names = [m.name for m in ours.modules]
    model = built(base, config, 5, r=3, target_modules=names, modules_to_save=list(modules))
    assert counts(model) == (ours.trainable, ours.base_parameters)
    prefix = shapes.prefix if head == "full" else ""
    assert set(adapted(model, prefix)) == set(names)


def _classifier(base: Base):
    from transformers import AutoConfig, AutoModelForSequenceClassification

    return AutoModelForSequenceClassification.from_config(AutoConfig.for_model(**base.config))


@pytest.mark.parametrize("family", PREFIXES)
def test_what_is_counted_by_hand_is_what_would_be_measured(family):
    from textlora.counts import base_parameters, bias_parameters, head_parameters, linear_modules

    base = next(base for base in bases.BASES.values() if base.shapes.family == family)
    measured = meta.shapes_of(base.config)
    assert measured.measured
    assert (measured.prefix, measured.longest_text) == (base.shapes.prefix, base.shapes.longest_text)
    assert list(measured.measured.linears) == linear_modules(base.shapes)
    for head, part in (("linear", measured.measured.encoder), ("full", measured.measured.own)):
        assert part == Part(base_parameters(base.shapes, head), bias_parameters(base.shapes, head, "all", []))
    fixed, per_label = measured.measured.own_head
    assert [fixed + per_label * c for c in (2, 9)] == [head_parameters(base.shapes, "full", c, 8) for c in (2, 9)]


def test_a_model_that_reads_left_to_right_pools_no_first_token():
    shapes = bases.shapes_of(config_of("qwen2"))
    config = Config(budget=10**9, lora_r=1, pooling="mean")
    assert plan(config, shapes, 3, "other").pooling == "mean"
    with pytest.raises(UsageError, match=r"reads left to right.*--pooling mean"):
        plan(replace(config, pooling="cls"), shapes, 3, "other")


def test_a_misspelt_target_names_the_measured_ones():
    with pytest.raises(UsageError, match="did you mean q_proj"):
        plan(Config(lora_r=1, target_modules=("q_prj",)), bases.shapes_of(config_of("qwen2")), 3, "other")


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"model_type": "t5"}, "encoder-decoder"),
        ({"model_type": "gpt2"}, "no torch.nn.Linear"),
        ({"model_type": "vit"}, "no AutoModelForSequenceClassification"),
        ({"model_type": "perceiver"}, "names no hidden_size"),
        ({"model_type": "nomic-embed"}, "transformers has no such family"),
        (config_of("camembert", num_attention_heads=3), "can't be built"),
        (config_of("albert", hidden_size="wide"), "config.json is wrong"),
    ],
)
def test_what_makes_no_base_is_refused_with_the_reason(config, why):
    with pytest.raises(UsageError, match=why) as caught:
        bases.shapes_of(config)
    assert (caught.value.code, "deberta-v2" in caught.value.fix) == (2, True)


# ------------------------------------------------------------------------------------- a base of no list, end to end


@pytest.mark.slow
@pytest.mark.parametrize("family", TRAINED)
@pytest.mark.parametrize(("head", "pooling"), [("full", "cls"), ("linear", "mean"), ("low-rank", "mean")])
def test_a_base_of_another_family_trains_saves_and_loads(family, head, pooling, trained, tiny_base, texts):
    from textlora import predict

    run = trained(
        family, head=head, pooling=pooling
    )  # planned == built == saved == reloaded, or it would have exited 5
    predictor = predict.load(run, base_weights=str(tiny_base(family)), precision="fp32")
    together = predictor.predict_logits(texts[:6])
    alone = [predictor.predict_logits([text])[0] for text in texts[:6]]
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert f'from_pretrained("acme/{family}"' in (run / "adapter" / "README.md").read_text(encoding="utf-8")


def test_a_model_that_reads_padding_is_refused(tiny_config):
    from textlora.train import train

    with pytest.raises(UsageError, match=r"a fnet (reads padding|can't be run)"):
        train(tiny_config("fnet", lora_r=1, head="linear", pooling="mean"))
