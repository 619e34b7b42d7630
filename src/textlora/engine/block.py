"""One encoder block as one autograd function: its forward and its way back, written out.

A block is the post-norm transformer layer of BERT and its kin (Vaswani et al., arXiv 1706.03762; BERT, 1810.04805):

    y = LayerNorm(x + W_o attention(x W_qkv));   out = LayerNorm(y + W_d gelu(y W_u))

each W a frozen matrix with a bias and perhaps an adapter (product.py). What autograd would copy, cast and allocate anew
in each step is written into buffers here, and what stands between two products is one kernel.

Where nothing but each text's first token is read of the last block, it makes no more than that from its attention on.

B texts, S width, T = B x S tokens, R rows after the attention (T, or B), D hidden, F feed-forward.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from textlora.engine.attention import ByProducts, InTiles, Sizes, Where
from textlora.engine.buffers import Buffers
from textlora.engine.product import Dropped, Kernels, Product
from textlora.engine.reference import Norm, slope_type


@dataclass
class Parts:
    """What a block of any family consists of."""

    qkv: Product
    out: Product
    up: Product
    down: Product
    norm_1: Norm
    norm_2: Norm
    heads: int
    attention: InTiles | ByProducts
    kernels: Kernels
    scratch: Buffers  # of all blocks: what is done with before the next block begins
    following: Product | None = None  # the next block's first
    spare: list[Buffers] = field(default_factory=list)  # of this block: what lives until its way back

    @property
    def reads_first(self) -> bool:
        """Whether only each text's first row is wanted now."""
        return self.following is None and self.scratch.first_only

    def sizes(self, x_BSD: Tensor) -> Sizes:
        """Of the attention on such an input."""
        B, S, D = x_BSD.shape
        return Sizes(B, self.heads, S, D // self.heads, 1 if self.reads_first else S)

    @property
    def trained(self) -> list[nn.Parameter]:
        return [*self.qkv.trained, *self.out.trained, *self.up.trained, *self.down.trained]


class Kept(NamedTuple):
    """A block's activations, from its forward to its way back.

    x, o, y, g are the products' inputs, with their room; anything may lie there by then if a product has no adapters.
    """

    x: Tensor
    scores: tuple[Tensor | None, ...]  # what the attention wants to see again
    o: Tensor
    h1_RD: Tensor  # before the first norm, with its rows' mean and 1 / deviation
    mean_1: Tensor
    rstd_1: Tensor
    y: Tensor
    slope_RF: Tensor | None  # gelu's derivative
    g: Tensor
    h2_RD: Tensor
    mean_2: Tensor
    rstd_2: Tensor
    dropped: tuple[Dropped | None, ...]  # of qkv, out, up, down


def run(parts: Parts, x_TD: Tensor, where: Where, sizes: Sizes, keep: Buffers) -> tuple[Tensor, Kept]:
    """The block's forward; all that `Kept` holds lies in `keep`, which is `parts.scratch` if there is no way back."""
    (T, D), dtype, k, scratch = x_TD.shape, x_TD.dtype, parts.kernels, parts.scratch
    F, trains, every = parts.up.N, keep is not scratch, sizes.S // sizes.Q
    R = T // every  # rows from the attention on

    def rows(name: str) -> Tensor:
        return keep.take(name, (R,), torch.float32)

    def inputs(product: Product, name: str) -> Tensor:  # written anew by each block where no gradient needs them
        return product.room_for_inputs(keep if product.adapters else scratch, name, R)

    x = parts.qkv.beside(x_TD, keep, scratch)
    qkv_T3D = keep.take("qkv", (T, 3 * D), dtype)
    dropped_qkv = parts.qkv.forward(x, qkv_T3D)
    o = inputs(parts.out, "o")
    scores = parts.attention.forward(o[:, :D], qkv_T3D, parts.qkv.bias_N, where, sizes, keep, scratch)
    h1_RD = keep.take("h1", (R, D), dtype)
    dropped_out = parts.out.forward(o, h1_RD)
    y, mean_1, rstd_1 = inputs(parts.up, "y"), rows("mean_1"), rows("rstd_1")
    k.norm_forward(y[:, :D], h1_RD, x[::every, :D], parts.out.bias_N, parts.norm_1, mean_1, rstd_1)
    z_RF, g = scratch.take("z", (R, F), dtype), inputs(parts.down, "g")
    slope_RF = keep.take("slope", (R, F), slope_type(dtype)) if trains else None
    dropped_up = parts.up.forward(y, z_RF)
    k.gelu_forward(g[:, :F], slope_RF, z_RF, parts.up.bias_N)
    h2_RD = keep.take("h2", (R, D), dtype)
    dropped_down = parts.down.forward(g, h2_RD)
    following, mean_2, rstd_2 = parts.following if trains else None, rows("mean_2"), rows("rstd_2")
    out_RD = following.room_for_outputs(keep, scratch, R) if following else torch.empty_like(h2_RD)
    k.norm_forward(out_RD, h2_RD, y[:, :D], parts.down.bias_N, parts.norm_2, mean_2, rstd_2)
    dropped = dropped_qkv, dropped_out, dropped_up, dropped_down
    return out_RD, Kept(x, scores, o, h1_RD, mean_1, rstd_1, y, slope_RF, g, h2_RD, mean_2, rstd_2, dropped)


def run_back(
    parts: Parts, dout_RD: Tensor, kept: Kept, sizes: Sizes, keep: Buffers, wants_dx: bool
) -> tuple[Tensor | None, list[Tensor]]:
    """The gradients at the block's input (None unless wanted) and of its adapters, in the order of `Parts.trained`."""
    (R, D), dtype, k, scratch = dout_RD.shape, dout_RD.dtype, parts.kernels, parts.scratch
    F, T = parts.up.N, sizes.B * sizes.S
    dh2, dz = parts.down.room_for_gradients(scratch, "dh2", R), parts.up.room_for_gradients(scratch, "wide", R)
    k.norm_backward(dh2[:, :D], dout_RD, None, kept.h2_RD, parts.norm_2, kept.mean_2, kept.rstd_2)
    down = parts.down.backward(dh2, kept.g, kept.dropped[3], dz[:, :F])
    assert kept.slope_RF is not None  # `run` makes it wherever there is a way back
    k.multiply(dz[:, :F], kept.slope_RF)
    dy_RD = scratch.take("dy", (R, D), dtype)
    up = parts.up.backward(dz, kept.y, kept.dropped[2], dy_RD)
    dh1 = parts.out.room_for_gradients(keep, "dh1", R)  # becomes dx: there the residual's flows too
    k.norm_backward(dh1[:, :D], dy_RD, dh2[:, :D], kept.h1_RD, parts.norm_1, kept.mean_1, kept.rstd_1)
    do_RD = scratch.take("dy", (R, D), dtype)
    out = parts.out.backward(dh1, kept.o, kept.dropped[1], do_RD)
    dqkv = parts.qkv.room_for_gradients(scratch, "wide", T)
    parts.attention.backward(dqkv[:, : 3 * D], do_RD, kept.scores, sizes, scratch)
    dx_TD = None
    if wants_dx:
        dx_TD = dh1[:, :D]
        if R < T:
            dx_TD = keep.take("dx", (T, D), dtype).zero_()
            dx_TD[:: T // R] = dh1[:, :D]
    qkv = parts.qkv.backward(dqkv, kept.x, kept.dropped[0], dx_TD, add=True)
    return dx_TD, [*qkv, *out, *up, *down]


class Block(torch.autograd.Function):
    """(x_BSD, where, parts, *parts.trained) -> (B, S, D)."""

    @staticmethod
    def forward(ctx: Any, x_BSD: Tensor, where: Where, parts: Parts, *trained: Tensor) -> Tensor:
        B, S, D = x_BSD.shape
        ctx.parts, ctx.sizes = parts, parts.sizes(x_BSD)
        ctx.keep = parts.spare.pop() if parts.spare else Buffers()
        x_TD = x_BSD.detach().reshape(B * S, D)
        out_RD, ctx.kept = run(parts, x_TD, where, ctx.sizes, ctx.keep)
        # not a view of the buffer it lies in: autograd would take what the next block writes beside it for a change
        shape, stride = (B, len(out_RD) // B, D), out_RD.stride(0)
        found = out_RD.new_empty(0)
        return found.set_(out_RD.untyped_storage(), out_RD.storage_offset(), shape, (shape[1] * stride, stride, 1))

    @staticmethod
    def backward(ctx: Any, dout_BSD: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        B, D = ctx.sizes.B, dout_BSD.shape[2]
        dout_RD = dout_BSD.reshape(-1, D)
        dout_RD = dout_RD if dout_RD.stride(1) == 1 else dout_RD.contiguous()  # of a mean over tokens it is expanded
        dx_TD, trained = run_back(ctx.parts, dout_RD, ctx.kept, ctx.sizes, ctx.keep, ctx.needs_input_grad[0])
        ctx.parts.spare.append(ctx.keep)
        ctx.keep = ctx.kept = None
        return (None if dx_TD is None else dx_TD.view(B, -1, D)), None, None, *trained


def apply(parts: Parts, x_BSD: Tensor, where: Where) -> Tensor:
    """The block on a batch; activations are kept only if there is something to train."""
    trained = parts.trained
    if torch.is_grad_enabled() and (trained or x_BSD.requires_grad):
        return Block.apply(x_BSD, where, parts, *trained)  # type: ignore[no-any-return]
    B, S, D = x_BSD.shape
    return run(parts, x_BSD.detach().reshape(B * S, D), where, parts.sizes(x_BSD), parts.scratch)[0].view(B, -1, D)
