"""Sharpness-aware minimization (Foret et al. 2021, arXiv 2010.01412): steps towards weights with low loss around them.

A batch's gradient is taken not at the weights but `rho` away from them, in the direction in which the batch's loss
rises fastest: the worst point of a ball around them, to first order (the paper's equation 2, p = 2). It costs a second
forward and way back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

SMALLEST = 1e-12  # norm of a gradient that is divided by

Gradients = list[Tensor | None]


def add_gradient(backward: Callable[[], Tensor], parameters: Sequence[nn.Parameter], rho: float) -> Tensor:
    """Adds the gradient at the moved weights to what `parameters` hold; returns the loss at the weights themselves.

    `backward` adds one batch's gradient and returns its loss; it is called twice. Of batches that are accumulated each
    is moved for by itself (the paper's m-sharpness). A gradient scaled for fp16 may come: its direction is the same,
    and one that overflowed leaves one that isn't finite, for which the scaler skips the step.
    """
    before = _taken(parameters)
    loss = backward()
    with _moved(parameters, _taken(parameters), rho):
        backward()
    for parameter, gradient in zip(parameters, before, strict=True):
        if gradient is not None:
            parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
    return loss


def _taken(parameters: Sequence[nn.Parameter]) -> Gradients:
    """What they hold; they hold nothing after."""
    found: Gradients = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    return found


@contextmanager
def _moved(parameters: Sequence[nn.Parameter], gradients: Gradients, rho: float) -> Iterator[None]:
    """All together `rho` further along their gradients; then, to the bit, where they were."""
    pairs = [(p, g) for p, g in zip(parameters, gradients, strict=True) if g is not None]
    kept = [p.detach().clone() for p, _ in pairs]
    share = rho / nn.utils.get_total_norm([g for _, g in pairs]).clamp_min(SMALLEST)
    with torch.no_grad():
        for p, g in pairs:
            p.add_(g * share)
    try:
        yield
    finally:
        with torch.no_grad():
            for (p, _), was in zip(pairs, kept, strict=True):
                p.copy_(was)
