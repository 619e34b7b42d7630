"""A frozen matrix and the adapters on it as one matrix: of linears that share their input, or of a single one.

y = x W^T + scaling (dropout(x) A^T) B^T (LoRA, arXiv 2106.09685, equation 3). Adapters take no products of their own
on the way: W^T is held with A^T beside it and the scaled B^T below it, inputs and gradients with room beside them, so

    y = [x, x A^T] [W^T]          dx = [dy, dy B] [W, A^T]^T
                   [B^T]

W gets no gradient. A's is (dy B)^T x and B's is dy^T (x A^T): thin products that read x and dy once (kernel `outer`).

T tokens, K inputs, N outputs, R ranks of all adapters together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn

from textlora.engine.buffers import Buffers, zeros
from textlora.engine.kernels import Native
from textlora.engine.reference import Reference

Kernels = Native | Reference
ALIGNED = 32  # numbers: rows of bf16 begin where a cache line does


@dataclass(frozen=True)
class Adapter:
    """One linear's LoRA pair, and which of the product's outputs are its linear's. Read anew in each step."""

    layer: LoraLinear
    name: str  # PEFT's
    outputs: slice

    @property
    def a(self) -> nn.Parameter:
        """(r, K)."""
        return self.layer.lora_A[self.name].weight  # type: ignore[return-value]

    @property
    def b(self) -> nn.Parameter:
        """(outputs, r)."""
        return self.layer.lora_B[self.name].weight  # type: ignore[return-value]

    @property
    def scaling(self) -> float:
        return self.layer.scaling[self.name]

    @property
    def p(self) -> float:
        """How often an input is dropped now: a schedule may change it."""
        dropout = self.layer.lora_dropout[self.name]
        return dropout.p if dropout.training and isinstance(dropout, nn.Dropout) else 0.0


@dataclass(frozen=True)
class Dropped:
    """How the inputs of each adapter were dropped in a forward."""

    ps: list[float]
    seeds: list[int]


