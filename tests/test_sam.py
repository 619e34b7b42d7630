"""Sharpness-aware steps: the paper's, taken from the weights and back to them to the bit, whatever trains them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn

from textlora import engine, runs, sam
from textlora.callbacks import Meter
from textlora.prepare import Prepared, prepare
from textlora.runs import Run
from textlora.tokens import Collator, Rows
from textlora.train import fit
from textlora.trainer import batches_of, step_loss

RHO = 0.3  # large, so that what it does shows


def quiet(_: str) -> None:
    pass


def prepared_for(tiny_config: Any, **changes: Any) -> Prepared:
    defaults = {"max_steps": 3, "sam_rho": RHO, "engine": "plain", "warmup_ratio": 0.0}
    return prepare(tiny_config("bert", **defaults | changes), quiet)


def fitted(prepared: Prepared, out: Path, **more: Any) -> Run:
    run = runs.create(out)
    fit(run, prepared, more.pop("meter", Meter()), say=quiet, **more)
    return run


def trained(network: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in network.named_parameters() if p.requires_grad}


def losses(run: Run) -> list[float]:
    return [record["loss"] for record in run.metrics() if record["split"] == "train"]


# --------------------------------------------------------------------------------------------------------------- laws


class Bowl:
    """A loss of a few numbers, with its gradient by autograd."""

    def __init__(self, seed: int, size: float) -> None:
        rng = torch.Generator().manual_seed(seed)
        self.parameters = [nn.Parameter(size * torch.randn(n, generator=rng)) for n in (3, 1, 5)]
        self.unused = nn.Parameter(torch.ones(2))
        self.seen: list[list[Tensor]] = []

    def backward(self, scale: Callable[[Tensor], Tensor] = torch.clone) -> Tensor:
        self.seen.append([p.detach().clone() for p in self.parameters])
        loss = torch.stack([p.sin().square().sum() + p[0] for p in self.parameters]).sum()
        scale(loss).backward()
        return loss.detach()


@given(st.integers(0, 1000), st.sampled_from([1e-6, 1.0, 1e6]), st.sampled_from([1e-3, 0.05, 10.0]), st.booleans())
def test_weights_are_moved_by_rho_along_the_gradient_and_come_back_to_the_bit(seed, size, rho, held):
    bowl, plain = Bowl(seed, size), Bowl(seed, size)
    expected_loss = plain.backward()
    gradients = [p.grad for p in plain.parameters]
    norm = torch.cat(gradients).norm()
    if held:
        bowl.backward()
        plain.backward()  # the sum is in `.grad` now
    loss = sam.add_gradient(bowl.backward, [*bowl.parameters, bowl.unused], rho)
    *_, at, moved = bowl.seen
    assert loss == expected_loss
    assert bowl.unused.grad is None
    there = Bowl(seed, size)
    for p, was, now, mine, g in zip(bowl.parameters, at, moved, there.parameters, plain.parameters, strict=True):
        assert torch.equal(p, was)
        first = g.grad / 2 if held else g.grad
        torch.testing.assert_close(now, was + rho * first / norm, rtol=1e-6, atol=1e-7)
        mine.data = now
    there.backward()
    for p, mine, g in zip(bowl.parameters, there.parameters, plain.parameters, strict=True):
        torch.testing.assert_close(p.grad, mine.grad + (g.grad / 2 if held else 0), rtol=1e-6, atol=1e-6)


def test_weights_come_back_after_a_failure_and_after_a_gradient_that_overflowed():
    class Stop(Exception):
        pass

    bowl = Bowl(0, 1.0)

    def backward() -> Tensor:
        if len(bowl.seen) == 1:
            raise Stop
        return bowl.backward()

    with pytest.raises(Stop):
        sam.add_gradient(backward, bowl.parameters, RHO)
    assert all(torch.equal(p, was) for p, was in zip(bowl.parameters, bowl.seen[0], strict=True))

    bowl.parameters[1].register_hook(lambda gradient: gradient * float("inf"))
    sam.add_gradient(bowl.backward, bowl.parameters, RHO)
    assert all(torch.equal(p, was) for p, was in zip(bowl.parameters, bowl.seen[0], strict=True))
    assert not bowl.parameters[1].grad.isfinite().any()  # what a gradient scaler looks for


@pytest.mark.parametrize("changes", [{}, {"gradient_accumulation_steps": 2}])
def test_a_run_that_is_moved_by_nothing_is_a_run_without_to_the_bit(changes, tiny_config, tmp_path, monkeypatch):
    plain = prepared_for(tiny_config, sam_rho=0.0, **changes)
    meters, rho = (Meter(), Meter()), sam.add_gradient
    without = fitted(plain, tmp_path / "without", meter=meters[0])
    monkeypatch.setattr(sam, "add_gradient", lambda backward, trained, _: rho(backward, trained, 0.0))
    still = prepared_for(tiny_config, **changes)
    with_it = fitted(still, tmp_path / "with", meter=meters[1])
    assert losses(without) == losses(with_it)
    ours, theirs = trained(plain.network), trained(still.network)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert (meters[0].texts, meters[0].tokens) == (meters[1].texts, meters[1].tokens)


def test_a_run_without_never_comes_here(tiny_config, tmp_path, monkeypatch):
    monkeypatch.delattr(sam, "add_gradient")
    fitted(prepared_for(tiny_config, sam_rho=0.0, max_steps=1), tmp_path / "run")


@pytest.mark.parametrize("changes", [{"lora_dropout": 0.2}, {"engine": "fast", "precision": "bf16"}])
def test_a_run_goes_on_from_its_checkpoint_to_the_bit(changes, tiny_config, tmp_path):
    def prepared() -> Prepared:
        found = prepared_for(tiny_config, max_steps=4, eval_steps=2, **changes)
        engine.use(found.network, found.config.engine, quiet)
        return found

    whole = fitted(prepared(), tmp_path / "whole")
    again = fitted(prepared(), tmp_path / "again", start=whole.checkpoints / "checkpoint-2")
    for name in ("adapter_model.safetensors", "optimizer.safetensors"):
        one, other = (load_file(run.checkpoints / "checkpoint-4" / name) for run in (whole, again))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_scaled_gradient_gives_the_same_one_and_an_overflow_halves_the_scale():
    plain, scaled = Bowl(0, 1.0), Bowl(0, 1.0)
    sam.add_gradient(plain.backward, plain.parameters, RHO)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    optimizer = torch.optim.SGD(scaled.parameters, lr=0.0)
    sam.add_gradient(partial(scaled.backward, scaler.scale), scaled.parameters, RHO)
    scaler.unscale_(optimizer)
    for p, q in zip(plain.parameters, scaled.parameters, strict=True):
        torch.testing.assert_close(p.grad, q.grad)
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 2.0**16
    scaled.parameters[0].register_hook(lambda gradient: gradient * float("inf"))
    optimizer.zero_grad()
    sam.add_gradient(partial(scaled.backward, scaler.scale), scaled.parameters, RHO)
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 2.0**15


# --------------------------------------------------------------------------------------------------------- references


def by_hand(prepared: Prepared) -> tuple[list[float], dict[str, Tensor]]:
    """The run's losses and weights, in plain torch: no Trainer, none of our steps."""
    config, network = prepared.config, copy.deepcopy(prepared.network).train()
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=0.0)
    batches, texts_per_step = batches_of(config, prepared.train, 1)
    assert batches
    loss_of = step_loss(texts_per_step)
    rows, collate, order = Rows(prepared.train, prepared.data.train.labels), Collator(prepared.pad_id), iter(batches)

    def gradient(batch: dict[str, Tensor]) -> tuple[float, list[Tensor]]:
        loss = loss_of(network(**{k: v for k, v in batch.items() if k not in ("labels", "shares")}), batch["labels"])
        return loss.item(), list(torch.autograd.grad(loss, parameters))

    found = []
    for step in range(config.max_steps):
        total, sums = 0.0, [torch.zeros_like(p) for p in parameters]
        for _ in range(config.gradient_accumulation_steps):
            batch = collate([rows[int(i)] for i in next(order)])
            loss, ascent = gradient(batch)
            norm = torch.sqrt(sum((g**2).sum() for g in ascent))  # type: ignore[arg-type]
            kept = [p.detach().clone() for p in parameters]
            for p, g in zip(parameters, ascent, strict=True):
                p.data.add_(g, alpha=config.sam_rho / float(norm))
            _, there = gradient(batch)
            for p, was, s, g in zip(parameters, kept, sums, there, strict=True):
                p.data.copy_(was)
                s.add_(g)
            total += loss
        for p, s in zip(parameters, sums, strict=True):
            p.grad = s
        nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
        optimizer.param_groups[0]["lr"] = config.learning_rate * (1 - step / config.max_steps)
        optimizer.step()
        found.append(total)
    return found, trained(network)


