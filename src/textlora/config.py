"""Every setting once: name, default, unit and reason. A run is a `Config`; a recipe is a TOML file of the same keys.

Order of precedence: command-line flag > recipe > default. Keys are the flags with underscores and carry the names of
Hugging Face's TrainingArguments and PEFT's LoraConfig wherever those have one.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import Field, asdict, dataclass, field, fields, replace
from functools import cache
from importlib import resources
from math import isfinite, nan
from pathlib import Path
from typing import Any, get_args, get_type_hints

from textlora.errors import DamagedError, UsageError, closest

DEFAULT_RECIPE = "minilm-fast"
MAX = "max"  # --lora-r max: the largest rank that fits the budget

CHOICES = {
    "long_text": ("truncate", "head-tail", "window-mean"),
    "bias": ("none", "all", "lora_only"),
    "head": ("linear", "low-rank", "full"),
    "pooling": ("mean", "cls"),
    "lr_scheduler_type": ("linear", "cosine", "cosine_with_restarts"),
    "lora_dropout_curve": ("constant", "linear", "cosine"),
    "loss": ("cross-entropy", "contrastive"),
    "class_weights": ("none", "sqrt", "balanced"),
    "optim": ("adamw_torch", "loraplus", "muon", "adafactor", "sgd"),
    "engine": ("auto", "fast", "plain"),
    "precision": ("auto", "bf16", "fp16", "fp32"),
    "quantize": ("none", "4bit"),
    "metric_for_best_model": ("accuracy", "f1_macro"),
}
# What `auto` may list: textlora.fitting has a rule for each.
FITTABLE = (
    "max_length",
    "batch_tokens",
    "num_train_epochs",
    "learning_rate",
    "warmup_ratio",
    "eval_steps",
    "max_eval_samples",
    "class_weights",
)
FITTABLE += ("metric_for_best_model", "bag_of_tokens", "memory", "loss", "refit")
# Naming one of these decides another as well, so that isn't fitted any more.
DECIDES = {
    "per_device_train_batch_size": "batch_tokens",
    "max_steps": "num_train_epochs",
    "warmup_steps": "warmup_ratio",
}


def setting(default: Any, help: str) -> Any:
    """A field whose help text is the flag's and the documentation's."""
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata={"help": help})
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """All settings of one training run; frozen, so a run is replayable from its config.toml."""

    auto: tuple[str, ...] = setting((), "settings chosen from the data; naming one in a flag or recipe takes it off")

    # data
    data: str = setting(
        "", "mini-news, a folder of train/validation/test files, a file, or a hub name: ag_news, owner/name"
    )
    data_revision: str = setting(
        "", "branch, tag or commit of the hub's data set [the newest; the run keeps its commit]"
    )
    text_column: tuple[str, ...] = setting((), "text column; several are joined with a blank [found by name]")
    label_column: str = setting("", "label column [found by name]")
    label_names: tuple[str, ...] = setting((), "names of the labels in the order 0..C-1 [read from the data]")
    validation_fraction: float = setting(0.1, "share of train kept as validation when no validation file is given")
    split_seed: int = setting(0, "seed of that carving, apart from `seed`: another run seed judges on the same rows")
    cleaning: tuple[str, ...] = setting((), "cleaning steps, applied in training and prediction alike")

    # base
    base: str = setting("minilm", "a short name (minilm, roberta, deberta, modernbert, ...) or any hub id, owner/name")
    base_revision: str = setting(
        "", "branch, tag or commit of the base on the hub [the newest; the run keeps its commit]"
    )
    base_weights: str = setting("", "a folder with the base's files, or random:SEED for shape and speed tests")
    tokenizer: str = setting("", "a folder with tokenizer files [the base's]")
    base_dropout: float = setting(0.0, "dropout inside the frozen base; costs 15-30 % of speed (docs/log.md)")
    max_length: int = setting(256, "tokens kept of a text, special ones included; auto: what covers 99 % of the texts")
    long_text: str = setting("truncate", "longer ones: truncate, head-tail (quarter, rest), window-mean (of logits)")

    # adapter
    budget: int = setting(1_000_000, "most parameters that may be trained, head included")
    lora_r: int | str = setting(16, "rank, or `max` for the largest that fits the budget")
    lora_alpha: int = setting(32, "the update is scaled by lora_alpha / lora_r")
    use_rslora: bool = setting(False, "rank-stabilised: scaled by lora_alpha / sqrt(lora_r) instead")
    use_dora: bool = setting(False, "DoRA: a trained magnitude for each output of an adapted module; slower")
    lora_dropout: float = setting(0.0, "dropout on the adapters' input (start of the curve)")
    lora_dropout_end: float = setting(0.0, "dropout at the last step, with --lora-dropout-curve")
    lora_dropout_curve: str = setting("constant", "from lora_dropout to lora_dropout_end: constant, linear, cosine")
    target_modules: tuple[str, ...] = setting(("all-linear",), "module names, endings or full paths; all-linear")
    layers_to_transform: tuple[int, ...] = setting((), "layers that get adapters [all]")
    rank_pattern: dict[str, int] = setting({}, "rank by module name or path, over lora_r")
    alpha_pattern: dict[str, int] = setting({}, "alpha by module name or path, over lora_alpha")
    bias: str = setting("none", "biases trained with the adapters: none, lora_only, all")
    head: str = setting("linear", "linear on the pooled vector, low-rank, or full: the base's own classification head")
    head_rank: int = setting(
        8, "rank of the low-rank head: D -> k -> C for more labels, else D -> k -> D, tanh, D -> C"
    )
    bag_of_tokens: bool = setting(
        False, "a linear classifier on which tokens occur, fitted apart and blended into the head (form textlora)"
    )
    memory: int = setting(0, "training texts that are remembered: the labels of near ones have a say (form textlora)")
    pooling: str = setting("mean", "mean of the tokens, or cls: the first token (head full has its own, cls)")

    # training
    batch_tokens: int = setting(0, "tokens in a length-sorted batch, padding included; 0 = use the next")
    per_device_train_batch_size: int = setting(0, "texts in a batch of random order; 0 = use batch_tokens")
    gradient_accumulation_steps: int = setting(1, "batches to an optimizer step")
    num_train_epochs: float = setting(3.0, "passes over the training rows")
    max_steps: int = setting(-1, "optimizer steps, over num_train_epochs; -1 = off")
    optim: str = setting(
        "adamw_torch",
        "adamw_torch, loraplus, muon (on the adapters, AdamW on the rest), adafactor or sgd; rates that suited MiniLM: "
        "2e-4 for loraplus, 3e-3 for muon, 1e-3 for adafactor, 0.1 for sgd",
    )
    loraplus_lr_ratio: float = setting(16.0, "of optim loraplus: each B's rate over its A's")
    learning_rate: float = setting(1e-3, "peak learning rate")
    lr_scheduler_type: str = setting("linear", "linear, cosine or cosine_with_restarts, each down to zero")
    num_cycles: int = setting(1, "cycles of cosine_with_restarts")
    warmup_ratio: float = setting(0.06, "share of all steps in which the rate rises from zero")
    warmup_steps: int = setting(0, "the same in steps; over warmup_ratio")
    weight_decay: float = setting(0.0, "on matrices; biases, norms and magnitudes are exempt")
    max_grad_norm: float = setting(1.0, "gradient clipping; 0 = off")
    sam_rho: float = setting(
        0.0,
        "sharpness-aware minimization: how far uphill a step's gradient is taken, at twice the time; 0.05 suited "
        "MiniLM; 0 = off",
    )
    calibrate: bool = setting(
        True, "divide the logits by a temperature that fits validation (200 rows or more): probabilities, not labels"
    )
    label_shares: str = setting(
        "",
        'how often each label truly occurs, where the given labels lean: equal, or \'{"World": 0.4, "Sports": 0.6}\'; '
        "the head's bias is moved until predictions on validation have these shares [as given]",
    )
    loss: str = setting(
        "cross-entropy",
        "cross-entropy, or contrastive: adapters learn from pairs of texts, then a linear head is solved; for few rows",
    )
    label_smoothing_factor: float = setting(0.0, "share of the target spread evenly over the labels")
    class_weights: str = setting("none", "none, balanced: n / (C * n_c), or sqrt: its square root, scaled to mean 1")
    early_stopping_patience: int = setting(0, "evaluations without a better one before stopping; 0 = off")
    eval_steps: int = setting(0, "optimizer steps between evaluations; 0 = once an epoch")
    max_eval_samples: int = setting(0, "validation rows scored during training; 0 = all. The end always scores all")
    metric_for_best_model: str = setting("accuracy", "which evaluation is best: accuracy or f1_macro")
    logging_steps: int = setting(20, "optimizer steps between lines of metrics.jsonl")
    train_sample_size: int = setting(500, "training rows on which accuracy, precision, recall and F1 are followed")
    refit: bool = setting(
        False, "train once more on training and validation rows together; the figures stay those of the first training"
    )
    time_limit: str = setting("", "90s, 10m or 1.5h from start to verdict; schedules then follow the clock [none]")
    engine: str = setting("auto", "auto, fast: textlora's own blocks or an error, or plain: Hugging Face's")
    precision: str = setting("auto", "auto, bf16, fp16 (GPU only) or fp32")
    quantize: str = setting("none", "none, or 4bit (QLoRA): the base is held in NF4 while it trains; needs a CUDA GPU")
    seed: int = setting(0, "seed of weights, dropout and batch order")
    seeds: int = setting(1, "train so many seeds (seed, seed + 1, ...) and keep the best on validation")
    report_to: tuple[str, ...] = setting((), "trackers the Trainer also reports to: tensorboard, mlflow, wandb, ...")

    @property
    def time_limit_seconds(self) -> float:
        """`time_limit` in seconds; 0 for none, NaN for what isn't a time."""
        if not self.time_limit:
            return 0.0
        found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)([smh])", self.time_limit)
        return float(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]] if found else nan

    def problems(self) -> list[str]:
        """Everything wrong with these settings, in words; empty means go."""
        return [line for check in (_choices, _ranges, _together) for line in check(self)]

    def checked(self) -> Config:
        """Self, or one UsageError that lists every problem."""
        found = self.problems()
        if found:
            raise UsageError("; ".join(found), "correct the flags or the recipe")
        return self

    def to_dict(self) -> dict[str, Any]:
        """Plain values (tuples as lists), as written to config.toml and JSON."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def _choices(config: Config) -> list[str]:
    return [
        f"{key} is {getattr(config, key)!r}: {closest(str(getattr(config, key)), allowed)}"
        for key, allowed in CHOICES.items()
        if getattr(config, key) not in allowed
    ] + [f"auto lists {name!r}: {closest(name, FITTABLE)}" for name in config.auto if name not in FITTABLE]


POSITIVE = ("budget", "max_length", "lora_alpha", "gradient_accumulation_steps", "learning_rate", "logging_steps")
POSITIVE += ("num_train_epochs", "num_cycles", "head_rank", "loraplus_lr_ratio", "seeds")
NOT_NEGATIVE = ("batch_tokens", "per_device_train_batch_size", "warmup_steps", "weight_decay", "max_grad_norm")
NOT_NEGATIVE += ("sam_rho", "early_stopping_patience", "eval_steps", "max_eval_samples")
NOT_NEGATIVE += ("seed", "split_seed", "train_sample_size", "memory")
SHARES = ("base_dropout", "lora_dropout", "lora_dropout_end", "label_smoothing_factor", "warmup_ratio")
SHARES += ("validation_fraction",)
FINITE = ("num_train_epochs", "learning_rate", "loraplus_lr_ratio", "weight_decay", "max_grad_norm", "sam_rho")
SEEDS = 2**32  # NumPy's global generator takes no larger one, and the Trainer hands ours on to it


def _ranges(config: Config) -> list[str]:
    found = [f"{k} must be above 0, got {getattr(config, k)}" for k in POSITIVE if not getattr(config, k) > 0]
    found += [f"{k} must not be negative, got {getattr(config, k)}" for k in NOT_NEGATIVE if getattr(config, k) < 0]
    found += [f"{k} is a share in [0, 1), got {getattr(config, k)}" for k in SHARES if not 0 <= getattr(config, k) < 1]
    found += [f"{k} must be finite, got {getattr(config, k)}" for k in FINITE if not isfinite(getattr(config, k))]
    found += [
        f"{k} must be below {SEEDS}, got {getattr(config, k)}"
        for k in ("seed", "split_seed")
        if getattr(config, k) >= SEEDS
    ]
    found += [f"alpha_pattern[{k}] must be above 0, got {v}" for k, v in config.alpha_pattern.items() if v < 1]
    ranks = {"lora_r": config.lora_r, **{f"rank_pattern[{k}]": v for k, v in config.rank_pattern.items()}}
    for name, r in ranks.items():
        allowed = f"a whole number from 1{' or max' if name == 'lora_r' else ''}"
        if (isinstance(r, str) and r != MAX) or (isinstance(r, int) and r < 1):
            found.append(f"{name} must be {allowed}, got {r}")
    if config.seed + config.seeds > SEEDS:
        found.append(f"seed {config.seed} with {config.seeds} seeds goes beyond {SEEDS - 1}")
    if config.max_steps != -1 and config.max_steps < 1:
        found.append(f"max_steps must be -1 (off) or at least 1, got {config.max_steps}")
    if config.max_length < 4:
        found.append(f"max_length must leave room for text between two special tokens, got {config.max_length}")
    if config.time_limit and not config.time_limit_seconds > 0:
        found.append(f"time_limit must be a time above 0 like 90s, 10m or 1.5h, got {config.time_limit!r}")
    if config.validation_fraction == 0:
        found.append("validation_fraction must be above 0: nothing is chosen without validation rows")
    return found


def _together(config: Config) -> list[str]:
    found = []
    if bool(config.batch_tokens) == bool(config.per_device_train_batch_size):
        found.append("set one of batch_tokens and per_device_train_batch_size, the other to 0")
    chosen = {"max_length", "batch_tokens"} & set(config.auto)  # so that the one goes with the other
    if config.batch_tokens and config.batch_tokens < config.max_length and not chosen:
        found.append(
            f"batch_tokens {config.batch_tokens} is below max_length {config.max_length}: a long text won't fit"
        )
    if config.head == "full" and config.pooling != "cls":
        found.append("head full is the base's own and reads the first token: it goes with pooling cls")
    if config.head == "full" and config.bag_of_tokens and "bag_of_tokens" not in config.auto:
        found.append("head full is the base's own: a bag of tokens goes with head linear or low-rank")
    if config.head == "full" and config.memory and "memory" not in config.auto:
        found.append("head full is the base's own: a memory goes with head linear or low-rank")
    seed = config.base_weights.removeprefix("random:")
    if seed != config.base_weights and not (
        seed.isascii() and seed.isdigit() and len(seed) <= 10 and int(seed) < SEEDS
    ):
        found.append(f"base_weights random:SEED needs a whole number below {SEEDS}, got {config.base_weights!r}")
    if config.base_revision and config.base_weights:
        found.append("base_revision is a commit on the hub, and base_weights a folder: give one of the two")
    if config.quantize != "none" and seed != config.base_weights:
        found.append(f"quantize {config.quantize} is for real base weights, not for {config.base_weights}")
    if (
        config.quantize != "none" and config.bias != "none"
    ):  # its linears cast their biases to the base's type, in place
        found.append(f"quantize {config.quantize} trains no biases: it goes with bias none, not {config.bias}")
    for other in ("time_limit", "early_stopping_patience"):
        if config.refit and getattr(config, other):
            found.append(f"refit trains for as many passes once more, without validation rows: not with {other}")
    if config.loss == "contrastive" and "loss" not in config.auto:
        found += [f"loss contrastive {why}" for why in _not_contrastive(config)]
    if config.lora_dropout_curve == "constant" and config.lora_dropout_end not in (0.0, config.lora_dropout):
        found.append("lora_dropout_end needs --lora-dropout-curve linear or cosine")
    return found


def _not_contrastive(config: Config) -> list[str]:
    found = []
    if config.head != "linear":
        found.append(f"solves its head: it goes with head linear, not {config.head}")
    if config.label_smoothing_factor:
        found.append("has no targets to smooth: it goes with label_smoothing_factor 0")
    if config.long_text == "window-mean":
        found.append("pairs whole texts: it goes with long_text truncate or head-tail")
    return found


# ---------------------------------------------------------------------------------------------- reading and writing


def recipe_names() -> list[str]:
    """The recipes that ship with textlora."""
    return sorted(
        p.name.removesuffix(".toml") for p in resources.files("textlora.recipes").iterdir() if p.name.endswith(".toml")
    )


def load(recipe: str = DEFAULT_RECIPE, overrides: Mapping[str, Any] | None = None) -> Config:
    """The recipe (a shipped name or a TOML file) with `overrides` on top.

    Raises UsageError for an unknown recipe or key (the closest known one named) or a value of the wrong type,
    DamagedError for a file that isn't TOML.
    """
    layers = (_read(recipe), dict(overrides or {}))
    config = Config()
    for values in layers:
        config = _over(config, {key: _typed(key, value) for key, value in values.items()})
    return config.checked()


def from_dict(values: Mapping[str, Any]) -> Config:
    """A Config from a mapping of all its keys, e.g. a run's config.toml."""
    return _over(Config(), {key: _typed(key, value) for key, value in values.items()})


