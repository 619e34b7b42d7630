"""Which optimizer trains: `build(name, model, config)`.

`adamw_torch` is the Trainer's own. `loraplus` (LoRA+, arXiv 2402.12354) steps further in each B than in its A. `muon`
(torch.optim.Muon) orthogonalises the steps of the adapters' matrices and leaves the rest to AdamW. `adafactor` and
`sgd` keep less state. All share one rule: weight decay falls on matrices, never on biases, norms or magnitudes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import SGD, AdamW, Muon, Optimizer
from transformers.optimization import Adafactor

from textlora.config import Config

SGD_MOMENTUM = 0.9
ADAPTER = re.compile(r"\.lora_[AB]\.")
ADAPTER_B = re.compile(r"\.lora_B\.")

Named = list[tuple[str, nn.Parameter]]


def build(name: str, model: nn.Module, config: Config) -> Optimizer:
    """The optimizer of that name (one of config.CHOICES["optim"]) over the trained parameters of `model`.

    Its state_dict holds numbers, strings, lists and tensors only, so that a checkpoint needs no pickle.
    """
    return BUILDERS[name]([(n, p) for n, p in model.named_parameters() if p.requires_grad], config)


def _adamw(trained: Named, config: Config) -> Optimizer:
    """Fused: the same numbers in a fifth of the time, which many small matrices else spend between torch's calls."""
    return AdamW(_groups(trained, config), lr=config.learning_rate, fused=True)


def _loraplus(trained: Named, config: Config) -> Optimizer:
    """Only B at the higher rate, as in the paper; PEFT's create_loraplus_optimizer puts every bias there too."""
    b, rest = _parted(trained, ADAPTER_B)
    groups = _groups(rest, config) + _groups(b, config, config.learning_rate * config.loraplus_lr_ratio)
    return AdamW(groups, lr=config.learning_rate)  # the base rate first: the Trainer logs the first group's


def _muon(trained: Named, config: Config) -> Optimizer:
    adapters, rest = _parted(trained, ADAPTER)
    return MuonWithAdamW(
        # this adjustment makes a step as large as AdamW's usually is, so that one rate serves both (arXiv 2502.16982)
        Muon(_groups(adapters, config), lr=config.learning_rate, adjust_lr_fn="match_rms_adamw"),
        AdamW(_groups(rest, config), lr=config.learning_rate),
    )


def _adafactor(trained: Named, config: Config) -> Optimizer:
    """At the run's own rate and schedule, as the Trainer sets it up: Adafactor's relative steps would ignore both."""
    return Adafactor(_groups(trained, config), lr=config.learning_rate, scale_parameter=False, relative_step=False)


def _sgd(trained: Named, config: Config) -> Optimizer:
    return SGD(_groups(trained, config), lr=config.learning_rate, momentum=SGD_MOMENTUM)


BUILDERS: dict[str, Callable[[Named, Config], Optimizer]] = {
    "adamw_torch": _adamw,
    "loraplus": _loraplus,
    "muon": _muon,
    "adafactor": _adafactor,
    "sgd": _sgd,
}


class MuonWithAdamW(Optimizer):
    """Two optimizers as one: the groups are theirs, the state is one dictionary, so it saves and loads as any does."""

    def __init__(self, muon: Muon, adamw: AdamW) -> None:
        self.muon, self.adamw = muon, adamw
        super().__init__([*muon.param_groups, *adamw.param_groups], {})
        self._share()

    def _share(self) -> None:
        """Let both work on the groups and the state that this object holds: a scheduler changes the rates in them."""
        count = len(self.muon.param_groups)
        self.muon.param_groups, self.adamw.param_groups = self.param_groups[:count], self.param_groups[count:]
        self.muon.state = self.adamw.state = self.state

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        if closure is not None:
            raise NotImplementedError("each of the two would evaluate the closure")
        self.muon.step()
        self.adamw.step()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)  # puts new groups and a new state in place
        self._share()


def _groups(trained: Named, config: Config, rate: float = 0.0) -> list[dict[str, Any]]:
    """Two groups at one rate [the run's]: matrices, which decay, and all else."""
    lr = rate or config.learning_rate
    matrices, others = [p for _, p in trained if p.ndim >= 2], [p for _, p in trained if p.ndim < 2]
    return [
        {"params": matrices, "weight_decay": config.weight_decay, "lr": lr},
        {"params": others, "weight_decay": 0.0, "lr": lr},
    ]


def _parted(trained: Named, pattern: re.Pattern[str]) -> tuple[Named, Named]:
    """Those whose name has the pattern, and the rest."""
    found = [pair for pair in trained if pattern.search(pair[0])]
    return found, [pair for pair in trained if not pattern.search(pair[0])]
