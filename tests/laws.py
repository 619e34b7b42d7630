"""Named assertions that several tests share: what must hold for every family, head and form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from textlora import adapter, predict
from textlora import model as models
from textlora.budget import Plan
from textlora.header import read_header
from textlora.longtext import Cut
from textlora.tokens import Tokens

PAD = 0  # what most families pad with; a law that pads takes the model's own


def assert_planned_is_built(plan: Plan, network: torch.nn.Module) -> None:
    """The count made from shapes is the count of the tensors that receive gradients."""
    assert plan.trainable == models.trainable_count(network)


def assert_built_is_saved(plan: Plan, network: torch.nn.Module, folder: Path) -> None:
    """What is saved is what was trained: no tensor more, none less."""
    adapter.save_weights(network, folder)
    shapes = read_header(folder / adapter.WEIGHTS)
    assert plan.trainable == sum(int(np.prod(shape)) for shape in shapes.values())


def assert_same_logits(one: torch.nn.Module, other: torch.nn.Module, tokens: Tokens, tolerance: float = 0.0) -> None:
    """Two models agree on the same texts, bit for bit unless a tolerance is given."""
    a, b = (predict.logits(network, tokens, pad_id(network)) for network in (one, other))
    assert a.shape == b.shape
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


def pad_id(network: torch.nn.Module) -> int:
    """What the model itself takes for padding: RoBERTa's is 1."""
    return network.config.pad_token_id  # type: ignore[union-attr]


def assert_gradients_reach_exactly_the_trained(network: torch.nn.Module, batch: dict[str, torch.Tensor]) -> None:
    """After one backward pass every trained parameter has a gradient and no frozen one does."""
    network.zero_grad()
    network(**batch).logits.square().sum().backward()
    for name, parameter in network.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


def tokens_of(rng: np.random.Generator, lengths: list[int], vocab: int = 90) -> Tokens:
    """Random token ids of the given lengths; 0 is kept for padding."""
    ids = rng.integers(5, vocab, sum(lengths)).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Tokens(ids, offsets, np.arange(len(lengths)), Cut("truncate", 512, texts=len(lengths)))
