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
        self._views: dict[tuple[str, torch.dtype, tuple[int, ...], int], Tensor] = {}
        self.handed_on = 0  # address of a block's output that has the next block's room beside it

    def take(self, name: str, shape: tuple[int, ...], dtype: torch.dtype, columns: int = 0) -> Tensor:
        """Any finite numbers, good until the name is asked for again; of a matrix the first `columns`, if given.

        Never a NaN: oneDNN's bf16 products read past an odd number of columns, into a row's rest, and multiply by 0.
        """
        view = self._views.get((name, dtype, shape, columns))
        return self._make(name, shape, dtype, columns) if view is None else view

    def _make(self, name: str, shape: tuple[int, ...], dtype: torch.dtype, columns: int) -> Tensor:
        size, key = prod(shape), (name, dtype)
        with torch.inference_mode(False):  # predictions made first must not hand training a tensor it can't use
            if key not in self._held or self._held[key].numel() < size:
                self._held[key] = torch.zeros(size, dtype=dtype)
                self._views = {found: view for found, view in self._views.items() if found[:2] != key}
            whole = self._held[key][:size].view(shape)
            view = self._views[name, dtype, shape, columns] = whole[:, :columns] if columns else whole
        return view
