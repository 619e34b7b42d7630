"""Model laws, over families, heads, forms and specs: planned = built = saved; reload, padding and plain PEFT agree."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import FAMILIES
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import (
    assert_built_is_saved,
    assert_gradients_reach_exactly_the_trained,
    assert_planned_is_built,
    assert_same_logits,
    pad_id,
    tokens_of,
)
from transformers.utils import logging as hf_logging

from textlora import adapter, device, predict
from textlora import model as models
from textlora.errors import DamagedError, ResourceError, UsageError
from textlora.prepare import plan_for
from textlora.tokens import Collator

LABELS = ("World", "Sports", "Business", "Sci/Tech")
HEADS = [("full", "cls"), ("linear", "cls"), ("linear", "mean"), ("low-rank", "cls"), ("low-rank", "mean")]
NAMES = {
    "bert": ["query", "value", "attention.output.dense", "encoder.layer.1.intermediate.dense"],
    "roberta": ["query", "key", "roberta.encoder.layer.0.attention.self.value", "output.dense"],
    "distilbert": ["q_lin", "v_lin", "ffn.lin1", "transformer.layer.1.attention.out_lin"],
    "electra": ["query", "value", "attention.output.dense", "electra.encoder.layer.1.intermediate.dense"],
    "mpnet": ["q", "v", "attention.attn.o", "encoder.layer.0.output.dense"],
    "deberta-v2": ["query_proj", "value_proj", "attention.output.dense", "deberta.encoder.layer.1.output.dense"],
    "modernbert": ["Wqkv", "Wo", "mlp.Wo", "model.layers.1.mlp.Wi"],
}


def built(config, labels=LABELS):
    plan = plan_for(config, len(labels))
    network, sha = models.build(config, plan, labels, device.compute_dtype(config.precision))
    return plan, network, sha


@pytest.mark.parametrize("family", FAMILIES)
@given(data=st.data())
@settings(max_examples=12)
def test_planned_is_built_is_saved(family, data, tiny_config):
    head, pooling = data.draw(st.sampled_from(HEADS))
    targets = data.draw(st.sampled_from([["all-linear"], *([n] for n in NAMES[family]), NAMES[family][:3]]))
    changes = {
        "head": head,
        "pooling": pooling,
        "target_modules": targets,
        "lora_r": data.draw(st.integers(1, 9)),
        "head_rank": data.draw(st.integers(1, 5)),
        "use_dora": data.draw(st.booleans()),
        "use_rslora": data.draw(st.booleans()),
        "bias": data.draw(st.sampled_from(["none", "lora_only", "all"])),
        "layers_to_transform": data.draw(st.sampled_from([[], [1]])) if targets == ["all-linear"] else [],
        "rank_pattern": data.draw(st.sampled_from([{}, {"layers?.1.*": 2}])) if targets == ["all-linear"] else {},
    }
    labels = tuple(f"label {i}" for i in range(data.draw(st.integers(2, 7))))
    plan, network, _ = built(tiny_config(family, **changes), labels)
    assert_planned_is_built(plan, network)
    with tempfile.TemporaryDirectory() as folder:
        assert_built_is_saved(plan, network, Path(folder))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("head", "pooling"), HEADS)
@pytest.mark.parametrize("use_dora", [False, True])
def test_a_fresh_adapter_changes_nothing(family, head, pooling, use_dora, tiny_config):
    _, network, _ = built(tiny_config(family, head=head, pooling=pooling, use_dora=use_dora))
    tokens = tokens_of(np.random.default_rng(0), [3, 9, 17])
    adapted = predict.logits(network, tokens, pad_id(network))
    with network.disable_adapter():  # the head goes back to its untrained self too, which is what it still is
        plain = predict.logits(network, tokens, pad_id(network))
    np.testing.assert_array_equal(adapted, plain)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("head", "pooling"), HEADS)
@given(lengths=st.lists(st.integers(2, 40), min_size=1, max_size=6), seed=st.integers(0, 99))
@settings(max_examples=8)
def test_padding_and_company_change_nothing(family, head, pooling, lengths, seed, tiny_config):
    _, network, _ = built(tiny_config(family, head=head, pooling=pooling, lora_r=2))
    tokens = tokens_of(np.random.default_rng(seed), lengths)
    pad = network.config.pad_token_id
    together = predict.logits(network, tokens, pad, batch_tokens=10_000)
    alone = predict.logits(network, tokens, pad, batch_tokens=1)
    np.testing.assert_allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("head", "pooling"), HEADS)
@pytest.mark.parametrize("bias", ["none", "all"])
def test_gradients_reach_exactly_the_trained(family, head, pooling, bias, tiny_config):
    dora = {"use_dora": bias == "all"}
    _, network, _ = built(tiny_config(family, head=head, pooling=pooling, bias=bias, **dora))
    tokens = tokens_of(np.random.default_rng(1), [5, 9])
    for name, parameter in network.named_parameters():  # a fresh B is zero and would hide A's gradient path
        if "lora_B" in name:
            parameter.data.normal_()
    assert_gradients_reach_exactly_the_trained(network, Collator(1).pad([tokens[0], tokens[1]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("head", "pooling"), HEADS)
@pytest.mark.parametrize("variant", [{}, {"use_dora": True, "use_rslora": True, "head_rank": 2}])
def test_a_reload_gives_the_same_logits_bit_for_bit(head, pooling, variant, dtype, tiny_config, tmp_path):
    config = tiny_config("roberta", head=head, pooling=pooling, bias="all", **variant)
    plan = plan_for(config, 4)
    network, sha = models.build(config, plan, LABELS, dtype)
    stir(network)
    save(network, config, sha, plan, tmp_path)
    loaded = models.load(tmp_path, base_weights=config.base_weights, dtype=dtype)
    assert_same_logits(network, loaded.model, tokens_of(np.random.default_rng(2), [4, 30, 11]))


def stir(network):
    """Noise into every trained tensor: a fresh adapter would hide what is lost."""
    with torch.no_grad():
        for tensor in adapter.adapter_tensors(network).values():
            tensor.add_(torch.randn_like(tensor) * 0.1)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("variant", [{}, {"use_rslora": True}, {"use_dora": True}])
def test_merged_into_the_base_an_adapter_gives_the_same_logits(family, variant, tiny_config):
    _, network, _ = built(tiny_config(family, **variant))
    stir(network)
    tokens = tokens_of(np.random.default_rng(3), [4, 30, 11])
    adapted = predict.logits(network, tokens, pad_id(network))
    network.merge_adapter()
    merged = predict.logits(network, tokens, pad_id(network))
    network.unmerge_adapter()
    np.testing.assert_allclose(merged, adapted, rtol=0, atol=1e-4)
    with network.disable_adapter():
        assert np.abs(predict.logits(network, tokens, pad_id(network)) - adapted).max() > 1e-2


def test_rslora_scales_by_the_root_of_the_rank(tiny_config):
    scalings = {}
    for use in (False, True):
        _, network, _ = built(tiny_config("bert", lora_r=4, lora_alpha=8, use_rslora=use))
        query = network.get_submodule("base_model.model.encoder.layer.0.attention.self.query")
        scalings[use] = query.scaling["default"]
    assert scalings == {False: 2.0, True: 4.0}


@pytest.mark.parametrize("labels", [4, 40])
def test_a_low_rank_heads_product_starts_as_large_as_one_matrix(labels, tiny_config):
    """Both forms: D -> k -> D, tanh, D -> C for 4 labels, D -> k -> C for 40."""
    config = tiny_config("bert", head="low-rank", head_rank=16)
    _, network, _ = built(config, tuple(map(str, range(labels))))
    head = network.base_model.model.classifier.modules_to_save["default"]
    assert [type(m).__name__ for m in head] == ["Linear", "Linear", "Tanh", "Linear"][: 4 if labels == 4 else 2]
    assert head[0].bias is None
    product = head[1].weight @ head[0].weight
    assert product.std().item() == pytest.approx(network.config.initializer_range, rel=0.25)


def save(network, config, sha, plan, folder):
    adapter.save_weights(network, folder)
    adapter.AdapterSettings(
        form="stock" if config.head == "full" else "textlora",
        base=models.bases.find(config.base).hub_id,
        base_sha256=sha,
        labels=LABELS,
        head=config.head,
        head_rank=plan.head_rank,
        pooling=config.pooling,
        max_length=48,
        trainable_parameters=plan.trainable,
    ).write(folder)


@pytest.fixture
def saved(tiny_config, tmp_path):
    config = tiny_config("bert")
    plan, network, sha = built(config)
    save(network, config, sha, plan, tmp_path / "adapter")
    return config, tmp_path / "adapter"


def test_other_base_weights_are_refused_unless_allowed(saved, tiny_base, tmp_path):
    from conftest import make_base

    _, folder = saved
    other = make_base("bert", tmp_path / "other", seed=1)
    with pytest.raises(UsageError, match="other weights"):
        models.load(folder, base_weights=str(other), dtype=torch.float32)
    assert models.load(folder, base_weights=str(other), allow_other_base=True, dtype=torch.float32)


@pytest.mark.parametrize(
    ("change", "phrase"),
    [
        (lambda t: t.pop(next(iter(t))), "lacks"),
        (lambda t: t.update(surplus=torch.zeros(1)), "no place for"),
        (lambda t: t.update({next(iter(t)): torch.zeros(3, 3)}), "shape"),
    ],
)
def test_a_missing_surplus_or_misshapen_tensor_is_refused(saved, change, phrase):
    from safetensors.torch import load_file, save_file

    config, folder = saved
    tensors = load_file(folder / adapter.WEIGHTS)
    change(tensors)
    save_file(tensors, folder / adapter.WEIGHTS)
    with pytest.raises(DamagedError, match=phrase):
        models.load(folder, base_weights=config.base_weights, dtype=torch.float32)


def test_a_cut_adapter_file_is_refused(saved):
    config, folder = saved
    path = folder / adapter.WEIGHTS
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(DamagedError, match="damaged"):
        models.load(folder, base_weights=config.base_weights, dtype=torch.float32)


def test_a_pickled_adapter_is_never_read(saved):
    config, folder = saved
    (folder / adapter.WEIGHTS).rename(folder / "adapter_model.bin")
    with pytest.raises(DamagedError, match="never read"):
        models.load(folder, base_weights=config.base_weights, dtype=torch.float32)


def test_a_base_without_pooler_weights_is_refused_for_the_full_bert_head(tiny_config, tiny_base, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    folder = tmp_path / "base"
    shutil.copytree(tiny_base("bert"), folder)
    tensors = {k: v for k, v in load_file(folder / "model.safetensors").items() if "pooler" not in k}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = tiny_config("bert", head="full", pooling="cls", base_weights=str(folder))
    with pytest.raises(UsageError, match="stay random"):
        built(config)


def fine_tuned(family: str, folder: Path, base: Path, labels: int) -> Path:
    """A copy of a tiny base as somebody's classifier of so many labels has it: every weight of its head is 7."""
    import shutil

    from transformers import AutoModelForSequenceClassification

    shutil.copytree(base, folder)
    network = AutoModelForSequenceClassification.from_pretrained(base, num_labels=labels)
    for name, parameter in network.named_parameters():
        if not name.startswith(f"{network.base_model_prefix}."):
            parameter.data.fill_(7)
    network.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert"])
