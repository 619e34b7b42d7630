"""The heads of form `textlora`, each described once as a row of layers: counted, built and printed from that alone.

`linear` is D -> C. `low-rank` is a product of two thin matrices in the place of one: for more labels than its rank k,
of the linear head's (D -> k -> C); for fewer, of the square matrix in RoBERTa's head (D -> k -> D, tanh, D -> C), which
alone is 590,592 numbers at D = 768. The first of the two has no bias: the second's does all that it could do.

D hidden, C labels, k the head's rank. `full`, the base's own head, isn't described here: transformers builds it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Linear:
    """A matrix [outputs, inputs] and its bias."""

    inputs: int
    outputs: int
    bias: bool = True

    @property
    def parameters(self) -> int:
        """Numbers in matrix and bias."""
        return (self.inputs + self.bias) * self.outputs

    @property
    def source(self) -> str:
        """As torch spells it."""
        return f"torch.nn.Linear({self.inputs}, {self.outputs}{'' if self.bias else ', bias=False'})"


@dataclass(frozen=True)
class Tanh:
    """The bend between RoBERTa's dense matrix and its last; nothing to train."""

    parameters: int = 0
    source: str = "torch.nn.Tanh()"


Layer = Linear | Tanh


def layers(head: str, hidden: int, labels: int, rank: int) -> tuple[Layer, ...]:
    """The layers of `head` (linear, low-rank) from D = `hidden` to C = `labels` numbers."""
    if head == "linear":
        return (Linear(hidden, labels),)
    if labels > rank:
        return (Linear(hidden, rank, bias=False), Linear(rank, labels))
    return (Linear(hidden, rank, bias=False), Linear(rank, hidden), Tanh(), Linear(hidden, labels))


def parameters(head: str, hidden: int, labels: int, rank: int) -> int:
    """Trained numbers of `head`."""
    return sum(layer.parameters for layer in layers(head, hidden, labels, rank))


def source(row: tuple[Layer, ...]) -> str:
    """A Python expression that builds these layers in plain torch."""
    spelt = [layer.source for layer in row]
    return spelt[0] if len(spelt) == 1 else f"torch.nn.Sequential({', '.join(spelt)})"


def second_factors(row: tuple[Layer, ...]) -> list[int]:
    """Where in `row` a matrix follows another with no bend between them: the second factor of a product."""
    return [
        i for i, (one, other) in enumerate(pairwise(row), 1) if isinstance(one, Linear) and isinstance(other, Linear)
    ]
