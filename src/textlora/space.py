"""What a search may try: settings and their ranges, and how a draw becomes a config that fits the budget.

The `budget` space has the same parameters in every trial: a share of rank for each third of the depth and each group of
modules (0: no adapters there), and what else decides how well a run learns. Shares become ranks, and ranks that don't
fit are scaled down, so no trial is wasted on a plan over the limit. Other spaces are TOML files. Knows nothing of
Optuna but the three methods of a trial.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import resources
from itertools import combinations, product
from math import isfinite
from pathlib import Path
from typing import Any, Protocol

from textlora import budget, config
from textlora.budget import ALL_LINEAR
from textlora.clean import STEPS
from textlora.config import MAX, Config
from textlora.counts import (
    bag_parameters,
    bias_parameters,
    has_own_head,
    head_parameters,
    linear_modules,
    memory_parameters,
)
from textlora.errors import BudgetError, UsageError, closest
from textlora.shapes import Module, Shapes

PARTS = ("search", "trial", "pruner")  # tables of a space's file
BUDGET = "budget"  # the name of the space that is made from the base and the limit
DEPTHS = ("lower", "middle", "upper")  # thirds of the layers
SHARE_STEP = 0.125
MOST_RANK = 64  # of a share of 1, where four times the largest uniform rank isn't less
# What makes the task and not how it is learnt, or is the search's own: no space may name these.
FIXED = ("auto", "data", "data_revision", "text_column", "label_column", "label_names", "validation_fraction")
FIXED += ("split_seed", "base", "base_revision", "base_weights", "tokenizer", "budget", "seed", "seeds", "report_to")
FIXED += ("refit", "engine", "precision", "time_limit", "metric_for_best_model", "logging_steps", "train_sample_size")
FIXED += ("loss",)
SIZES = ("head", "head_rank", "bias", "bag_of_tokens", "use_dora", "target_modules", "layers_to_transform")
SIZES += ("rank_pattern", "memory")  # settings that decide, beside lora_r, how much is trained
REFITTED = (
    "warmup_ratio",
    "eval_steps",
    "memory",
)  # chosen from the data again for each draw, where the recipe has that so


class Trial(Protocol):
    """What is asked of Optuna's trial."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> Any: ...

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> Any: ...

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...


