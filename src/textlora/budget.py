"""Shapes and a limit in, ranks and exact counts out; no torch, no weights.

Every number here is counted by hand from the base's shapes. The built model and the saved file are counted again by
others, and the three must agree.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from textlora.config import MAX, Config
from textlora.counts import (
    bag_parameters,
    base_parameters,
    bias_parameters,
    has_own_head,
    head_parameters,
    linear_modules,
    memory_parameters,
    memory_rows,
    own_pooling,
    usual_targets,
)
from textlora.errors import BudgetError, UsageError, closest
from textlora.shapes import Module, Shapes

ALL_LINEAR = "all-linear"
LEAST_REMEMBERED = 1_000  # texts; what fewer would gain was too little to see (docs/log.md, 2026-11-29)
PLAIN = ("base", "num_labels", "total", "trainable", "trainable_percent", "adapters", "head", "biases", "head_kind")
PLAIN += (
    "head_rank",
    "bag_of_tokens",
    "memory",
    "memory_rows",
    "pooling",
    "use_dora",
    "use_rslora",
    "budget",
    "fits",
    "largest_r",
    "r",
    "lora_alpha",
)  # as they are, in plan.json


@dataclass(frozen=True)
class Adapted:
    """A linear with an adapter of rank `r`."""

    name: str
    in_features: int
    out_features: int
    r: int
    lora_alpha: int
    use_dora: bool = False

    @property
    def parameters(self) -> int:
        """Trained numbers: A is [r, in], B is [out, r]; DoRA's magnitude is [out]."""
        return self.r * (self.in_features + self.out_features) + self.use_dora * self.out_features

    def to_dict(self) -> dict[str, Any]:
        """The contract's JSON keys of one module."""
        return {
            "name": self.name,
            "in": self.in_features,
            "out": self.out_features,
            "r": self.r,
            "lora_alpha": self.lora_alpha,
            "parameters": self.parameters,
        }


@dataclass(frozen=True)
class Neighbour:
    """Another plan with the same head that also fits."""

    target_modules: tuple[str, ...]
    r: int
    trainable: int