def read_toml(path: Path) -> dict[str, Any]:
    """The table in a TOML file. Raises DamagedError with the parser's line and column."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DamagedError(f"{path} is not a TOML file: {error}", "correct that line") from None


def to_toml(config: Config) -> str:
    """Every setting as TOML, with its help as a comment; `from_dict(tomllib.loads(...))` gives the config back."""
    lines = []
    for f in fields(Config):
        lines += [f"# {f.metadata['help']}", f"{f.name} = {_toml_value(getattr(config, f.name))}"]
    return "\n".join(lines) + "\n"


def setting_fields() -> dict[str, Field[Any]]:
    """Fields by name, in order: the command line's flags are made of these."""
    return {f.name: f for f in fields(Config)}


def setting_type(name: str) -> Any:
    """The declared type of a setting, resolved."""
    return _types()[name]


@cache
def _types() -> dict[str, Any]:
    return get_type_hints(Config)  # slow, and the command line asks for every setting (80 ms of --help)


def _over(config: Config, values: dict[str, Any]) -> Config:
    """`config` with `values`, so that a flag can override a recipe: naming one batching mode switches the other off,
    naming a setting takes it off the list of those that are fitted to the data."""
    if values.get("batch_tokens") and "per_device_train_batch_size" not in values:
        values["per_device_train_batch_size"] = 0
    if values.get("per_device_train_batch_size") and "batch_tokens" not in values:
        values["batch_tokens"] = 0
    if "auto" not in values:
        named = {*values, *(DECIDES[key] for key in values if key in DECIDES)}
        values["auto"] = tuple(name for name in config.auto if name not in named)
    return replace(config, **values)