@pytest.mark.parametrize(("head", "pooling"), [("full", "cls"), ("linear", "mean")])
@pytest.mark.parametrize("labels", [2, 4])
def test_a_classifier_as_a_base_gives_its_encoder_and_no_outputs(
    family, head, pooling, labels, tiny_base, tiny_config, tmp_path
):
    folder = fine_tuned(family, tmp_path / "base", tiny_base(family), labels)
    _, network, _ = built(tiny_config(family, head=head, pooling=pooling, base_weights=str(folder)))
    name = "base_model.model.classifier.modules_to_save.default"
    outputs = dict(network.get_submodule(name).named_parameters())
    assert not any((tensor == 7).any() for tensor in outputs.values())
    if (family, head) == ("modernbert", "full"):  # its transform is no label's: pretraining trained it, and it stays
        transform = network.get_submodule("base_model.model.head.modules_to_save.default")
        assert (transform.dense.weight == 7).all()


def test_weights_of_another_shape_than_the_config_says_are_damaged(tiny_base, tiny_config, tmp_path):
    import json
    import shutil

    folder = tmp_path / "base"
    shutil.copytree(tiny_base("bert"), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 48}))
    with pytest.raises(DamagedError, match=r"has another shape than config.json says") as caught:
        built(tiny_config("bert", base_weights=str(folder)))
    assert caught.value.code == 6