@dataclass(frozen=True)
class Task:
    """What a search starts from: a config, its base's shapes, how many labels."""

    config: Config  # every setting chosen: nothing in `auto`
    refit: tuple[str, ...]  # of `REFITTED`, what the recipe leaves to the data
    shapes: Shapes
    num_labels: int
    base_name: str

    def plan(self, of: Config) -> budget.Plan:
        return budget.plan(of, self.shapes, self.num_labels, self.base_name)


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, whole ones if both are."""

    low: float
    high: float
    log: bool = False
    step: float | None = None

    def told(self) -> dict[str, Any]:
        return {"low": self.low, "high": self.high, "log": self.log}

    def draw(self, trial: Trial, name: str) -> Any:
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(name, self.low, self.high, step=int(self.step or 1), log=self.log)
        return trial.suggest_float(name, float(self.low), float(self.high), step=self.step, log=self.log)

    def nearest(self, value: Any) -> Any:
        """The value of the range that lies nearest; of "max" its highest."""
        if not isinstance(value, int | float):
            return self.high
        clipped = min(max(value, self.low), self.high)
        if self.step:
            clipped = self.low + round((clipped - self.low) / self.step) * self.step
        return round(clipped) if isinstance(self.low, int) and isinstance(self.high, int) else float(clipped)


@dataclass(frozen=True)
class Choice:
    """Some values; lists go by their words, which is what a database can hold."""

    values: tuple[Any, ...]

    @property
    def words(self) -> dict[Any, Any]:
        return {",".join(map(str, v)) or "none" if isinstance(v, tuple) else v: v for v in self.values}

    def told(self) -> dict[str, Any]:
        return {"choices": list(self.words)}

    def draw(self, trial: Trial, name: str) -> Any:
        return self.words[trial.suggest_categorical(name, list(self.words))]

    def nearest(self, value: Any) -> Any:
        if value in self.values:
            return next(word for word, v in self.words.items() if v == value)
        numbers = all(isinstance(v, int | float) for v in (value, *self.values))
        return min(self.words, key=lambda word: abs(word - value)) if numbers else next(iter(self.words))


Domain = Range | Choice


@dataclass(frozen=True)
class Space:
    """Domains by parameter, how a draw of them becomes a config, and what trials have of their own."""

    name: str
    task: Task
    domains: dict[str, Domain]
    config_of: Callable[[Task, dict[str, Any]], Config]
    params_of: Callable[[Task, dict[str, Domain]], dict[str, Any]]
    trial: dict[str, Any] = field(default_factory=dict)  # settings that trials have over the draw: shorter runs
    pruner: dict[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """What two searches must have in common to share a study: name, domains, trials' settings."""
        text = json.dumps([self.name, {k: repr(v) for k, v in self.domains.items()}, self.trial], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def start(self) -> dict[str, Any]:
        """The parameters that come nearest to the config from which the search starts."""
        return self.params_of(self.task, self.domains)

    def short(self, full: Config) -> Config:
        """`full` with what trials have of their own."""
        return replace(full, **self.trial)

    def full(self, short: Config) -> Config:
        """A trial's config as the winner is trained."""
        return replace(short, **{key: getattr(self.task.config, key) for key in self.trial})


def propose(trial: Trial, space: Space) -> Config:
    """The config of a draw: every setting chosen but `task.refit`, and within the budget whatever is drawn."""
    drawn = {name: domain.draw(trial, name) for name, domain in space.domains.items()}
    return replace(space.config_of(space.task, drawn), auto=space.task.refit)


def open_space(name: str, task: Task) -> Space:
    """The space called `name`: `budget`, a shipped one, or a TOML file.

    Raises UsageError for a name that isn't known, in the file too, and for values of a wrong kind; BudgetError if
    nothing in it fits; DamagedError for a file that isn't TOML.
    """
    if name == BUDGET:
        return _budget_space(task)
    space = _file_space(name, task)
    _check_values(space)
    _check_fits(space)
    return space


def recipe_of(name: str) -> str:
    """The recipe that a space is made for; "" if any."""
    return "" if name == BUDGET else str(_read(name).get("recipe", ""))


def names() -> list[str]:
    """The spaces that ship with textlora."""
    found = (p.name for p in resources.files("textlora.spaces").iterdir())
    return [BUDGET, *sorted(name.removesuffix(".toml") for name in found if name.endswith(".toml"))]


# ---------------------------------------------------------------------------------------------------- the budget space


@dataclass(frozen=True)
class Cell:
    """Modules of one group in one third of the layers: they share a rank."""

    name: str
    modules: tuple[Module, ...]

    def parameters(self, r: int, use_dora: bool) -> int:
        return sum(r * (m.in_features + m.out_features) + use_dora * m.out_features for m in self.modules)


def cells(task: Task) -> list[Cell]:
    """The linears that may get adapters, by third of the depth and group, in the order of the forward pass."""
    layers, wanted = task.shapes.num_hidden_layers, set(task.config.layers_to_transform)
    found: dict[str, list[Module]] = {}
    for module in linear_modules(task.shapes):
        if not wanted or module.layer in wanted:
            depth = DEPTHS[min(2, module.layer * 3 // max(1, layers))]
            found.setdefault(f"rank_{depth}_{_group(module.name)}", []).append(module)
    return [Cell(name, tuple(modules)) for name, modules in found.items()]


def _group(name: str) -> str:
    """What a linear is for, by its name: families spell these their own way, so ModernBERT's Wqkv counts as value."""
    if not re.search(r"att(entio)?n", name):
        return "feed_forward"
    return "query_key" if re.search(r"[._](q|k|query|key)([._]|$)", name) else "value_output"


def _budget_space(task: Task) -> Space:
    c, offered = task.config, _heads(task)
    domains: dict[str, Domain] = {cell.name: Range(0.0, 1.0, step=SHARE_STEP) for cell in cells(task)}
    scale = _scale(c)
    domains["alpha_over_r"] = Range(min(0.5, scale), max(8.0, scale), log=True)
    domains["head"] = Choice(offered)
    one_way = task.shapes.measured is not None and task.shapes.measured.reads_left_to_right
    domains["pooling"] = Choice(("mean",) if one_way else ("mean", "cls"))
    domains["learning_rate"] = Range(c.learning_rate / 4, c.learning_rate * 4, log=True)
    domains["lora_dropout"] = Range(0.0, 0.3, step=0.05)
    domains["weight_decay"] = Range(0.0, 0.1, step=0.01)
    if c.batch_tokens:
        # Smaller ones take several times as long for a text (docs/log.md), and the rate is searched anyway.
        sizes = (c.batch_tokens * 2**k // 4 for k in range(4))
        domains["batch_tokens"] = Choice(tuple(size for size in sizes if size >= c.max_length))
    else:
        domains["per_device_train_batch_size"] = Choice(tuple(sorted({8, 16, 32, 64, c.per_device_train_batch_size})))
    if c.max_steps == -1:
        few, many = max(1, round(c.num_train_epochs / 3)), round(c.num_train_epochs * 4 / 3)
        domains["num_train_epochs"] = Range(few, max(few + 1, many))
    domains["label_smoothing_factor"] = Range(0.0, 0.2, step=0.05)
    domains["cleaning"] = Choice(tuple(dict.fromkeys([(), tuple(STEPS), c.cleaning])))
    return Space(BUDGET, task, domains, _budget_config, _budget_params)


def _scale(c: Config) -> float:
    return c.lora_alpha / c.lora_r if isinstance(c.lora_r, int) else 2.0


def _heads(task: Task) -> tuple[str, ...]:
    """Heads beside which rank 1 fits somewhere. Raises BudgetError if there is none."""
    heads = [head for head in config.CHOICES["head"] if head != "full" or has_own_head(task.shapes)]
    cheapest = min(cell.parameters(1, task.config.use_dora) for cell in cells(task))
    needed = {head: _apart(task, head, bag=0) + cheapest for head in heads}
    found = tuple(head for head in heads if needed[head] <= task.config.budget)
    if not found:
        raise BudgetError(
            f"nothing in the space {BUDGET} fits: its smallest plan trains {min(needed.values()):,} parameters, the "
            f"budget is {task.config.budget:,}",
            f"raise --budget to {min(needed.values()):,} or more",
        )
    return found


def _apart(task: Task, head: str, bag: int) -> int:
    """What is trained beside adapters, biases counted as if every linear had one of those."""
    c = task.config
    modules = [m for cell in cells(task) for m in cell.modules]
    biases = bias_parameters(task.shapes, head, c.bias, modules)
    memory = 0 if head == "full" else memory_parameters(task.shapes, c.memory, task.num_labels)
    return head_parameters(task.shapes, head, task.num_labels, c.head_rank) + bag + memory + biases


def most_rank(task: Task) -> int:
    """The rank of a share of 1: four times what every linear could have, so that a third of them may have it all."""
    every = sum(cell.parameters(1, task.config.use_dora) for cell in cells(task))
    return max(1, min(MOST_RANK, 4 * max(1, task.config.budget // every), task.shapes.hidden_size))


def _budget_config(task: Task, drawn: dict[str, Any]) -> Config:
    """Shares to ranks within the limit; the rest as drawn."""
    c, scale = task.config, drawn["alpha_over_r"]
    shares = {cell: drawn[cell.name] for cell in cells(task)}
    rest = {key: value for key, value in drawn.items() if key in config.setting_fields()}
    full, cheapest = drawn["head"] == "full", min(cell.parameters(1, c.use_dora) for cell in shares)
    bag = bag_parameters(task.shapes, task.num_labels)
    has_bag = c.bag_of_tokens and not full and _apart(task, drawn["head"], bag) + cheapest <= c.budget
    room = c.budget - _apart(task, drawn["head"], bag * has_bag)
    ranks = {
        module.name: r
        for cell, r in _ranks(shares, most_rank(task), room, c.use_dora).items()
        for module in cell.modules
    }
    every = {m.name for cell in shares for m in cell.modules}
    adapted = (ALL_LINEAR,) if set(ranks) == every and not c.layers_to_transform else tuple(ranks)
    usual = max(set(ranks.values()), key=list(ranks.values()).count)  # the fewest exceptions
    alphas = {name: max(1, round(scale * r)) for name, r in ranks.items()}
    usual_alpha = max(1, round(scale * usual))
    constant = c.lora_dropout_curve == "constant"
    return replace(
        c,
        **rest | {"pooling": "cls" if full else drawn["pooling"]},
        bag_of_tokens=bool(has_bag),
        target_modules=adapted,
        layers_to_transform=(),
        lora_r=usual,
        lora_alpha=usual_alpha,
        rank_pattern={name: r for name, r in ranks.items() if r != usual},
        alpha_pattern={name: alpha for name, alpha in alphas.items() if alpha != usual_alpha},
        lora_dropout_end=0.0 if constant else c.lora_dropout_end,
    )


def _ranks(shares: Mapping[Cell, float], most: int, room: int, use_dora: bool) -> dict[Cell, int]:
    """A rank for each cell of a share above 0 that fits in `room`, the largest shares first; scaled down together.

    If every share is 0, or none of the chosen cells fits, it is the cheapest cell at rank 1: a trial must train.
    """
    kept: dict[Cell, int] = {}
    for cell in sorted(shares, key=lambda cell: -shares[cell]):
        least = {**dict.fromkeys(kept, 1), cell: 1}
        if shares[cell] and _parameters(least, use_dora) <= room:
            kept[cell] = max(1, round(shares[cell] * most))
    if not kept:
        return {min(shares, key=lambda cell: cell.parameters(1, use_dora)): 1}
    low, high = 0, 1_000  # thousandths to which all are scaled: the most that fits
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _parameters(_scaled(kept, middle), use_dora) <= room else (low, middle - 1)
    return {cell: r for cell, r in _scaled(kept, low).items() if r}


def _scaled(ranks: Mapping[Cell, int], thousandths: int) -> dict[Cell, int]:
    return {cell: max(1, r * thousandths // 1_000) for cell, r in ranks.items()}


def _parameters(ranks: Mapping[Cell, int], use_dora: bool) -> int:
    return sum(cell.parameters(r, use_dora) for cell, r in ranks.items())


def _budget_params(task: Task, domains: dict[str, Domain]) -> dict[str, Any]:
    c, most = task.config, most_rank(task)
    ranks = {module.name: module.r for module in task.plan(replace(c, auto=())).modules}
    wanted: dict[str, Any] = {"alpha_over_r": _scale(c), **c.to_dict(), "cleaning": c.cleaning}
    for cell in cells(task):
        wanted[cell.name] = sum(ranks.get(m.name, 0) for m in cell.modules) / len(cell.modules) / most
    return {name: domain.nearest(wanted[name]) for name, domain in domains.items()}


# ------------------------------------------------------------------------------------------------------ spaces in files


def _read(name: str) -> dict[str, Any]:
    if name.endswith(".toml"):
        if not Path(name).is_file():
            raise UsageError(f"there is no space file {name}", "give a file that exists or a shipped space's name")
        return config.read_toml(Path(name))
    if name not in names():
        raise UsageError(f"there is no space {name!r}", closest(name, names()))
    with resources.as_file(resources.files("textlora.spaces") / f"{name}.toml") as path:
        return config.read_toml(path)


def _file_space(name: str, task: Task) -> Space:
    """A space from TOML: `[search]` has lists of values or tables of low, high, log and step; `[trial]` settings."""
    read = _read(name)
    for key, part in read.items():
        _known(key, ("recipe", *PARTS), name, "part")
        if key in PARTS and not isinstance(part, dict):
            raise UsageError(f"the space {name}: {key} is {part!r}", f"make it a table: [{key}]")
    if not read.get("search"):
        raise UsageError(f"the space {name} has no [search]", "name settings there, with values or a range")
    for key in (*read["search"], *read.get("trial", {})):
        _known(key, [n for n in config.setting_fields() if n not in FIXED], name, "setting")
    for key, value in read.get("pruner", {}).items():
        _known(key, ("startup_trials", "warmup_texts"), name, "pruner's setting")
        if type(value) is not int or value < 0:
            raise UsageError(f"the space {name}: {key} is {value!r}", "give a whole number, 0 or more")
    domains = {key: _domain(name, key, value) for key, value in read["search"].items()}
    short = config.from_dict(read.get("trial", {}))
    trial = {key: getattr(short, key) for key in read.get("trial", {})}
    return Space(name, task, domains, _file_config, _file_params, trial, read.get("pruner", {}))


def _known(key: str, known: Sequence[str], name: str, what: str) -> None:
    if key not in known:
        raise UsageError(
            f"the space {name} names {key!r}, which is no {what} that can be searched", closest(key, known)
        )


def _domain(name: str, key: str, value: Any) -> Domain:
    """A list is a choice, a table a range; each value as the setting's type."""
    typed = partial(_value, key)
    if config.setting_type(key) == dict[str, int]:
        raise UsageError(f"the space {name}: {key} is a table for each module", "search lora_r, or one recipe for each")
    if isinstance(value, list) and value:
        return Choice(tuple(typed(one) for one in value))
    if not isinstance(value, dict) or not {"low", "high"} <= set(value) <= {"low", "high", "log", "step"}:
        raise UsageError(f"the space {name}: {key} is {value!r}", "give a list of values, or low and high, log, step")
    low, high, log, step = typed(value["low"]), typed(value["high"]), value.get("log", False), value.get("step")
    numbers = all(type(v) in (int, float) and isfinite(v) for v in (low, high, 1 if step is None else step))
    if not numbers or type(log) is not bool or not low < high or (log and (low <= 0 or step is not None)):
        raise UsageError(
            f"the space {name}: {key} is no range: {value}", "low < high; log true or false, above 0 and without step"
        )
    return Range(low, high, log, step) if step is None else _stepped(name, key, Range(low, high, log, step))


def _stepped(name: str, key: str, one: Range) -> Range:
    """A range that ends on a step."""
    whole, step = isinstance(one.low, int) and isinstance(one.high, int), one.step or 0
    if step <= 0 or step > one.high - one.low or (whole and step != int(step)):
        raise UsageError(
            f"the space {name}: {key} goes from {one.low} to {one.high} in steps of {one.step}",
            "give a step above 0 that fits between them, whole between whole numbers",
        )
    steps = int((one.high - one.low) / step + 1e-9)
    return replace(one, high=int(one.low + steps * step) if whole else min(one.high, one.low + steps * step))


def _value(key: str, value: Any) -> Any:
    return getattr(config.from_dict({key: value}), key)


def _file_config(task: Task, drawn: dict[str, Any]) -> Config:
    """As drawn; a rank that doesn't fit becomes the largest that does."""
    c = replace(task.config, **_one_batch(drawn))
    if "lora_r" in drawn and "lora_alpha" not in drawn and isinstance(c.lora_r, int):
        c = replace(c, lora_alpha=max(1, round(_scale(task.config) * c.lora_r)))
    try:
        task.plan(c)
    except BudgetError:
        c = replace(c, lora_r=task.plan(replace(c, lora_r=MAX)).r)
    return c


def _one_batch(drawn: dict[str, Any]) -> dict[str, Any]:
    """Naming one way of making batches switches the other off."""
    pair = ("batch_tokens", "per_device_train_batch_size")
    others = {other: 0 for one, other in (pair, pair[::-1]) if drawn.get(one) and other not in drawn}
    return drawn | others


def _file_params(task: Task, domains: dict[str, Domain]) -> dict[str, Any]:
    return {name: domain.nearest(getattr(task.config, name)) for name, domain in domains.items()}


def _check_values(space: Space) -> None:
    """Each value that may be drawn, and each two, must be a config beside the recipe's others. Raises UsageError."""
    names = list(space.domains)
    for pair in (*((name,) for name in names), *combinations(names, 2)):
        for values in product(*(_ends(space.domains[name]) for name in pair)):
            drawn = dict(zip(pair, values, strict=True))
            found = space.short(replace(space.task.config, **_one_batch(drawn))).problems()
            if found:
                raise UsageError(f"the space {space.name}: {'; '.join(found)}", "correct the space")


def _ends(domain: Domain) -> tuple[Any, ...]:
    return domain.values if isinstance(domain, Choice) else (domain.low, domain.high)


def _check_fits(space: Space) -> None:
    """Every combination of the settings that decide on size must have a rank that fits. Raises BudgetError."""
    sizes = {name: _ends(domain) for name, domain in space.domains.items() if name in SIZES}
    for values in product(*sizes.values()):
        drawn = dict(zip(sizes, values, strict=True))
        c = replace(space.task.config, **drawn)
        try:
            space.task.plan(replace(c, lora_r=MAX) if len(c.rank_pattern) == 0 else c)
        except BudgetError as error:
            words = ", ".join(f"{key} {value}" for key, value in drawn.items()) or "what the recipe says"
            raise BudgetError(f"the space {space.name} can't fit with {words}: {error.message}", error.fix) from None
