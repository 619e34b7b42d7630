"""Optimizers: each learns, goes on from a checkpoint to the bit, and decays what it should."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from laws import tokens_of
from torch.optim.lr_scheduler import LambdaLR

from textlora import checkpoint, optim
from textlora import model as models
from textlora.config import CHOICES
from textlora.prepare import plan_for
from textlora.tokens import Collator

NAMES = CHOICES["optim"]
RATES = {"loraplus": 1e-3, "sgd": 0.05}  # of a tiny base; 5e-3 for the rest
LABELS = ("a", "b")


def network(config):
    return models.build(config, plan_for(config, len(LABELS)), LABELS, torch.float32)[0]


def settings(tiny_config, name: str, **changes):
    return tiny_config("bert", optim=name, learning_rate=RATES.get(name, 5e-3), weight_decay=0.01, **changes)


def task() -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Sixteen texts of random tokens and their random labels, to be learnt by heart."""
    tokens = tokens_of(np.random.default_rng(0), [12] * 16)
    return Collator(0).pad([tokens[i] for i in range(16)]), torch.arange(16) % 2


def steps(model, optimizer, count: int, scheduler: LambdaLR | None = None) -> list[float]:
    batch, labels = task()
    losses = []
    for _ in range(count):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(**batch).logits, labels)
        loss.backward()
        optimizer.step()
        if scheduler:
            scheduler.step()
        losses.append(loss.item())
    return losses


def trained(model) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}


def rates(model, optimizer) -> dict[str, tuple[float, float]]:
    """Parameter name -> (rate, decay)."""
    names = {id(p): n for n, p in model.named_parameters()}
    return {names[id(p)]: (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}


# --------------------------------------------------------------------------------------------------------------- laws


@pytest.mark.parametrize("name", NAMES)
def test_each_learns_a_tiny_task_and_moves_every_trained_parameter(name, tiny_config):
    config = settings(tiny_config, name, use_dora=True, bias="lora_only")
    model = network(config)
    before = trained(model)
    losses = steps(model, optim.build(name, model, config), 40)
    assert losses[-1] < 0.3 * losses[0], losses
    after = trained(model)
    still = [n for n in before if torch.equal(before[n], after[n])]
    assert [n for n in still if not n.endswith("key.base_layer.bias")] == []  # a key's bias can have no effect


@pytest.mark.parametrize("name", NAMES)
def test_each_goes_on_from_a_checkpoint_to_the_bit(name, tiny_config, tmp_path):
    """Through the files of a checkpoint and into fresh objects, the schedule's rates too."""
    config = settings(tiny_config, name, use_dora=True)

    def parts():
        model = network(config)
        optimizer = optim.build(name, model, config)
        return model, optimizer, LambdaLR(optimizer, lambda step: 1 / (step + 1))

    model, optimizer, scheduler = parts()
    steps(model, optimizer, 3, scheduler)
    checkpoint.write_state(tmp_path, "optimizer", {"o": optimizer.state_dict(), "s": scheduler.state_dict()})
    weights = trained(model)
    expected = steps(model, optimizer, 4, scheduler)

    other, its_optimizer, its_scheduler = parts()
    back = checkpoint.read_state(tmp_path, "optimizer")
    with torch.no_grad():
        for key, parameter in other.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(weights[key])
    its_optimizer.load_state_dict(back["o"])
    its_scheduler.load_state_dict(back["s"])
    assert steps(other, its_optimizer, 4, its_scheduler) == expected
    for key, tensor in trained(model).items():
        assert torch.equal(tensor, trained(other)[key]), key


@pytest.mark.parametrize("name", NAMES)
def test_decay_falls_on_matrices_alone_and_every_trained_parameter_has_one_place(name, tiny_config):
    config = settings(tiny_config, name, bias="all", use_dora=True)
    model = network(config)
    placed = rates(model, optim.build(name, model, config))
    assert placed.keys() == trained(model).keys()
    shapes = {n: p.ndim for n, p in model.named_parameters()}
    assert {n for n, (_, decay) in placed.items() if decay} == {n for n in placed if shapes[n] == 2}
    assert {"bias", "weight"} == {n.rpartition(".")[2] for n in placed if shapes[n] == 1}  # biases; magnitudes


@pytest.mark.parametrize("name", NAMES)
def test_the_first_groups_rate_is_the_runs_own(name, tiny_config):
    config = settings(tiny_config, name)
    optimizer = optim.build(name, network(config), config)
    assert optimizer.param_groups[0]["lr"] == config.learning_rate  # the one that the Trainer logs


# --------------------------------------------------------------------------------------------------------- references


def test_adamw_is_grouped_as_the_trainer_groups_it(tiny_config):
    from transformers import Trainer

    config = settings(tiny_config, "adamw_torch", bias="all")
    model = network(config)
    decaying = set(Trainer.get_decay_parameter_names(None, model))  # type: ignore[arg-type]
    ours = {n for n, (_, decay) in rates(model, optim.build("adamw_torch", model, config)).items() if decay}
    assert ours == decaying & trained(model).keys()


def test_loraplus_gives_b_the_rate_that_peft_gives_it_and_the_rest_the_base_rate(tiny_config):
    from peft.optimizers import create_loraplus_optimizer

    config = settings(tiny_config, "loraplus", loraplus_lr_ratio=4.0)
    model = network(config)
    ours = rates(model, optim.build("loraplus", model, config))
    pefts = rates(
        model, create_loraplus_optimizer(model, torch.optim.AdamW, lr=config.learning_rate, loraplus_lr_ratio=4.0)
    )
    matrices = {n for n, p in model.named_parameters() if p.requires_grad and p.ndim == 2}
    assert {n: ours[n][0] for n in matrices} == {n: pefts[n][0] for n in matrices}
    assert {n for n, (rate, _) in ours.items() if rate > config.learning_rate} == {n for n in ours if "lora_B" in n}


def test_muon_is_torchs_muon_on_the_adapters_and_adamw_on_the_rest(tiny_config):
    config = settings(tiny_config, "muon", use_dora=True)
    one, other = network(config), network(config)
    ours = optim.build("muon", one, config)
    theirs = [(n, p) for n, p in other.named_parameters() if p.requires_grad]
    decay = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    muon = torch.optim.Muon(
        [p for n, p in theirs if "lora_A" in n or "lora_B" in n], **decay, adjust_lr_fn="match_rms_adamw"
    )
    rest = [(n, p) for n, p in theirs if "lora_A" not in n and "lora_B" not in n]
    adamw = torch.optim.AdamW([p for _, p in rest if p.ndim == 2], **decay)
    plain = torch.optim.AdamW([p for _, p in rest if p.ndim < 2], lr=config.learning_rate, weight_decay=0.0)
    steps(one, ours, 3)
    batch, labels = task()
    for _ in range(3):
        other.zero_grad()
        torch.nn.functional.cross_entropy(other(**batch).logits, labels).backward()
        for optimizer in (muon, adamw, plain):
            optimizer.step()
    for key, tensor in trained(one).items():
        assert torch.equal(tensor, trained(other)[key]), key


def test_the_config_names_the_optimizers_that_there_are():
    assert tuple(optim.BUILDERS) == NAMES