class Product:
    """Linears that share their input (query, key and value), or a single one, with their adapters.

    The linears' own weights become views of the one matrix: nothing is held twice.
    """

    def __init__(self, linears: Sequence[nn.Linear], adapters: Sequence[Adapter], kernels: Kernels) -> None:
        self.adapters, self.kernels = adapters, kernels
        ends = [0]
        for adapter in adapters:
            ends.append(ends[-1] + adapter.a.shape[0])
        self.ranks, self.R = [slice(start, end) for start, end in pairwise(ends)], ends[-1]
        self.room = -(-self.R // ALIGNED) * ALIGNED
        weight_NK = torch.cat([linear.weight.data for linear in linears])
        self.N, self.K = weight_NK.shape
        self.all = self._joined(weight_NK)
        self.bias_N = torch.cat([linear.bias.data for linear in linears]).float()
        start = 0
        for linear in linears:
            linear.weight.data = self.all[: self.K, start : start + linear.out_features].t()
            start += linear.out_features

    def _joined(self, weight_NK: Tensor) -> Tensor:
        """(K + room, N + room): W^T with place for A^T beside it and B^T below it.

        Products are fastest with the longer side lying contiguously in memory (docs/log.md, 2026-11-22).
        """
        shape = (self.K + self.room, self.N + self.room)
        whole = zeros(prod(shape), weight_NK.dtype)
        joined = whole.view(shape) if self.N > self.K else whole.view(shape[::-1]).t()
        joined[: self.K, : self.N] = weight_NK.t()
        return joined

    @property
    def dtype(self) -> torch.dtype:
        return self.all.dtype

    @property
    def trained(self) -> list[nn.Parameter]:
        return [parameter for adapter in self.adapters for parameter in (adapter.a, adapter.b)]

    def room_for_inputs(self, buffers: Buffers, name: str, T: int) -> Tensor:
        """(T, K + R), to be filled up to column K before `forward`."""
        return buffers.take(name, (T, self.K + self.room), self.dtype, self.K + self.R)

    def room_for_gradients(self, buffers: Buffers, name: str, T: int) -> Tensor:
        """(T, N + R), to be filled up to column N before `backward`."""
        return buffers.take(name, (T, self.N + self.room), self.dtype, self.N + self.R)

    def beside(self, x_TK: Tensor, keep: Buffers, scratch: Buffers) -> Tensor:
        """x with room: itself, if it was made with it (`room_for_outputs`) or none is needed, else a copy."""
        T = len(x_TK)
        if not self.room and x_TK.is_contiguous():
            return x_TK
        if scratch.handed_on == x_TK.data_ptr() and x_TK.stride(0) == self.K + self.room:
            return x_TK.as_strided((T, self.K + self.R), x_TK.stride())
        x = self.room_for_inputs(keep, "x", T)
        x[:, : self.K] = x_TK
        return x

    def room_for_outputs(self, keep: Buffers, scratch: Buffers, T: int) -> Tensor:
        """(T, K), for the block before to write this product's inputs into."""
        out_TK = keep.take("out", (T, self.K + self.room), self.dtype, self.K)
        scratch.handed_on = out_TK.data_ptr()
        return out_TK

    def forward(self, x: Tensor, out_TN: Tensor) -> Dropped | None:
        """out = x W^T + the adapters' part; the next kernel adds the bias. x is `room_for_inputs`."""
        if not self.adapters:
            torch.mm(x, self.all, out=out_TN)
            return None
        self._put_adapters()
        x_TK, low_TR, dropped = x[:, : self.K], x[:, self.K :], self._draw()
        a_KR = self.all[: self.K, self.N : self.N + self.R]
        if any(dropped.ps):
            for i, ranks in enumerate(self.ranks):
                torch.mm(self._drop(x_TK, dropped, i), a_KR[:, ranks], out=low_TR[:, ranks])
        else:
            torch.mm(x_TK, a_KR, out=low_TR)
        torch.mm(x, self.all[: self.K + self.R, : self.N], out=out_TN)
        return dropped

    def backward(
        self, dy: Tensor, x: Tensor, dropped: Dropped | None, dx_TK: Tensor | None, add: bool = False
    ) -> list[Tensor]:
        """dx = the gradient at x (added to what is there if `add`); returns those of each adapter's A and B.

        dy is `room_for_gradients`; x is what `forward` saw.
        """
        if dropped is None:
            self._input_gradient(dy, self.N, dx_TK, add)
            return []
        dy_TN, dlow_TR, x_TK, low_TR = dy[:, : self.N], dy[:, self.N :], x[:, : self.K], x[:, self.K :]
        for adapter, ranks in zip(self.adapters, self.ranks, strict=True):
            b_Nr = self.all[self.K + ranks.start : self.K + ranks.stop, adapter.outputs].t()
            torch.mm(dy_TN[:, adapter.outputs], b_Nr, out=dlow_TR[:, ranks])
        if any(dropped.ps):
            self._input_gradient(dy, self.N, dx_TK, add)
            da_RK = torch.cat([self._back_through(x_TK, dropped, dlow_TR, dx_TK, i) for i in range(len(self.ranks))])
        else:
            self._input_gradient(dy, self.N + self.R, dx_TK, add)
            da_RK = self.kernels.outer(dlow_TR, x_TK)
        found = []
        for adapter, ranks in zip(self.adapters, self.ranks, strict=True):
            db_rN = self.kernels.outer(low_TR[:, ranks], dy_TN[:, adapter.outputs])
            found += [da_RK[ranks], db_rN.mul_(adapter.scaling).t()]
        return found

    def _put_adapters(self) -> None:
        """The adapters as they are now, in the frozen weights' type: A^T beside W^T, scaled B^T below it."""
        for adapter, ranks in zip(self.adapters, self.ranks, strict=True):
            start, stop = ranks.start, ranks.stop
            self.all[: self.K, self.N + start : self.N + stop] = adapter.a.detach().t()
            self.all[self.K + start : self.K + stop, adapter.outputs] = (adapter.b.detach() * adapter.scaling).t()

    def _input_gradient(self, dy: Tensor, columns: int, dx_TK: Tensor | None, add: bool) -> None:
        if dx_TK is None:
            return
        weight = self.all[: self.K, :columns].t()
        if add:
            dx_TK.addmm_(dy[:, :columns], weight)
        else:
            torch.mm(dy[:, :columns], weight, out=dx_TK)

    def _draw(self) -> Dropped:
        ps = [adapter.p for adapter in self.adapters]
        return Dropped(ps, torch.randint(2**32, (len(ps),)).tolist() if any(ps) else [])

    def _drop(self, x_TK: Tensor, dropped: Dropped, i: int) -> Tensor:
        """The input as adapter i sees it."""
        if not dropped.ps[i]:
            return x_TK
        kept_TK = x_TK.new_empty(x_TK.shape)
        self.kernels.dropout(kept_TK, x_TK, dropped.seeds[i], dropped.ps[i], False)
        return kept_TK

    def _back_through(self, x_TK: Tensor, dropped: Dropped, dlow_TR: Tensor, dx_TK: Tensor | None, i: int) -> Tensor:
        """The gradient of adapter i's A; its part of the input's is added to `dx`."""
        ranks = self.ranks[i]
        da_rK = self.kernels.outer(dlow_TR[:, ranks], self._drop(x_TK, dropped, i))
        if dx_TK is not None:
            a_rK = self.all[: self.K, self.N + ranks.start : self.N + ranks.stop].t()
            part_TK = torch.mm(dlow_TR[:, ranks], a_rK)
            if dropped.ps[i]:
                self.kernels.dropout(dx_TK, part_TK, dropped.seeds[i], dropped.ps[i], True)
            else:
                dx_TK.add_(part_TK)
        return da_rK
