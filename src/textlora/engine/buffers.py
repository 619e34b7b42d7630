"""Memory that a step writes into and the next step uses again: fresh pages would cost 15 to 30 % of its time."""

from __future__ import annotations

import mmap
import threading
from math import prod

import torch
from torch import Tensor

HUGE = 2 << 20  # bytes of a large page
VIEWS = 1000  # of a Buffers, held at most: about 1 KB each


def zeros(size: int, dtype: torch.dtype) -> Tensor:
    """`size` zeros, in large pages where the system lends them: products over small ones wait for their addresses."""
    n_bytes = size * dtype.itemsize
    if n_bytes < HUGE // 2 or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.zeros(size, dtype=dtype)
    memory = mmap.mmap(-1, -(-n_bytes // HUGE) * HUGE + HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    whole = torch.frombuffer(memory, dtype=torch.uint8)
    start = -whole.data_ptr() % HUGE
    return whole[start : start + n_bytes].view(dtype)


class Buffers(threading.local):
    """Named tensors, each as large as it was ever asked for. Every thread has its own: several may predict at once."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, torch.dtype], Tensor] = {}
        self._views: dict[tuple[str, torch.dtype, tuple[int, ...], int], Tensor] = {}
        self.handed_on = 0  # address of a block's output that has the next block's room beside it
        self.first_only = False  # whether this thread's forward reads nothing but the first token of the last block

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
                self._held[key] = zeros(size, dtype)
                self._views = {found: view for found, view in self._views.items() if found[:2] != key}
            if len(self._views) >= VIEWS:  # batches come in hundreds of sizes
                self._views.clear()
            whole = self._held[key][:size].view(shape)
            view = self._views[name, dtype, shape, columns] = whole[:, :columns] if columns else whole
        return view