def _read(recipe: str) -> dict[str, Any]:
    if recipe.endswith(".toml"):
        path = Path(recipe)
        if not path.is_file():
            raise UsageError(f"there is no recipe file {recipe}", "give a file that exists or a shipped recipe's name")
        return read_toml(path)
    if recipe not in recipe_names():
        raise UsageError(f"there is no recipe {recipe!r}", closest(recipe, recipe_names()))
    with resources.as_file(resources.files("textlora.recipes") / f"{recipe}.toml") as path:
        return read_toml(path)


def _typed(key: str, value: Any) -> Any:
    """`value` as the setting's type: whole numbers may stand for floats, one string for a list of one."""
    if key not in setting_fields():
        raise UsageError(f"there is no setting {key!r}", closest(key, setting_fields()))
    wanted = setting_type(key)
    kinds = get_args(wanted) if "|" in str(wanted) else (wanted,)
    if wanted in (tuple[str, ...], tuple[int, ...]):
        item = get_args(wanted)[0]
        items = [value] if isinstance(value, str | int) else value
        if isinstance(items, list | tuple) and all(type(v) is item for v in items):
            return tuple(items)
    elif wanted is float and type(value) in (int, float):
        return float(value)
    elif wanted == dict[str, int]:
        if isinstance(value, dict) and all(type(v) is int for v in value.values()):
            return dict(value)
    elif type(value) in kinds:
        return value
    expected = {
        tuple[str, ...]: "a list of names",
        tuple[int, ...]: "a list of whole numbers",
        dict[str, int]: "a table of whole numbers",
        bool: "true or false",
    }
    expected_words = expected.get(wanted, " or ".join(k.__name__ for k in kinds))
    raise UsageError(f"{key} must be {expected_words}, got {value!r}", "correct the flag or the recipe")


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return _toml_string(value)
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml_value(v) for v in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml_string(k)} = {_toml_value(v)}" for k, v in value.items()) + "}"
    return repr(value)


def _toml_string(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c >= " " and c != "\x7f" else f"\\u{ord(c):04x}" for c in escaped) + '"'
