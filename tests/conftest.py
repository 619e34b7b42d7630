"""Tiny bases made offline, a few texts, and the settings that keep tests quick and honest."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before any Hugging Face import: tests never ask a hub
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ["TEXTLORA_DEVICE"] = "cpu"  # equality to the bit is promised there
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from textlora import config as configs
from textlora import data
from textlora.config import Config

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
CORPUS = ROOT / "src" / "textlora" / "corpus"
FAMILIES = ("bert", "roberta", "distilbert", "electra", "mpnet", "deberta-v2", "modernbert")
# Families that are measured, not counted by hand: a shared layer, a head of two, one that reads left to right.
OTHERS = ("albert", "camembert", "qwen2")
# Family -> the base of that family that tests train, where it has another name.
NAMED = {"deberta-v2": "deberta", **{family: f"acme/{family}" for family in (*OTHERS, "fnet")}}
TINY = {
    "vocab_size": 400,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 130,
}
OWN: dict[str, dict[str, Any]] = {
    "roberta": {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "type_vocab_size": 1},
    "mpnet": {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2},
    "camembert": {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "type_vocab_size": 1},
    "albert": {"embedding_size": 16, "pad_token_id": 0},
    "qwen2": {"num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
    "fnet": {"pad_token_id": 0},
    "electra": {"embedding_size": 16},
    "deberta-v2": {
        "relative_attention": True,
        "position_buckets": 16,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_biased_input": False,
    },
    "modernbert": {
        "local_attention": 16,
        "layer_types": ["full_attention", "sliding_attention"],
        "classifier_pooling": "mean",
        **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 0),
    },
}

settings.register_profile("textlora", deadline=None, max_examples=30, suppress_health_check=list(HealthCheck))
settings.load_profile("textlora")


def corpus_rows(split: str) -> list[dict[str, str]]:
    with (CORPUS / f"{split}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="session")
def texts() -> list[str]:
    return [row["text"] for row in corpus_rows("validation")]


def few(each: int, labels: int = 4, called: Sequence[str] = ()) -> data.Data:
    """So many rows of the first `labels` labels of mini-news."""
    rows = data.load("mini-news").train
    some = np.concatenate([np.flatnonzero(rows.labels == label)[:each] for label in range(labels)])
    return data.from_texts([rows.texts[i] for i in some], rows.labels[some], called or rows.label_names)


def make_tokenizer(family: str, folder: Path) -> None:
    """A real tokenizer of the family's kind with a vocabulary of 400, trained on the corpus: no download."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    lines = [row["text"] for row in corpus_rows("train")]
    if family in ("roberta", "mpnet", "camembert"):
        special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        )
        tokenizer.train_from_iterator(lines, trainer)
        cls, sep, pad, unk = "<s>", "</s>", "<pad>", "<unk>"
    else:
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        splits = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
        letters = sorted({letter for line in lines for letter in splits[0].normalize_str(line)} - {" "})
        middles = [f"##{letter}" for letter in letters]  # named, or their ids would follow a hash map, new each session
        trained = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        trained.normalizer, trained.pre_tokenizer = splits
        trained.train_from_iterator(
            lines, trainers.WordPieceTrainer(vocab_size=400, special_tokens=special + middles, show_progress=False)
        )
        tokenizer = Tokenizer(models.WordPiece(trained.get_vocab(), unk_token="[UNK]"))
        tokenizer.normalizer, tokenizer.pre_tokenizer = splits
        cls, sep, pad, unk = "[CLS]", "[SEP]", "[PAD]", "[UNK]"
    ids = {token: tokenizer.token_to_id(token) for token in (cls, sep)}
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}", special_tokens=[(cls, ids[cls]), (sep, ids[sep])]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, cls_token=cls, sep_token=sep, pad_token=pad, unk_token=unk, model_max_length=128
    ).save_pretrained(folder)


def make_base(family: str, folder: Path, seed: int = 0) -> Path:
    """A folder with a tiny random base of a family: config.json, model.safetensors, tokenizer files."""
    import torch
    from transformers import AutoConfig, AutoModel

    sizes: dict[str, Any] = TINY | OWN.get(family, {})
    if family == "distilbert":
        names = {
            "hidden_size": "dim",
            "num_hidden_layers": "n_layers",
            "num_attention_heads": "n_heads",
            "intermediate_size": "hidden_dim",
        }
        sizes = {names.get(key, key): value for key, value in sizes.items()}
    torch.manual_seed(seed)
    model = AutoModel.from_config(AutoConfig.for_model(family, **sizes))
    for parameter in model.parameters():  # transformers' 0.02 leaves the logits of a tiny model all but equal
        parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    make_tokenizer(family, folder)
    return folder


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """family -> folder of its tiny base, made once a session."""
    made: dict[str, Path] = {}

    def base(family: str) -> Path:
        if family not in made:
            made[family] = make_base(family, tmp_path_factory.mktemp(family))
        return made[family]

    return base


@pytest.fixture(scope="session")
def tiny_config(tiny_base: Callable[[str], Path]) -> Callable[..., Config]:
    """Settings of a run of seconds on a tiny base: `tiny_config("bert", lora_r=2)`."""

    def config(family: str = "bert", **changes: Any) -> Config:
        given: dict[str, Any] = {
            "auto": [],
            "base": NAMED.get(family, family),
            "base_weights": str(tiny_base(family)),
            "data": "mini-news",
            "lora_r": 4,
            "lora_alpha": 8,
            "max_length": 48,
            "batch_tokens": 512,
            "num_train_epochs": 1.0,
            "max_steps": 6,
            "learning_rate": 5e-3,
            "logging_steps": 1,
            "precision": "fp32",
            "bag_of_tokens": False,
            "memory": 0,
        }
        if "per_device_train_batch_size" in changes:
            del given["batch_tokens"]
        return configs.load("minilm-fast", given | changes)

    return config


@pytest.fixture(scope="session")
def trained(tiny_config: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A finished tiny run, made once for each set of settings: `trained("roberta", head="full", pooling="cls")`."""
    from textlora.train import train

    made: dict[str, Path] = {}

    def run(family: str = "bert", **changes: Any) -> Path:
        key = f"{family} {sorted(changes.items())}"
        if key not in made:
            made[key] = train(tiny_config(family, **changes), out=tmp_path_factory.mktemp("run") / "run").folder
        return made[key]

    return run