@dataclass(frozen=True)
class Plan:
    """What is trained on which base, counted."""

    base: str
    num_labels: int
    head_kind: str  # "full" | "linear" | "low-rank"
    head_rank: int | None  # of a low-rank head
    pooling: str
    bias: str
    budget: int
    modules: tuple[Adapted, ...]  # in the order of the forward pass
    r: int  # of every module that rank_pattern doesn't name
    lora_alpha: int
    use_dora: bool
    use_rslora: bool  # scales by lora_alpha / sqrt(r); nothing to count
    target_modules: tuple[str, ...]  # as asked
    adapters: int
    head: int
    bag_of_tokens: int  # its numbers; 0: there is none
    memory: int  # its numbers, of 32 bits each
    memory_rows: int  # training texts in it; 0: there is none
    biases: int
    base_parameters: int  # frozen ones
    largest_r: int  # the largest uniform rank that fits; 0: none does
    neighbours: tuple[Neighbour, ...] = ()

    @property
    def trainable(self) -> int:
        """All numbers that are trained."""
        return self.adapters + self.head + self.bag_of_tokens + self.memory + self.biases

    @property
    def voices(self) -> bool:
        """Whether anything is blended into the head's logits when training is over."""
        return self.bag_of_tokens > 0 or self.memory > 0

    @property
    def total(self) -> int:
        """All numbers, each once (PEFT's own print adds the untrained copy of the head)."""
        return self.base_parameters + self.trainable

    @property
    def trainable_percent(self) -> float:
        """Trained share of all, in percent, two decimals."""
        return round(100 * self.trainable / self.total, 2)

    @property
    def fits(self) -> bool:
        """Whether at most `budget` numbers are trained."""
        return self.trainable <= self.budget

    @property
    def rank_pattern(self) -> dict[str, int]:
        """For PEFT: rank by full module name where it isn't `r`."""
        return {m.name: m.r for m in self.modules if m.r != self.r}

    @property
    def alpha_pattern(self) -> dict[str, int]:
        """For PEFT: alpha by full module name where it isn't `lora_alpha`."""
        return {m.name: m.lora_alpha for m in self.modules if m.lora_alpha != self.lora_alpha}

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as in `plan --json` and plan.json."""
        return {
            **{key: getattr(self, key) for key in PLAIN},
            "target_modules": list(self.target_modules),
            "modules": [module.to_dict() for module in self.modules],
            "neighbours": [
                {"target_modules": list(n.target_modules), "r": n.r, "trainable": n.trainable} for n in self.neighbours
            ],
        }


def plan(config: Config, shapes: Shapes, num_labels: int, base_name: str) -> Plan:
    """The plan that `config` asks for, with the ranks solved if lora_r is `max`.

    Raises BudgetError when it trains more than config.budget, with the largest rank that fits; UsageError for a
    pattern that matches nothing, the near matches named, and for a rank or a number of labels that makes no sense.
    A bag of tokens that `config.auto` lists is left out where it doesn't fit beside the rest; a memory that it lists
    gets what the rest leaves.
    """
    _check(config, shapes, num_labels)
    draft = _draft(config, shapes, num_labels, base_name)
    if not _feasible(draft) and "bag_of_tokens" in config.auto:
        config = replace(config, bag_of_tokens=False)
        draft = _draft(config, shapes, num_labels, base_name)
    if not _feasible(draft):
        raise _over_budget(draft, config, shapes)
    return replace(draft, neighbours=neighbours(draft, config, shapes))


def _feasible(draft: Plan) -> bool:
    return draft.fits and draft.largest_r > 0


def neighbours(plan: Plan, config: Config, shapes: Shapes) -> tuple[Neighbour, ...]:
    """Other plans with the same head, bias and layers that fit: one rank up or down, and the usual sets of targets.

    The sets (query and value; key too; output too; all linears; ModernBERT has query, key and value in one) come at
    their largest uniform rank.
    """
    ranks = [replace(config, lora_r=r) for r in (plan.r - 1, plan.r + 1) if r > 0]
    targets = (*usual_targets(shapes), (ALL_LINEAR,))
    sets = [replace(config, target_modules=t, lora_r=MAX, rank_pattern={}, alpha_pattern={}) for t in targets]

    drafts = [_draft(asked, shapes, plan.num_labels, plan.base) for asked in (*ranks, *sets)]
    fitting = {_ranks(d): d for d in drafts if d.fits and d.largest_r > 0 and _ranks(d) != _ranks(plan)}
    return tuple(Neighbour(d.target_modules, d.r, d.trainable) for d in fitting.values())


def _ranks(plan: Plan) -> tuple[tuple[str, int], ...]:
    """What makes two plans of one base and head the same."""
    return tuple((m.name, m.r) for m in plan.modules)


def _check(config: Config, shapes: Shapes, num_labels: int) -> None:
    for r in (config.lora_r, *config.rank_pattern.values()):
        if r != MAX and (not isinstance(r, int) or r < 1):
            raise UsageError(f"a rank is {r}", "give a whole number from 1, or --lora-r max")
    if num_labels < 2:
        raise UsageError(f"num_labels is {num_labels}", "a classifier needs 2 labels or more")
    if config.head == "full" and not has_own_head(shapes):
        raise UsageError(f"{shapes.family} has no classification head that textlora can train", "use --head linear")
    if config.memory and "memory" not in config.auto and shapes.measured:
        raise UsageError(f"{shapes.family} is no family whose embeddings textlora remembers texts by", "use --memory 0")
    if config.head != "full" and config.pooling == "cls" and shapes.measured and shapes.measured.reads_left_to_right:
        raise UsageError(f"{shapes.family} reads left to right: its first token sees no other", "use --pooling mean")


def _draft(config: Config, shapes: Shapes, num_labels: int, base_name: str) -> Plan:
    """The plan that is asked for, within the budget or not."""
    chosen = _targeted(config, shapes)
    pinned = _by_pattern(config.rank_pattern, chosen, shapes, "rank_pattern")
    alphas = _by_pattern(config.alpha_pattern, chosen, shapes, "alpha_pattern")
    head = head_parameters(shapes, config.head, num_labels, config.head_rank)
    bag = bag_parameters(shapes, num_labels) if config.bag_of_tokens and config.head != "full" else 0
    biases = bias_parameters(shapes, config.head, config.bias, chosen)
    magnitudes = config.use_dora * sum(m.out_features for m in chosen)

    named = 0 if "memory" in config.auto or config.head == "full" else config.memory
    apart = head + bag + biases + memory_parameters(shapes, named, num_labels)

    largest = _largest_rank(chosen, pinned, config.budget - apart - magnitudes, shapes.hidden_size)
    if config.lora_r == MAX and len(pinned) == len(chosen):
        raise UsageError("lora_r is max, but rank_pattern sets the rank of every module", "drop one of the two")
    r = largest if config.lora_r == MAX else int(config.lora_r)
    modules = tuple(
        Adapted(
            m.name,
            in_features=m.in_features,
            out_features=m.out_features,
            r=pinned.get(m.name, r),
            lora_alpha=alphas.get(m.name, config.lora_alpha),
            use_dora=config.use_dora,
        )
        for m in chosen
    )
    adapters = sum(m.parameters for m in modules)
    kept = named or _memory_rows(config, shapes, num_labels, config.budget - apart - adapters)
    return Plan(
        base=base_name,
        num_labels=num_labels,
        head_kind=config.head,
        head_rank=config.head_rank if config.head == "low-rank" else None,
        pooling=own_pooling(shapes) if config.head == "full" else config.pooling,
        bias=config.bias,
        budget=config.budget,
        modules=modules,
        r=r,
        lora_alpha=config.lora_alpha,
        use_dora=config.use_dora,
        use_rslora=config.use_rslora,
        target_modules=config.target_modules,
        adapters=adapters,
        head=head,
        bag_of_tokens=bag,
        memory=memory_parameters(shapes, kept, num_labels),
        memory_rows=kept,
        biases=biases,
        base_parameters=base_parameters(shapes, config.head) - biases,
        largest_r=largest,
    )


def _memory_rows(config: Config, shapes: Shapes, num_labels: int, room: int) -> int:
    """Texts that a memory left to the budget holds: as many as were asked for and fit, if they are worth it."""
    if "memory" not in config.auto or config.head == "full" or shapes.measured:
        return 0
    rows = min(config.memory, memory_rows(shapes, room, num_labels))
    return rows if rows >= LEAST_REMEMBERED else 0


def _largest_rank(chosen: Iterable[Module], pinned: Mapping[str, int], room: int, cap: int) -> int:
    """The largest rank of the modules without a pinned one within `room` parameters; at most `cap`, 0 if none."""
    slope = sum(m.in_features + m.out_features for m in chosen if m.name not in pinned)
    room -= sum(pinned[m.name] * (m.in_features + m.out_features) for m in chosen if m.name in pinned)
    if room < 0:
        return 0
    return min(cap, room // slope) if slope else cap


# --------------------------------------------------------------------------------------------------------- choosing


def pattern_key(keys: Iterable[str], name: str) -> str | None:
    """The first of `keys` that matches a module's full name, as PEFT decides it (peft.utils.other.get_pattern_key)."""
    return next((key for key in keys if re.match(rf"(.*\.)?({key})$", name)), None)


