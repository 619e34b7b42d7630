"""Inspect: the file's own numbers, from JSON alone; whatever a stranger's folder holds, the answer is an answer."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from contextlib import suppress
from math import prod
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from textlora.errors import DamagedError, TextLoraError, UsageError
from textlora.header import read_header
from textlora.inspect import inspect_adapter

PEER = Path(__file__).parents[1].parent / "shared" / "data" / "peer_adapter"
CONTRACT = "base num_labels total trainable trainable_percent adapters head budget fits largest_r r lora_alpha"
CONTRACT += " target_modules modules biases head_kind head_rank pooling base_sha256 labels format use_dora use_rslora"
CONTRACT += " bag_of_tokens memory"
CONFIG = {"peft_type": "LORA", "task_type": "SEQ_CLS", "base_model_name_or_path": "roberta-base", "r": 2}
CONFIG |= {"lora_alpha": 4, "target_modules": ["query"], "rank_pattern": {}, "alpha_pattern": {}}
QUERY = "base_model.model.roberta.encoder.layer.{}.attention.self.query"


def safetensors(header: object, data_bytes: int = 0) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(data_bytes)


def tensors(shapes: dict[str, tuple[int, ...]]) -> bytes:
    """A safetensors file of float32 zeros."""
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 4 * prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
    return safetensors(header, end)


def pair(layer: int, r: int = 2, d: int = 8) -> dict[str, tuple[int, ...]]:
    name = QUERY.format(layer)
    return {f"{name}.lora_A.weight": (r, d), f"{name}.lora_B.weight": (d, r)}


def adapter(folder: Path, shapes: dict | bytes, **config) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({**CONFIG, **config}))
    (folder / "adapter_model.safetensors").write_bytes(shapes if isinstance(shapes, bytes) else tensors(shapes))
    return folder


# --------------------------------------------------------------------------------------------------- golden, references


@pytest.mark.skipif(not PEER.is_dir(), reason=f"needs {PEER}, which isn't in the repository")
def test_the_peers_adapter_is_read_exactly():
    found = inspect_adapter(PEER)
    assert set(found) == set(CONTRACT.split())
    assert (found["base"], found["format"], found["num_labels"]) == ("roberta-base", "stock", 4)
    assert (found["trainable"], found["adapters"], found["head"], found["biases"]) == (814_852, 221_184, 593_668, 0)
    assert (found["r"], found["lora_alpha"], found["trainable_percent"]) == (36, 32, 0.65)
    assert [m["name"] for m in found["modules"]] == [
        "encoder.layer.0.attention.self.key",
        "encoder.layer.0.attention.self.query",
        "encoder.layer.5.attention.self.query",
        "encoder.layer.10.attention.self.query",
    ]
    assert all((m["r"], m["in"], m["out"], m["parameters"]) == (36, 768, 768, 55_296) for m in found["modules"])


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # PEFT 0.21 asks transformers 5.23
@pytest.mark.parametrize("family", ["bert", "distilbert", "roberta"])
@pytest.mark.parametrize("bias", ["none", "lora_only", "all"])
def test_a_file_that_peft_saved_is_counted_as_the_model_that_it_saved(tmp_path, family, bias):
    from test_budget import TINY, adapted, built, counts

    from textlora.config import Config

    base = TINY[family]
    config = Config(head="full", pooling="cls", bias=bias)
    query = "q_lin" if family == "distilbert" else "query"
    patterns = {"rank_pattern": {f"layer.1.*{query}": 5}, "alpha_pattern": {query: 3}}
    model = built(base, config, 3, r=2, lora_alpha=4, target_modules=[query], **patterns)
    model.save_pretrained(str(tmp_path))

    found = inspect_adapter(tmp_path)
    assert found["trainable"] == found["adapters"] + found["head"] + found["biases"] == counts(model)[0]
    assert found["num_labels"] == 3
    assert {m["name"]: (m["r"], m["lora_alpha"]) for m in found["modules"]} == adapted(model, base.shapes.prefix)
    assert sum(m["parameters"] for m in found["modules"]) == found["adapters"]


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
def test_what_dora_adds_is_counted(tmp_path):
    from test_budget import TINY, built, counts

    from textlora.config import Config

    model = built(TINY["bert"], Config(head="linear"), 3, r=2, target_modules=["query"], use_dora=True)
    model.save_pretrained(str(tmp_path))
    found = inspect_adapter(tmp_path)
    assert (found["trainable"], found["format"]) == (counts(model)[0], "FEATURE_EXTRACTION")
    assert found["modules"][0]["parameters"] == 2 * (16 + 16) + 16


def test_shapes_are_those_that_safetensors_reads(tmp_path):
    import torch
    from safetensors.torch import save_file

    kept = {
        "a": torch.zeros(2, 3),
        "b": torch.zeros(4, dtype=torch.bfloat16),
        "scalar": torch.zeros(()),
        "c": torch.zeros(0, 5),
    }
    save_file(kept, tmp_path / "file.safetensors", metadata={"format": "pt"})
    assert read_header(tmp_path / "file.safetensors") == {name: tuple(t.shape) for name, t in kept.items()}


def test_our_own_form_brings_labels_hash_and_budget(tmp_path):
    head = {"base_model.model.classifier.weight": (4, 8), "base_model.model.classifier.bias": (4,)}
    bare = {name.replace("roberta.", ""): shape for name, shape in pair(0).items()}
    folder = adapter(tmp_path, {**bare, **head}, task_type="FEATURE_EXTRACTION", modules_to_save=["classifier"])
    ours = {"form": "textlora", "base": "FacebookAI/roberta-base", "base_sha256": "ab", "labels": ["w", "x", "y", "z"]}
    ours |= {"head": "linear", "pooling": "mean", "budget": 60}
    (folder / "textlora.json").write_text(json.dumps(ours))
    found = inspect_adapter(folder)
    theirs = {"form": "format", "head": "head_kind"}
    assert {key: found[theirs.get(key, key)] for key in ours} == ours
    assert (found["format"], found["num_labels"], found["trainable"], found["fits"]) == ("textlora", 4, 68, False)
    assert found["total"] == 124_055_040 + 68
    assert found["modules"][0]["name"] == "encoder.layer.0.attention.self.query"


def test_a_run_folder_is_its_adapter(tmp_path):
    adapter(tmp_path / "run" / "adapter", pair(0))
    assert inspect_adapter(tmp_path / "run") == inspect_adapter(tmp_path / "run" / "adapter")


def test_a_base_that_is_not_ours_is_counted_but_for_the_total(tmp_path):
    found = inspect_adapter(adapter(tmp_path, pair(0), base_model_name_or_path="/home/me/model"))
    assert (found["trainable"], found["total"], found["trainable_percent"]) == (32, None, None)


def test_a_trained_bias_is_counted_once_in_the_total(tmp_path):
    bias = {QUERY.format(0) + ".base_layer.bias": (768,)}
    plain = inspect_adapter(adapter(tmp_path / "plain", pair(0)))
    trained = inspect_adapter(adapter(tmp_path / "trained", {**pair(0), **bias}, bias="lora_only"))
    assert (trained["biases"], trained["trainable"]) == (768, plain["trainable"] + 768)
    assert trained["total"] == plain["total"]


def test_pefts_copies_of_the_head_are_nobodys_parameters(tmp_path):
    head = "base_model.model.classifier"
    copies = {f"{head}.original_module.bias": (4,), f"{head}.modules_to_save.default.bias": (4,)}
    found = inspect_adapter(adapter(tmp_path, {**pair(0), f"{head}.bias": (4,), **copies}))
    assert (found["head"], found["biases"], found["trainable"]) == (4, 0, 36)


def test_inspecting_imports_no_torch(tmp_path):
    folder = adapter(tmp_path, pair(0))
    code = "import sys; from textlora.inspect import inspect_adapter; inspect_adapter(sys.argv[1]);"
    code += "print([name for name in ('torch', 'numpy', 'peft', 'safetensors') if name in sys.modules])"
    env = {"PYTHONPATH": str(Path(__file__).parents[1] / "src")}
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, env=env)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


# ---------------------------------------------------------------------------------------------------------- bad input


def entry(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict[str, object]:
    return {"x": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"1234567",
        (2**63).to_bytes(8, "little") + b"{}",
        (100_000_001).to_bytes(8, "little") + b"{}",
        (3).to_bytes(8, "little") + b"{}",
        safetensors(b""),
        safetensors(b"{"),
        safetensors(b"[]"),
        safetensors(b"\xff\xfe{}"),
        safetensors(b"[" * 100_000),
        safetensors(b"9" * 5_000),
        safetensors(b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},' * 2 + b'"y":1}', 4),
        safetensors({"x": []}),
        safetensors({"x": {}}),
        safetensors(entry(dtype="F33"), 8),
        safetensors(entry(dtype=["F32"]), 8),
        safetensors(entry(shape=None), 8),
        safetensors(entry(shape=(-2,)), 8),
        safetensors(entry(shape=(2.0,)), 8),
        safetensors(entry(shape=(True, 2)), 8),
        safetensors(entry(shape=(2**40, 2**40)), 8),
        safetensors(entry(offsets=(0,)), 8),
        safetensors(entry(offsets=(8, 0)), 8),
        safetensors(entry(offsets=(8, 16)), 16),
        safetensors(entry(offsets=(-8, 0)), 8),
        safetensors(entry(), 7),
        safetensors(entry(), 9),
        safetensors({**entry(), "y": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, 8),
        safetensors({**entry(), "y": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}, 12),
    ],
    ids=range(29),
)
def test_a_header_that_lies_is_a_damaged_file(tmp_path, content):
    with pytest.raises(DamagedError, match="is damaged") as caught:
        inspect_adapter(adapter(tmp_path, content))
    assert caught.value.code == 6


WHOLE = tensors({**pair(0), "base_model.model.classifier.bias": (4,)})


@given(st.integers(0, len(WHOLE) - 1))
@settings(max_examples=50, deadline=None)
def test_a_file_cut_anywhere_is_refused(tmp_path_factory, length):
    path = tmp_path_factory.mktemp("cut") / "x.safetensors"
    path.write_bytes(WHOLE[:length])
    with pytest.raises(DamagedError):
        read_header(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
KEYS = [
    "r",
    "lora_alpha",
    "rank_pattern",
    "alpha_pattern",
    "target_modules",
    "modules_to_save",
    "task_type",
    "peft_type",
]


@given(st.dictionaries(st.sampled_from([*KEYS, "base_model_name_or_path"]), JSON, min_size=1))
@settings(max_examples=50, deadline=None)
def test_no_config_however_strange_ends_in_a_traceback(tmp_path_factory, strange):
    folder = adapter(tmp_path_factory.mktemp("strange"), pair(0), **strange)
    (folder / "textlora.json").write_text(json.dumps({"base": strange.get("r"), "labels": strange.get("lora_alpha")}))
    with suppress(TextLoraError):
        assert inspect_adapter(folder)["trainable"] == 32


@pytest.mark.parametrize("name", ["adapter_model.bin", "adapter_model.pt"])
def test_a_pickle_is_never_unpickled(tmp_path, name):
    folder = adapter(tmp_path, b"")
    (folder / "adapter_model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps({"never": "read"}))
    with pytest.raises(DamagedError, match=rf"{name}.*never unpickled"):
        inspect_adapter(folder)


def test_a_config_without_weights_is_damaged(tmp_path):
    folder = adapter(tmp_path, b"")
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(DamagedError, match=r"has no adapter_model\.safetensors"):
        inspect_adapter(folder)


@pytest.mark.parametrize("folder", [".", "none", "file"])
def test_what_is_no_adapter_folder_is_a_usage_error(tmp_path, folder):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError) as caught:
        inspect_adapter(tmp_path / folder)
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("shapes", "config", "error", "words"),
    [
        (pair(0), {"peft_type": "IA3"}, UsageError, "IA3 adapter; textlora reads LoRA"),
        (pair(0), {"r": 3}, DamagedError, "has rank 2, adapter_config.json says 3"),
        (pair(0), {"rank_pattern": {"query": 7}}, DamagedError, "has rank 2, adapter_config.json says 7"),
        (pair(0), {"rank_pattern": {"que(ry": 7}}, DamagedError, "rank_pattern is damaged"),
        (pair(0), {"lora_alpha": None}, DamagedError, "the lora_alpha None"),
        (pair(0), {"target_modules": [1]}, DamagedError, r"target_modules is \[1\]"),
        (dict([next(iter(pair(0).items()))]), {}, DamagedError, "is no pair"),
        ({**pair(0), QUERY.format(0) + ".lora_B.weight": (8, 3)}, {}, DamagedError, "is no pair"),
        ({QUERY.format(0) + ".lora_embedding_A": (2, 8)}, {}, UsageError, "LoRA on linear modules"),
    ],
)
def test_config_and_file_that_do_not_fit_are_refused(tmp_path, shapes, config, error, words):
    with pytest.raises(error, match=words):
        inspect_adapter(adapter(tmp_path, shapes, **config))


@pytest.mark.parametrize("name", ["adapter_config.json", "textlora.json"])
@pytest.mark.parametrize("text", ["", "{", "[]", '"x"'])
def test_broken_json_is_a_damaged_file(tmp_path, name, text):
    folder = adapter(tmp_path, pair(0))
    (folder / name).write_text(text)
    with pytest.raises(DamagedError, match=name):
        inspect_adapter(folder)
