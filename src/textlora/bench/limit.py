"""The limit: a step's products with frozen weights that ours may not skip, and nothing else.

Forward, and gradients of activations. Left out is what LoRA on query or value doesn't need: gradients below the lowest
block's adapters, and in the last block, where the head reads the first token, all other rows of what follows its keys
and values. True shapes of ours' batches, in the order of the layers, so that weights are as cold as in a step. Each
product is done the faster way of F.linear and mm. Adapters and attention are listed, not counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import linear

from textlora import bases, device
from textlora.bench.pace import Ask, Pace, probe
from textlora.bench.task import Task
from textlora.config import Config
from textlora.tokens import TokenBatches, widths

WARM_UP = 3
TRIALS = 5
EVERY_ROW_SECONDS = 3.0


@dataclass(frozen=True)
class Batch:
    """How large one of ours is: texts, tokens with padding, real tokens."""

    texts: int
    padded: int
    tokens: int


@dataclass(frozen=True)
class Product:
    """x (rows, `inputs`) times a frozen matrix: (rows, `outputs`)."""

    name: str
    inputs: int
    outputs: int
    backward: bool = False
    first_tokens: bool = False  # one row a text, else one a token

    def rows(self, texts: int, tokens: int) -> int:
        return texts if self.first_tokens else tokens

    @property
    def flops(self) -> int:
        """Of one row."""
        return 2 * self.inputs * self.outputs


def products(D: int, F: int, layers: int, every_row: bool = False) -> list[Product]:
    """A step's products in their order, for adapters on query and value of every block and a head on the first token.

    `every_row`: the last block whole, as a head on the mean of the tokens needs it.
    """
    forward: list[Product] = []
    for i in range(layers):
        forward += _block(D, F, i == layers - 1 and not every_row)
    back = [Product(f"{p.name}, back", p.outputs, p.inputs, True, p.first_tokens) for p in reversed(forward)]
    lowest = 2 if layers == 1 and not every_row else 1  # its query, key and value: nothing below needs a gradient
    return forward + back[:-lowest]


def _block(D: int, F: int, first_tokens: bool) -> list[Product]:
    rest = [("out", D, D), ("up", D, F), ("down", F, D)]
    after = [Product(name, k, n, first_tokens=first_tokens) for name, k, n in rest]
    if first_tokens:
        return [Product("key, value", D, 2 * D), Product("query", D, D, first_tokens=True), *after]
    return [Product("query, key, value", D, 3 * D), *after]


Way = Callable[[Tensor, Tensor, Tensor], object]  # x, weight as (in, out), where the result goes


def _linear(x: Tensor, weight: Tensor, out: Tensor) -> object:
    return linear(x, weight)


def _mm(x: Tensor, weight: Tensor, out: Tensor) -> object:
    return torch.mm(x, weight, out=out)


WAYS: dict[str, tuple[Way, bool]] = {  # name -> the call, and whether the weight lies as (out, in)
    "F.linear": (_linear, True),
    "mm": (_mm, False),
}


class Step:
    """All products of a step on weights of their own, each the fastest way."""

    def __init__(self, of: list[Product], batches: list[Batch], dtype: torch.dtype) -> None:
        self.of, self.dtype = of, dtype
        most = max(b.padded for b in batches)
        sizes = {size for p in of for size in (p.inputs, p.outputs)}
        self.held, self.results = ({size: torch.zeros(most, size, dtype=dtype) for size in sizes} for _ in range(2))
        typical = sorted(batches, key=lambda b: b.padded)[len(batches) // 2]
        self.ways = {kind: self._fastest(kind, kind.rows(typical.texts, typical.padded)) for kind in dict.fromkeys(of)}
        self.weights = [self._weight(p, self.ways[p]) for p in of]

    def _weight(self, p: Product, way: str) -> Tensor:
        """(in, out) or (out, in), in memory."""
        shape = (p.outputs, p.inputs) if WAYS[way][1] else (p.inputs, p.outputs)
        return torch.randn(shape).to(self.dtype)

    def _fastest(self, kind: Product, rows: int) -> str:
        """By the median time over as many weights as a step has of this kind, so that they are cold."""
        x, out = self.held[kind.inputs][:rows], self.results[kind.outputs][:rows]
        times = {}
        for way, (call, _) in WAYS.items():
            weights = [self._weight(kind, way) for _ in range(self.of.count(kind))]
            laps = [_seconds(lambda: [call(x, w, out) for w in weights]) for _ in range(TRIALS + 1)]  # noqa: B023 - called at once
            times[way] = float(np.median(laps[1:]))
        return min(times, key=times.__getitem__)

    def __call__(self, texts: int, tokens: int) -> None:
        for p, weight in zip(self.of, self.weights, strict=True):
            rows = p.rows(texts, tokens)
            WAYS[self.ways[p]][0](self.held[p.inputs][:rows], weight, self.results[p.outputs][:rows])


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def limit(ask: Ask, folder: str, batch_tokens: int) -> dict[str, Any]:
    """Rounds of the products of ours' batches; at the end what they are."""
    task = Task.read(folder)
    config = task.config(batch_tokens=max(batch_tokens, task.max_length))
    dtype = device.compute_dtype(config.precision)
    tokens, _ = task.rows()
    batches = _batches(tokens.lengths, config)
    D, F, layers = _sizes(task)
    with torch.inference_mode():
        step = Step(products(D, F, layers), batches, dtype)
        _run(step, batches, Pace(ask, WARM_UP))
        whole = Step(products(D, F, layers, every_row=True), batches, dtype)
        trial, found = probe(EVERY_ROW_SECONDS)
        _run(whole, batches, Pace(trial, WARM_UP))
    return {
        "precision": str(dtype).removeprefix("torch."),
        "products": _listed(step),
        "every_row_samples_per_second": round(found[0].tokens / found[0].seconds / task.tokens_per_text, 1),
        "not_counted": _not_counted(task, D, layers),
    }