def test_random_weights_are_the_same_for_the_same_seed(tiny_config):
    from textlora import bases

    base = bases.find("distilbert")
    small = base.config | {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 32, "vocab_size": 50}
    base = bases.Base(base.name, base.hub_id, bases.Shapes.from_config(small), None, None, small)
    digests = []
    for seed in (0, 0, 1):
        hf = models.hf_config(base, f"random:{seed}", LABELS)
        digests.append(models._network(hf, base, f"random:{seed}", "textlora", torch.float32).base_sha256)
    assert digests[0] == digests[1] != digests[2]


def test_fp16_without_a_gpu_is_a_clear_refusal():
    with pytest.raises(ResourceError, match="needs a GPU"):
        device.compute_dtype("fp16", torch.device("cpu"))


def test_frozen_weights_are_held_in_the_compute_type_and_trained_ones_in_fp32(tiny_config):
    config = tiny_config("bert", precision="bf16", bias="all")
    network, _ = models.build(config, plan_for(config, 4), LABELS, torch.bfloat16)
    for name, parameter in network.named_parameters():
        assert parameter.dtype == torch.float32 or not parameter.requires_grad, name
    linear = network.get_submodule("base_model.model.encoder.layer.0.attention.self.query.base_layer")
    assert linear.weight.dtype == torch.bfloat16


