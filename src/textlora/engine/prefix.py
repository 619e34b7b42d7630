"""The blocks below the lowest adapted one: run alone, or left out where what they would make is known.

Nothing is trained in them or in the embeddings, so what they make of a text is the same in every pass. Adapters, head
and way back don't notice: the lowest adapted block is given the hidden states that it would have been given.

B texts, S width, D hidden.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from textlora import device

Known = Callable[[Tensor, Tensor], Tensor | None]  # token ids and mask (B, S) -> hidden states (B, S, D), if known
PLAIN = {"input_ids", "attention_mask", "labels", "return_dict"}  # what else a forward is asked for may need all blocks


class _Now(threading.local):
    """Of the forward that runs in this thread."""

    hidden: Tensor | None = None  # what the blocks left out would have made
    found: Tensor | None = None  # what the prefix made, when it ran alone


class Prefix:
    """Embeddings and the lowest `depth` blocks of a model that runs on the engine."""

    def __init__(
        self, network: nn.Module, embeddings: list[nn.Module], blocks: list[nn.Module], depth: int, tuples: bool
    ) -> None:
        self.network, self.embeddings, self.blocks, self.depth = network, embeddings, blocks, depth
        self._tuples = tuples  # whether a block returns (hidden states,)
        self._now = _Now()

    def run(self, batch: dict[str, Tensor]) -> Tensor:
        """What the prefix makes of a padded batch, (B, S, D); all other blocks are passed through."""
        rest = dict.fromkeys(self.blocks[self.depth :], self._passes_on)
        with _in_place(rest), torch.inference_mode(), device.autocast(self.network):
            self.network(**batch)
        found, self._now.found = self._now.found, None
        assert found is not None  # there is always a block above the prefix
        return found

    @contextmanager
    def left_out(self, known: Known) -> Iterator[None]:
        """Within, a batch that is `known` begins at the lowest adapted block; any other runs whole."""
        whole = self.network.forward

        def forward(*inputs: Any, **others: Any) -> Any:
            self._now.hidden = None if inputs else self._ask(known, others)
            try:
                return whole(*inputs, **others)
            finally:
                self._now.hidden = None

        skipped = {m: self._skipping(m, False) for m in self.embeddings}
        skipped |= {m: self._skipping(m, self._tuples) for m in self.blocks[: self.depth]}
        with _in_place(skipped | {self.network: forward}):
            yield

    def _ask(self, known: Known, asked: dict[str, Any]) -> Tensor | None:
        others = {name for name, value in asked.items() if value is not None and value is not False} - PLAIN
        config: Any = self.network.config
        if others or asked.get("attention_mask") is None or config.output_hidden_states:
            return None
        return known(asked["input_ids"], asked["attention_mask"])

    def _skipping(self, module: nn.Module, tuples: bool) -> Callable[..., Any]:
        whole = module.forward

        def forward(*inputs: Any, **others: Any) -> Any:
            hidden_BSD = self._now.hidden
            if hidden_BSD is None:
                return whole(*inputs, **others)
            return (hidden_BSD,) if tuples else hidden_BSD

        return forward

    def _passes_on(self, hidden_states: Tensor, *_: Any, **__: Any) -> Any:
        self._now.found = hidden_states
        return (hidden_states,) if self._tuples else hidden_states


@contextmanager
def _in_place(forwards: dict[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Give modules another forward, and take it back."""
    before = {module: module.__dict__.get("forward") for module in forwards}
    for module, forward in forwards.items():
        module.forward = forward
    try:
        yield
    finally:
        for module, forward in before.items():
            if forward is None:
                del module.forward
            else:
                module.forward = forward


def is_fixed(modules: Iterable[nn.Module]) -> bool:
    """Whether what these modules make of an input never changes: nothing trained, nothing dropped."""
    return not any(
        any(p.requires_grad for p in module.parameters())
        or any(isinstance(m, nn.Dropout) and m.p for m in module.modules())
        for module in modules
    )
