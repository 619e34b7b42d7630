"""Good plans for a base and a budget, best first, for someone who has none yet.

The order is a rule, not a measurement on anybody's data. Its evidence: at the same number of parameters, adapters on
all linears learn better than adapters on attention alone ("LoRA Without Regret", Thinking Machines, 2025; also the
comparison of methods in PEFT's repository, where rank spent on the feed-forward layers was spent best); and a budget
goes to the head or to the adapters, of which the adapters reach every layer, so the smaller head comes first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from textlora.budget import ALL_LINEAR, Plan, plan
from textlora.config import CHOICES, MAX, Config
from textlora.counts import has_own_head, usual_targets
from textlora.errors import BudgetError
from textlora.shapes import Shapes

RULE = (
    "The order is a rule, not a measurement on your data: adapters on all linears before attention alone (LoRA Without "
    "Regret), then the smaller head, since what a head takes the adapters don't get."
)
# Settings that make a plan; whoever names one has a plan in mind.
SPEC = ("lora_r", "lora_alpha", "use_rslora", "use_dora", "target_modules", "layers_to_transform", "rank_pattern")
SPEC += ("alpha_pattern", "bias", "head", "head_rank", "pooling", "bag_of_tokens", "memory")


@dataclass(frozen=True)
class Good:
    """A plan at the largest rank that fits, and why it stands where it stands."""

    plan: Plan
    reason: str

    @property
    def flags(self) -> str:
        """What makes `textlora plan` and `train` take it."""
        targets = ",".join(self.plan.target_modules)
        pooling = "cls" if self.plan.head_kind == "full" else self.plan.pooling
        head = f"--head {self.plan.head_kind} --pooling {pooling}"
        return f"{head} --target-modules {targets} --lora-r {self.plan.r} --bag-of-tokens false --memory 0"

    def to_dict(self) -> dict[str, Any]:
        """The contract's keys of a plan but its modules, with `reason` and `flags`."""
        values = self.plan.to_dict()
        return {k: v for k, v in values.items() if k not in ("modules", "neighbours")} | {
            "reason": self.reason,
            "flags": self.flags,
        }


def good_plans(config: Config, shapes: Shapes, num_labels: int, base_name: str) -> list[Good]:
    """Every head with every usual set of targets, each at the largest rank within config.budget; best first (RULE).

    Raises BudgetError, for the cheapest of them, if none fits.
    """
    heads = [head for head in CHOICES["head"] if head != "full" or has_own_head(shapes)]
    sets = ((ALL_LINEAR,), *reversed(usual_targets(shapes)))
    asked = [_asked(config, head, targets) for head in heads for targets in sets]
    found = [p for p in (_fitting(one, shapes, num_labels, base_name) for one in asked) if p]
    if not found:
        plan(
            _asked(config, "linear", sets[-1]), shapes, num_labels, base_name
        )  # the cheapest: raises, and says by how much
    order = {targets: i for i, targets in enumerate(sets)}
    found.sort(key=lambda p: (order[p.target_modules], p.head, heads.index(p.head_kind)))
    return [Good(p, _reason(p, sets)) for p in found]


def _asked(config: Config, head: str, targets: tuple[str, ...]) -> Config:
    pooling = "cls" if head == "full" else "mean"
    plain = replace(config, bag_of_tokens=False, memory=0)
    return replace(plain, head=head, pooling=pooling, target_modules=targets, lora_r=MAX, rank_pattern={})


def _fitting(config: Config, shapes: Shapes, num_labels: int, base_name: str) -> Plan | None:
    try:
        return plan(config, shapes, num_labels, base_name)
    except BudgetError:
        return None


def _reason(plan: Plan, sets: Sequence[tuple[str, ...]]) -> str:
    where = "every linear is adapted" if plan.target_modules == (ALL_LINEAR,) else "attention alone is adapted"
    return f"{where}; the head takes {100 * plan.head / plan.budget:.1f} % of the budget"