@pytest.mark.parametrize("head", ["full", "linear"])
def test_a_pinned_base_whose_weights_were_changed_is_refused(head, tiny_base, tiny_config, monkeypatch):
    from dataclasses import replace

    config = tiny_config("bert", head=head, pooling="cls")
    plan = plan_for(config, 4)
    pinned = replace(models.bases.find("bert"), sha256="0" * 64)
    monkeypatch.setattr(models.bases, "find", lambda name, revision="": pinned)
    monkeypatch.setattr(models.bases, "files", lambda base, weights="": tiny_base("bert"))
    with pytest.raises(DamagedError, match="sha256"):
        models.build(replace(config, base_weights=""), plan, LABELS, torch.float32)


def test_weights_of_another_family_are_refused(tiny_config, tiny_base):
    with pytest.raises(UsageError, match="holds a roberta, the base bert is a bert"):
        plan_for(tiny_config("bert", base_weights=str(tiny_base("roberta"))), 4)


def test_a_config_that_is_no_table_is_damaged(saved):
    config, folder = saved
    (folder / adapter.PEFT_CONFIG).write_text("[]")
    with pytest.raises(DamagedError, match="no adapter's config"):
        models.load(folder, base_weights=config.base_weights, dtype=torch.float32)


def test_building_and_loading_are_quiet_and_leave_the_libraries_as_loud_as_they_were(tiny_config, trained):
    """transformers would report the pooler left out and the head made anew, and draw a bar."""
    said = []
    handler = logging.Handler()
    handler.emit = said.append
    usual = hf_logging.get_verbosity()
    hf_logging.add_handler(handler)
    hf_logging.set_verbosity_warning()
    try:
        built(tiny_config("bert"))
        predict.load(trained("bert"), base_weights=tiny_config("bert").base_weights)
        assert hf_logging.get_verbosity() == logging.WARNING
    finally:
        hf_logging.remove_handler(handler)
        hf_logging.set_verbosity(usual)
    assert [record.getMessage() for record in said] == []


# ------------------------------------------------------------------------------------------------------- four bits


def test_four_bits_are_refused_without_a_gpu_or_without_the_package(monkeypatch):
    with pytest.raises(ResourceError, match="needs a CUDA GPU, this machine offers cpu"):
        device.check_quantize("4bit")
    monkeypatch.setattr(device, "pick_device", lambda: torch.device("cuda"))
    monkeypatch.setattr(device, "_has_bitsandbytes", lambda: False)
    with pytest.raises(ResourceError, match=r"textlora\[quantize\]"):
        device.check_quantize("4bit")


def test_four_bits_are_those_of_qlora(monkeypatch):
    monkeypatch.setattr(device, "pick_device", lambda: torch.device("cuda"))
    asked = device.quantization(torch.float16, ("pre_classifier", "classifier"))
    settings = asked["quantization_config"]
    assert (settings.load_in_4bit, settings.bnb_4bit_quant_type, settings.bnb_4bit_use_double_quant) == (
        True,
        "nf4",
        True,
    )
    assert settings.bnb_4bit_compute_dtype == torch.float16
    assert settings.llm_int8_skip_modules == ["pre_classifier", "classifier"]  # a head is trained: it stays whole
    assert asked["device_map"] == {"": torch.device("cuda")}


@pytest.mark.slow
def test_an_adapter_trained_on_four_bits_is_an_ordinary_one(tiny_config, tiny_base, monkeypatch, tmp_path):
    """On a CPU, where the package is installed: the same path as a GPU's, whose kernels are another matter."""
    bnb = pytest.importorskip("bitsandbytes", reason="needs bitsandbytes: pip install 'textlora[quantize]'")
    from textlora.train import train

    init = bnb.nn.Linear4bit.__init__

    def without_repacking(self, *args, **kwargs):
        init(self, *args, **kwargs)
        self.support_avx512bf16_for_cpu = False  # a CPU's inference would repack the weights for good

    monkeypatch.setattr(bnb.nn.Linear4bit, "__init__", without_repacking)
    monkeypatch.setattr(device, "check_quantize", lambda quantize: None)
    config = tiny_config("bert", quantize="4bit", precision="bf16", head="low-rank", use_dora=True)
    network = built(config)[1]
    assert sum(isinstance(m, bnb.nn.Linear4bit) for m in network.modules()) == 12
    run = train(config, out=tmp_path / "run", say=lambda _: None)
    predictor = predict.load(run.folder, base_weights=str(tiny_base("bert")), precision="fp32")
    assert predictor.predict(["on the whole base"])[0] in predictor.labels
