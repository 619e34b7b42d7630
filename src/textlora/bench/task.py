"""What every side of a benchmark is given: a base's folder, the same rows, tokenised before. A folder, read by all."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from textlora import bases, budget, data, model, runs
from textlora import config as configs
from textlora.bases import Base
from textlora.bench.options import Options
from textlora.budget import Plan
from textlora.config import Config
from textlora.engine.families import BERT, FAMILIES
from textlora.longtext import TRUNCATE, Cut
from textlora.tokens import Tokens, load_tokenizer, tokenize

MAX_LENGTH = 512
ALPHA = 64
SEED = 0
TASK, TOKENS, TEXTS = "task.json", "tokens.safetensors", "texts.json"


@dataclass(frozen=True)
class Task:
    """One benchmark's inputs. Paths are of this machine and go into no result."""

    folder: str
    base: str
    base_folder: str  # config.json and model.safetensors
    tokenizer_folder: str
    labels: tuple[str, ...]
    count: int  # of rows
    tokens_per_text: float
    max_length: int
    lora_r: int
    targets: tuple[str, ...]

    @classmethod
    def read(cls, folder: str | Path) -> Task:
        """The task in `folder`."""
        values = json.loads((Path(folder) / TASK).read_text(encoding="utf-8"))
        return cls(**values | {key: tuple(values[key]) for key in ("labels", "targets")})

    def rows(self) -> tuple[Tokens, np.ndarray]:
        """Token ids and labels of the training rows."""
        kept = load_file(Path(self.folder) / TOKENS)
        ids, offsets, labels = kept["ids"], kept["offsets"], kept["labels"]
        texts = len(labels)
        cut = Cut(TRUNCATE, self.max_length, texts=texts, longer=0, tokens=len(ids), lost=0, windows=0)
        return Tokens(ids, offsets, np.arange(texts), cut), labels

    def texts(self) -> list[str]:
        """The same rows as they were before tokenisation."""
        return json.loads((Path(self.folder) / TEXTS).read_text(encoding="utf-8"))

    def config(self, **changes: Any) -> Config:
        """Ours in textlora's words: the same adapters, head and pooling as the peers', no dropout."""
        given: dict[str, Any] = {
            "auto": [],
            "base": self.base,
            "base_weights": self.base_folder,
            "tokenizer": self.tokenizer_folder,
            "budget": 10**9,
            "target_modules": list(self.targets),
            "lora_r": self.lora_r,
            "lora_alpha": ALPHA,
            "head": "full",
            "pooling": "cls",
            "bag_of_tokens": False,
            "memory": 0,
            "max_length": self.max_length,
            "batch_tokens": max(2048, self.max_length),
            "max_steps": 10**6,
        }
        return configs.load("minilm-fast", given | changes)

    def about(self, options: Options, packages: tuple[str, ...] = ()) -> dict[str, Any]:
        """What was measured, for the result; `packages` are named with their versions beside the usual ones."""
        settings = {"r": self.lora_r, "lora_alpha": ALPHA, "target_modules": list(self.targets)}
        return {
            "base": bases.find(self.base).hub_id,
            "base_weights": "random" if options.base_weights.startswith("random:") else "real",
            "data": Path(options.data).name,
            "rows": self.count,
            "tokens_per_text": round(self.tokens_per_text, 2),
            "settings": settings | {"max_length": self.max_length},
            "rounds": options.rounds,
            "round_seconds": options.seconds,
            "versions": runs.versions(packages),
            "machine": runs.machine(),
        }

    def plan(self, config: Config) -> Plan:
        """What `config` trains."""
        base = bases.find(self.base)
        return budget.plan(config, bases.shapes(base, self.base_folder), len(self.labels), base.hub_id)


def make(options: Options, folder: Path) -> Task:
    """Write a task into `folder`. Raises the errors of `data.load` and `bases.files`."""
    base = bases.find(options.base)
    tokenizer_folder = _tokenizer_folder(options)
    random = options.base_weights.startswith("random:")
    base_folder = _random_base(options, folder / "base") if random else bases.files(base, options.base_weights)
    rows = data.load(options.data).train
    order = np.random.default_rng(SEED).permutation(len(rows.texts))[: options.rows]
    texts = [rows.texts[i] for i in order]
    max_length = min(MAX_LENGTH, bases.shapes(base, str(base_folder)).longest_text)
    tokens = tokenize(load_tokenizer(tokenizer_folder), texts, max_length)
    task = Task(
        folder=str(folder),
        base=options.base,
        base_folder=str(base_folder),
        tokenizer_folder=str(tokenizer_folder),
        labels=tuple(rows.label_names),
        count=len(texts),
        tokens_per_text=len(tokens.ids) / len(texts),
        max_length=max_length,
        lora_r=options.lora_r,
        targets=tuple(options.targets or _query_and_value(base, base_folder)),
    )
    task.plan(task.config())  # raises for modules that aren't there, before every side would
    arrays = {"ids": tokens.ids, "offsets": tokens.offsets, "labels": np.asarray(rows.labels)[order]}
    save_file(arrays, folder / TOKENS)
    (folder / TEXTS).write_text(json.dumps(texts), encoding="utf-8")
    (folder / TASK).write_text(json.dumps(asdict(task)), encoding="utf-8")
    return task


def _query_and_value(base: Base, folder: Path) -> list[str]:
    """What the base's family calls them: the ends of the modules' names."""
    family = FAMILIES.get(bases.shapes(base, str(folder)).family, BERT)
    return [path.rpartition(".")[2] for path in (family.query, family.value)]


def _tokenizer_folder(options: Options) -> Path:
    """The base's, or one that is named. Random weights without one get minilm's: lengths alone matter for speed."""
    base, weights = bases.find(options.base), options.base_weights
    if weights.startswith("random:") and not options.tokenizer:
        base, weights = bases.find("minilm"), ""
    return model.find_tokenizer(base, weights, options.tokenizer)


def _random_base(options: Options, folder: Path) -> Path:
    """The base's architecture with random weights as a folder that every side can load."""
    import torch
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(int(options.base_weights.removeprefix("random:")))
    config = model.hf_config(bases.find(options.base), options.base_weights, ("0", "1"))
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    return folder
