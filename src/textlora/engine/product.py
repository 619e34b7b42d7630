"""A frozen matrix with the adapters on it: one product for linears that share their input, and its way back.

y = x W^T + scaling (dropout(x) A^T) B^T (LoRA, arXiv 2106.09685, equation 3). W gets no gradient, so of the input only
x A^T must be kept for B's; A's needs x itself, which the block keeps anyway.

T tokens, K inputs, N outputs, R ranks of all adapters together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from textlora.engine.kernels import Native
from textlora.engine.reference import Reference

Kernels = Native | Reference


@dataclass(frozen=True)
class Adapter:
    """One linear's LoRA pair: A (r, K), B (its outputs, r), and which of the product's outputs are its linear's."""

    a: nn.Parameter
    b: nn.Parameter
    scaling: float
    dropout: nn.Module  # nn.Dropout, whose p a schedule may change, or nn.Identity
    outputs: slice

    @property
    def p(self) -> float:
        """How often an input is dropped now."""
        return self.dropout.p if self.dropout.training and isinstance(self.dropout, nn.Dropout) else 0.0


@dataclass
class Low:
    """What a product's way back needs: x A^T, the adapters as they were in the forward, and how inputs were dropped."""

    x_TR: Tensor
    a_RK: Tensor  # all A, one below the other, in the frozen weights' type
    b_Nr: list[Tensor]  # each B times its scaling
    ps: list[float]
    seeds: list[int]


class Product:
    """Linears that share their input (query, key and value), or a single one, as one matrix.

    The linears' own weights become views of it: nothing is held twice.
    """

    def __init__(self, linears: Sequence[nn.Linear], adapters: Sequence[Adapter], kernels: Kernels) -> None:
        weight_NK = torch.cat([linear.weight.data for linear in linears])
        N, K = weight_NK.shape
        # Products are fastest with the longer side lying contiguously in memory (docs/log.md, 2026-11-22).
        self.weight_NK = weight_NK.t().contiguous().t() if N > K else weight_NK
        self.bias_N = torch.cat([linear.bias.data for linear in linears]).float()
        start = 0
        for linear in linears:
            linear.weight.data = self.weight_NK[start : start + linear.out_features]
            start += linear.out_features
        self.adapters, self.kernels = adapters, kernels
        ends = [0]
        for adapter in adapters:
            ends.append(ends[-1] + adapter.a.shape[0])
        self.ranks = [slice(start, end) for start, end in pairwise(ends)]

    @property
    def trained(self) -> list[nn.Parameter]:
        return [parameter for adapter in self.adapters for parameter in (adapter.a, adapter.b)]

    def forward(self, x_TK: Tensor, out_TN: Tensor) -> Low | None:
        """out = x W^T + the adapters' part; the next kernel adds the bias. None: there are no adapters."""
        torch.mm(x_TK, self.weight_NK.t(), out=out_TN)
        if not self.adapters:
            return None
        low = self._low(x_TK)
        if any(low.ps):
            for i, ranks in enumerate(self.ranks):
                torch.mm(self._dropped(x_TK, low, i), low.a_RK[ranks].t(), out=low.x_TR[:, ranks])
        else:
            torch.mm(x_TK, low.a_RK.t(), out=low.x_TR)
        for adapter, ranks, b_Nr in zip(self.adapters, self.ranks, low.b_Nr, strict=True):
            out_TN[:, adapter.outputs].addmm_(low.x_TR[:, ranks], b_Nr.t())
        return low

    def backward(
        self, dy_TN: Tensor, x_TK: Tensor, low: Low | None, dx_TK: Tensor | None, add: bool = False
    ) -> list[Tensor]:
        """dx = the gradient at x (added to what is there if `add`); returns those of each adapter's A and B."""
        if dx_TK is not None:
            if add:
                dx_TK.addmm_(dy_TN, self.weight_NK)
            else:
                torch.mm(dy_TN, self.weight_NK, out=dx_TK)
        if low is None:
            return []
        dlow_TR, da_RK = torch.empty_like(low.x_TR), torch.empty_like(low.a_RK)
        for adapter, ranks, b_Nr in zip(self.adapters, self.ranks, low.b_Nr, strict=True):
            torch.mm(dy_TN[:, adapter.outputs], b_Nr, out=dlow_TR[:, ranks])
        if any(low.ps):
            for i in range(len(self.adapters)):
                self._back_through_dropout(x_TK, low, dlow_TR, da_RK, dx_TK, i)
        else:
            torch.mm(dlow_TR.t(), x_TK, out=da_RK)
            if dx_TK is not None:
                dx_TK.addmm_(dlow_TR, low.a_RK)
        da_RK, found = da_RK.float(), []
        for adapter, ranks in zip(self.adapters, self.ranks, strict=True):
            db_rN = torch.mm(low.x_TR[:, ranks].t(), dy_TN[:, adapter.outputs])
            found += [da_RK[ranks], db_rN.t().float().mul_(adapter.scaling)]
        return found

    def _low(self, x_TK: Tensor) -> Low:
        """The adapters as they are now; x A^T is to be filled in."""
        dtype = self.weight_NK.dtype
        ps = [adapter.p for adapter in self.adapters]
        return Low(
            x_TR=x_TK.new_empty(x_TK.shape[0], self.ranks[-1].stop),
            a_RK=torch.cat([adapter.a.detach() for adapter in self.adapters]).to(dtype),
            b_Nr=[(adapter.b.detach() * adapter.scaling).to(dtype) for adapter in self.adapters],
            ps=ps,
            seeds=torch.randint(2**32, (len(ps),)).tolist() if any(ps) else [],
        )

    def _dropped(self, x_TK: Tensor, low: Low, i: int) -> Tensor:
        """The input as adapter i sees it."""
        if not low.ps[i]:
            return x_TK
        kept_TK = torch.empty_like(x_TK)
        self.kernels.dropout(kept_TK, x_TK, low.seeds[i], low.ps[i], False)
        return kept_TK

    def _back_through_dropout(
        self, x_TK: Tensor, low: Low, dlow_TR: Tensor, da_RK: Tensor, dx_TK: Tensor | None, i: int
    ) -> None:
        ranks = self.ranks[i]
        torch.mm(dlow_TR[:, ranks].t(), self._dropped(x_TK, low, i), out=da_RK[ranks])
        if dx_TK is None:
            return
        part_TK = torch.mm(dlow_TR[:, ranks], low.a_RK[ranks])
        if low.ps[i]:
            self.kernels.dropout(dx_TK, part_TK, low.seeds[i], low.ps[i], True)
        else:
            dx_TK.add_(part_TK)