def _batches(lengths: np.ndarray, config: Config) -> list[Batch]:
    """An epoch of ours."""
    found = []
    for rows in TokenBatches(lengths, config.batch_tokens, config.seed):
        width = int(widths(lengths[rows]).max())
        found.append(Batch(len(rows), len(rows) * width, int(lengths[rows].sum())))
    return found


def _run(step: Step, batches: list[Batch], pace: Pace) -> None:
    go_on, number = pace.begin(), 0
    while go_on:
        batch = batches[number % len(batches)]
        step(batch.texts, batch.padded)
        go_on, number = pace.done(batch.texts, batch.tokens), number + 1


def _sizes(task: Task) -> tuple[int, int, int]:
    """D, F and the number of blocks."""
    shapes = bases.shapes(bases.find(task.base), task.base_folder)
    return shapes.hidden_size, shapes.intermediate_size, shapes.num_hidden_layers


def _listed(step: Step) -> list[dict[str, Any]]:
    return [
        {
            "name": p.name,
            "inputs": p.inputs,
            "outputs": p.outputs,
            "rows": "first tokens" if p.first_tokens else "tokens",
            "times": step.of.count(p),
            "way": way,
        }
        for p, way in step.ways.items()
    ]


def _not_counted(task: Task, D: int, layers: int) -> list[dict[str, Any]]:
    """Arithmetic of a text of mean length that the limit leaves out, forward and back."""
    T = task.tokens_per_text
    adapted = sum(m.parameters for m in task.plan(task.config()).modules)
    adapters = 3 * 2 * adapted * T  # A and B forward, their gradients, the input's
    attention = layers * 3 * 2 * 2 * T * T * D  # scores and mixing: one product forward, two back, each
    return [
        {"name": "adapters", "flops_per_text": round(adapters)},
        {"name": "attention", "flops_per_text": round(attention)},
    ]