def _targeted(config: Config, shapes: Shapes) -> list[Module]:
    """The linears that get an adapter. Every target must match one."""
    linears = linear_modules(shapes)
    layers = set(config.layers_to_transform)
    unknown = sorted(layers - set(range(shapes.num_hidden_layers)))
    if unknown:
        raise UsageError(
            f"layers_to_transform names layer {', '.join(map(str, unknown))}",
            f"the base has layers 0 to {shapes.num_hidden_layers - 1}",
        )
    if not config.target_modules:
        raise UsageError("target_modules is empty", f"name modules, or {ALL_LINEAR}")

    allowed = [m for m in linears if not layers or m.layer in layers]
    for target in config.target_modules:
        if not any(_is_target(m, target, shapes) for m in linears):
            raise UsageError(f"target_modules: {target!r} matches nothing", _near(target, linears, shapes, ALL_LINEAR))
        if not any(_is_target(m, target, shapes) for m in allowed):
            raise UsageError(
                f"target_modules: {target!r} lies outside layers_to_transform {sorted(layers)}", "drop one of the two"
            )
    return [m for m in allowed if any(_is_target(m, target, shapes) for target in config.target_modules)]


def _is_target(module: Module, target: str, shapes: Shapes) -> bool:
    """PEFT's rule for a list of targets: the whole name or an ending of it, with the model's prefix or without."""
    bare = target.removeprefix(shapes.prefix)
    return target == ALL_LINEAR or module.name == bare or module.name.endswith(f".{bare}")