@pytest.mark.parametrize("changes", [{}, {"gradient_accumulation_steps": 2}])
def test_steps_are_those_written_out_in_plain_torch(changes, tiny_config, tmp_path):
    prepared = prepared_for(tiny_config, **changes)
    expected_losses, expected = by_hand(prepared)
    plain = prepared_for(tiny_config, sam_rho=0.0, **changes)
    run = fitted(prepared, tmp_path / "run")
    fitted(plain, tmp_path / "plain")
    np.testing.assert_allclose(losses(run), expected_losses, rtol=0, atol=1e-5)
    ours, others = trained(prepared.network), trained(plain.network)
    for name, weights in expected.items():
        torch.testing.assert_close(ours[name], weights, rtol=0, atol=1e-6)
    assert max(float((ours[name] - others[name]).abs().max()) for name in ours) > 1e-3  # it does something


def test_the_engine_takes_the_plain_model_s_steps(tiny_config, tmp_path):
    plain, fast = (prepared_for(tiny_config, optim="sgd", learning_rate=0.05) for _ in range(2))
    start = trained(plain.network)
    assert engine.swap_in(fast.network) == ""
    fitted(plain, tmp_path / "plain")
    fitted(fast, tmp_path / "fast")
    theirs, ours = trained(plain.network), trained(fast.network)
    for name in theirs:
        moved = float((theirs[name] - start[name]).norm())
        assert float((theirs[name] - ours[name]).norm()) <= 1e-3 * moved + 1e-7
