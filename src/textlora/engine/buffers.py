"""Memory that a step writes into and the next step uses again: fresh pages would cost 15 to 30 % of its time."""

from __future__ import annotations

import threading
from math import prod

import torch
from torch import Tensor


class Buffers(threading.local):
    """Named tensors, each as large as it was ever asked for. Every thread has its own: several may predict at once."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, torch.dtype], Tensor] = {}

    def take(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A contiguous tensor with any finite numbers in it, good until its name is asked for again.

        Never a NaN: oneDNN's bf16 products read past an odd number of columns, into a row's rest, and multiply by 0.
        """
        size, key = prod(shape), (name, dtype)
        if key not in self._held or self._held[key].numel() < size:
            with torch.inference_mode(False):  # predictions made first must not hand training a tensor it can't use
                self._held[key] = torch.zeros(size, dtype=dtype)
        return self._held[key][:size].view(shape)
