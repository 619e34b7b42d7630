"""Attention between a block's products: softmax(q k^T / sqrt(K) + position + mask) v, and its gradient.

Two ways to the same numbers: `InTiles`, one pass on AMX units (csrc/attention.cpp), and `ByProducts`, batched products
with softmax between them, on any CPU. Torch's fused attention takes 10 times as long on its way back at these lengths.

B texts, S width, H heads, K features of a head, T = B x S tokens, Q queries wanted of each text, R = B x Q, D = H x K.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from textlora.engine.buffers import Buffers
from textlora.engine.product import Kernels


class Sizes(NamedTuple):
    """The shape of an attention. Q: of how many queries, the first of each text, outputs are wanted."""

    B: int
    H: int
    S: int
    K: int
    Q: int

    @property
    def scale(self) -> float:
        return self.K**-0.5


class Where(NamedTuple):
    """What is added to the scores, in fp32: `mask_BS` to a key's, `position_HSS` to those of a query and a key."""

    mask_BS: Tensor
    position_HSS: Tensor | None


class InTiles:
    """For bf16 and heads of a multiple of 32 features; no scores are kept, the way back makes them again."""

    def __init__(self, kernels: Kernels) -> None:
        self.kernels: Any = kernels

    def forward(
        self, out_RD: Tensor, qkv_T3D: Tensor, bias_3D: Tensor, where: Where, sizes: Sizes, keep: Buffers, _: Buffers
    ) -> tuple[Tensor | None, ...]:
        of_queries = sizes.B, sizes.H, sizes.Q
        tops, bys = (keep.take(name, of_queries, torch.float32) for name in ("tops", "bys"))
        position = None if where.position_HSS is None else where.position_HSS.transpose(1, 2).contiguous()
        added = bias_3D, where.mask_BS, position
        self.kernels.attention_forward(out_RD, tops, bys, qkv_T3D, *added, sizes.scale, *sizes)
        return (tops, bys, qkv_T3D, *added)

    def backward(self, dqkv_T3D: Tensor, dout_RD: Tensor, kept: tuple[Any, ...], sizes: Sizes, _: Buffers) -> None:
        self.kernels.attention_backward(dqkv_T3D, dout_RD, *kept, sizes.scale, *sizes)


class ByProducts:
    """For any type and size; keeps queries, keys, values and shares, of all queries."""

    def __init__(self, kernels: Kernels) -> None:
        self.kernels = kernels

    def forward(
        self,
        out_RD: Tensor,
        qkv_T3D: Tensor,
        bias_3D: Tensor,
        where: Where,
        sizes: Sizes,
        keep: Buffers,
        scratch: Buffers,
    ) -> tuple[Tensor | None, ...]:
        (B, H, S, K, Q), dtype, k = sizes, out_RD.dtype, self.kernels
        heads = keep.take("heads", (3, B, H, S, K), dtype)
        k.split_heads(heads, qkv_T3D, bias_3D)
        q_NSK, k_NSK, v_NSK = heads.view(3, B * H, S, K)
        p = keep.take("p", (B, H, S, S), dtype)
        torch.bmm(q_NSK, k_NSK.transpose(1, 2), out=p.view(B * H, S, S))
        k.softmax_forward(p, where.mask_BS, where.position_HSS, sizes.scale)
        o = scratch.take("o_heads", (1, B, H, S, K), dtype)
        torch.bmm(p.view(B * H, S, S), v_NSK, out=o.view(B * H, S, K))
        out_TD = out_RD if Q == S else scratch.take("o_all", (B * S, H * K), dtype)
        k.join_heads(out_TD, o)
        if Q < S:
            out_RD.view(B, Q, -1).copy_(out_TD.view(B, S, -1)[:, :Q])
        return heads, p

    def backward(
        self, dqkv_T3D: Tensor, dout_RD: Tensor, kept: tuple[Any, ...], sizes: Sizes, scratch: Buffers
    ) -> None:
        (B, H, S, K, Q), dtype, k = sizes, dout_RD.dtype, self.kernels
        dout_TD = dout_RD
        if Q < S:
            dout_TD = scratch.take("do_all", (B * S, H * K), dtype).zero_()
            dout_TD.view(B, S, -1)[:, :Q] = dout_RD.view(B, Q, -1)
        heads, p = kept
        q_NSK, k_NSK, v_NSK = heads.view(3, B * H, S, K)
        p_NSS = p.view(B * H, S, S)
        do = scratch.take("o_heads", (1, B, H, S, K), dtype)
        k.split_heads(do, dout_TD, None)
        do_NSK = do.view(B * H, S, K)
        dheads, dp = scratch.take("dheads", heads.shape, dtype), scratch.take("dp", p.shape, dtype)
        dq_NSK, dk_NSK, dv_NSK = dheads.view(3, B * H, S, K)
        torch.bmm(p_NSS.transpose(1, 2), do_NSK, out=dv_NSK)
        torch.bmm(do_NSK, v_NSK.transpose(1, 2), out=dp.view(B * H, S, S))
        k.softmax_backward(dp, p, sizes.scale)
        torch.bmm(dp.view(B * H, S, S), k_NSK, out=dq_NSK)
        torch.bmm(dp.view(B * H, S, S).transpose(1, 2), q_NSK, out=dk_NSK)
        k.join_heads(dqkv_T3D, dheads)


def pick(kernels: Kernels, dtype: torch.dtype, head_features: int) -> InTiles | ByProducts:
    """The faster of the two that these sizes allow."""
    tiled = kernels.tiles and dtype == torch.bfloat16 and head_features % 32 == 0
    return InTiles(kernels) if tiled else ByProducts(kernels)