def _by_pattern(pattern: Mapping[str, int], chosen: list[Module], shapes: Shapes, setting: str) -> dict[str, int]:
    """Module name -> value for the modules that a key matches. Every key must match one."""
    for key in pattern:
        try:
            matches = any(_matching_key([key], m, shapes) for m in chosen)
        except re.error as error:
            raise UsageError(f"{setting}: {key!r} is no regular expression: {error}", "correct the key") from None
        if not matches:
            raise UsageError(f"{setting}: {key!r} matches no module with an adapter", _near(key, chosen, shapes))
    keys = {m.name: _matching_key(pattern, m, shapes) for m in chosen}
    return {name: pattern[key] for name, key in keys.items() if key is not None}


def _matching_key(keys: Iterable[str], module: Module, shapes: Shapes) -> str | None:
    """PEFT would try the keys on the name with the prefix or without, by storage form; we accept either in both."""
    names = (module.name, shapes.prefix + module.name)
    return next((key for key in keys if any(pattern_key([key], name) for name in names)), None)


def _near(wrong: str, modules: list[Module], shapes: Shapes, *others: str) -> str:
    """`did you mean ...?`: among full names for something like a path, among endings otherwise."""
    bare = wrong.removeprefix(shapes.prefix)
    paths = [m.name for m in modules]
    if re.search(r"\.\d+\.", bare) and difflib.get_close_matches(bare, paths):
        return closest(bare, paths)
    endings = [m.name.split(f".{m.layer}.", 1)[1] for m in modules]
    words = [word for ending in endings for word in (ending.rpartition(".")[2], ending)]
    return closest(bare, dict.fromkeys([*words, *others]))


# ------------------------------------------------------------------------------------------------------ over budget


def _over_budget(draft: Plan, config: Config, shapes: Shapes) -> BudgetError:
    """What doesn't fit, and the nearest thing that would."""
    limit = f"the budget is {draft.budget:,}"
    smaller = _smaller_heads(draft, config, shapes)
    least = _draft(replace(config, lora_r=1), shapes, draft.num_labels, draft.base).trainable
    ways = [f"raise --budget to {least:,} for rank 1"]
    ways += [f"use --head {head}, which needs {needed:,}" for head, needed in smaller.items()]
    ways += ["use --bias none"] if draft.biases else []
    ways += [f"use --bag-of-tokens false, which saves {draft.bag_of_tokens:,}"] if draft.bag_of_tokens else []

    ways += [f"use --memory 0, which saves {draft.memory:,}"] if draft.memory else []

    apart = draft.head + draft.bag_of_tokens + draft.memory + draft.biases
    if apart > draft.budget:
        biases = f" with bias {draft.bias}" if draft.biases else ""
        biases += " with a bag of tokens" if draft.bag_of_tokens else ""
        biases += f" with a memory of {draft.memory_rows:,} texts" if draft.memory else ""
        what = f"the {draft.head_kind} head for {draft.num_labels} labels{biases} alone needs"
        return BudgetError(f"{what} {apart:,} parameters, {limit}", ", or ".join(ways))

    targets = ", ".join(draft.target_modules)
    if draft.largest_r == 0:
        pinned = " beside rank_pattern" if config.rank_pattern else ""
        ways += ["leave out --use-dora"] if draft.use_dora else []
        ways += ["target fewer modules or layers"]
        what = f"even rank 1 on {targets}{pinned} trains {least:,} parameters"
        return BudgetError(f"{what}, {limit}", ", or ".join(ways))

    fix = f"the largest rank that fits is {draft.largest_r}: --lora-r {draft.largest_r}, or --lora-r max"
    return BudgetError(f"rank {draft.r} on {targets} trains {draft.trainable:,} parameters, {limit}", fix)


def _smaller_heads(draft: Plan, config: Config, shapes: Shapes) -> dict[str, int]:
    """Heads that need less than the draft's, and what they need: linear always, low-rank where it fits the budget."""
    needed = {
        head: head_parameters(shapes, head, draft.num_labels, config.head_rank) for head in ("linear", "low-rank")
    }
    room = {
        "linear": draft.head - 1,
        "low-rank": min(draft.head - 1, draft.budget - draft.bag_of_tokens - draft.memory - draft.biases),
    }
    return {head: count for head, count in needed.items() if count <= room[head]}
