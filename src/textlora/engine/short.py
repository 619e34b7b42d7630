"""A block without adapters on a few tokens, without gradients: what one short text waits for.

There the time goes into reading weights and into calls, not into arithmetic. So the weights lie here a second time, as
oneDNN multiplies them (each product would else rearrange them first); biases, GELU and residuals are part of the
products; nothing is kept. On MiniLM and 13 tokens that takes 0.6 of block.py's time (docs/log.md, 2026-11-22).

B texts, S width, T = B x S tokens, D hidden, H heads, K features of a head.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from textlora.engine.families import Family
from textlora.engine.reference import Norm

FEW = 256  # tokens, padding included; from about 500 on block.py is as fast


@cache
def offered() -> bool:
    """Whether torch has oneDNN's products with packed weights here, in bf16. As torch.compile uses them."""
    ops = torch.ops.mkldnn
    if not (torch.backends.mkldnn.is_available() and hasattr(ops, "_linear_pointwise")):
        return False
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


class Short:
    """A frozen bf16 block's own copy of its weights, packed on first use, and its forward."""

    def __init__(self, block: nn.Module, family: Family, heads: int, norms: tuple[Norm, Norm]) -> None:
        self.block, self.family, self.heads = block, family, heads
        self.norm_1, self.norm_2 = norms
        self.packed: list[tuple[Tensor, Tensor]] = []  # of qkv, out, up and down: weight, bias

    def _pack(self) -> list[tuple[Tensor, Tensor]]:
        f, packed = self.family, []
        for paths in ((f.query, f.key, f.value), (f.out,), (f.up,), (f.down,)):
            linears: list[Any] = [self.block.get_submodule(path) for path in paths]
            weight_NK = torch.cat([linear.weight for linear in linears]).contiguous()
            bias_N = torch.cat([linear.bias for linear in linears]).to(weight_NK.dtype)
            packed.append((torch.ops.mkldnn._reorder_linear_weight(weight_NK, FEW), bias_N))
        return packed

    def forward(self, x_BSD: Tensor, mask_BS: Tensor, position_HSS: Tensor | None) -> Tensor:
        """The block's output, (B, S, D); mask and position are added to the attention's scores."""
        if not self.packed:
            with torch.inference_mode(False), torch.no_grad():
                self.packed = self._pack()  # in one go: several threads may come here at once
        (B, S, D), (qkv, out, up, down) = x_BSD.shape, self.packed
        added = mask_BS[:, None, None] if position_HSS is None else mask_BS[:, None, None] + position_HSS
        x_TD = x_BSD.reshape(B * S, D)
        heads = _linear(x_TD, qkv).view(B, S, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)
        o_BHSK = nn.functional.scaled_dot_product_attention(*heads.unbind(0), attn_mask=added.to(x_TD.dtype))
        y_TD = _norm(_linear(o_BHSK.transpose(1, 2).reshape(B * S, D), out, x_TD), self.norm_1)
        g_TF = _linear(y_TD, up, after="gelu")
        return _norm(_linear(g_TF, down, y_TD), self.norm_2).view(B, S, D)


def _linear(
    x_TK: Tensor, packed: tuple[Tensor, Tensor], residual_TN: Tensor | None = None, after: str = "none"
) -> Tensor:
    # named by its overload: to choose one by the arguments takes as long as a small product
    if residual_TN is None:
        return torch.ops.mkldnn._linear_pointwise.default(x_TK, *packed, after, [], "none")
    return torch.ops.mkldnn._linear_pointwise.binary(x_TK, residual_TN, *packed, "add")


def _norm(h_TD: Tensor, norm: Norm) -> Tensor:
    return torch.native_layer_norm(h_TD, h_TD.shape[1:], norm.gamma_D, norm.beta_D, norm.eps)[0]
