"""What each kernel of csrc/ computes, in torch: the engine's kernels where they can't be compiled, and their test."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LOWEST, FINENESS = -0.135, 200.0  # gelu's derivative as a byte, beside bf16 numbers (csrc/gelu.h)


def slope_type(dtype: torch.dtype) -> torch.dtype:
    """What gelu's derivative is kept in between a forward and its way back."""
    return torch.uint8 if dtype == torch.bfloat16 else dtype


@dataclass(frozen=True)
class Norm:
    """A frozen LayerNorm, in fp32."""

    gamma_D: Tensor
    beta_D: Tensor
    eps: float


class Reference:
    """The kernels in torch, computed in fp32 as the compiled ones are; results are rounded to their tensor's type."""

    tiles = False

    def __init__(self, why: str = "") -> None:
        self.why = why  # there are no compiled ones

    def gelu_forward(self, out_TD: Tensor, slope_TD: Tensor | None, z_TD: Tensor, bias_D: Tensor) -> None:
        """out = gelu(z + bias); its derivative there goes to `slope`, if that is wanted."""
        x_TD = z_TD.float() + bias_D
        integral_TD = 0.5 * (1 + torch.erf(x_TD * 0.5**0.5))
        out_TD.copy_(x_TD * integral_TD)
        if slope_TD is not None:
            found_TD = integral_TD + x_TD * torch.exp(-0.5 * x_TD * x_TD) * (2 * torch.pi) ** -0.5
            slope_TD.copy_((found_TD - LOWEST) * FINENESS + 0.5 if slope_TD.dtype == torch.uint8 else found_TD)

    def multiply(self, to_TD: Tensor, slope_TD: Tensor) -> None:
        """to *= slope, as `gelu_forward` wrote it."""
        is_byte = slope_TD.dtype == torch.uint8
        to_TD.copy_(to_TD.float() * (slope_TD / FINENESS + LOWEST if is_byte else slope_TD))

    def norm_forward(
        self,
        y_TD: Tensor,
        h_TD: Tensor,
        residual_TD: Tensor,
        bias_D: Tensor,
        norm: Norm,
        mean_T: Tensor,
        rstd_T: Tensor,
    ) -> None:
        """h += bias + residual, in place; y = LayerNorm(h); mean and 1 / deviation of each row."""
        h_TD.copy_(h_TD.float() + bias_D + residual_TD.float())
        found = torch.native_layer_norm(h_TD.float(), h_TD.shape[1:], norm.gamma_D, norm.beta_D, norm.eps)
        for to, value in zip((y_TD, mean_T, rstd_T), found, strict=True):
            to.copy_(value.view(to.shape))

    def norm_backward(
        self,
        dh_TD: Tensor,
        dy_TD: Tensor,
        more_TD: Tensor | None,
        h_TD: Tensor,
        norm: Norm,
        mean_T: Tensor,
        rstd_T: Tensor,
    ) -> None:
        """dh = the gradient at LayerNorm's input h, from dy + more at its output."""
        dy = dy_TD.float() if more_TD is None else dy_TD.float() + more_TD.float()
        g_TD, x_TD = dy * norm.gamma_D, (h_TD.float() - mean_T[:, None]) * rstd_T[:, None]
        along_T1 = (g_TD * x_TD).mean(1, keepdim=True)
        dh_TD.copy_((g_TD - g_TD.mean(1, keepdim=True) - x_TD * along_T1) * rstd_T[:, None])

    def softmax_forward(self, p_BHSS: Tensor, mask_BS: Tensor, position_HSS: Tensor | None, scale: float) -> None:
        """p = softmax(scale * p + position + mask) over each row, in place."""
        scores = p_BHSS.float() * scale + mask_BS[:, None, None]
        p_BHSS.copy_(torch.softmax(scores if position_HSS is None else scores + position_HSS, -1))

    def softmax_backward(self, dp_BHSS: Tensor, p_BHSS: Tensor, scale: float) -> None:
        """dp = scale * p * (dp - sum(dp * p)), in place."""
        p, dp = p_BHSS.float(), dp_BHSS.float()
        dp_BHSS.copy_(scale * p * (dp - (dp * p).sum(-1, keepdim=True)))

    def split_heads(self, heads_nBHSK: Tensor, rows: Tensor, bias: Tensor | None) -> None:
        """heads = rows (B * S, n * H * K) + bias."""
        n, B, H, S, K = heads_nBHSK.shape
        whole = rows.view(B, S, n, H, K) if bias is None else (rows.float() + bias).view(B, S, n, H, K)
        heads_nBHSK.copy_(whole.permute(2, 0, 3, 1, 4))

    def join_heads(self, rows: Tensor, heads_nBHSK: Tensor) -> None:
        """rows (B * S, n * H * K) = heads."""
        n, B, H, S, K = heads_nBHSK.shape
        rows.view(B, S, n, H, K).copy_(heads_nBHSK.permute(1, 3, 0, 2, 4))

    def dropout(self, to_TD: Tensor, from_TD: Tensor, seed: int, p: float, add: bool) -> None:
        """to = (to, if add) + from where chance lets it through, over 1 - p.

        A number's chance is a hash of its place and the seed: MurmurHash3's finalizer, on 32 bits.
        """
        low = 0xFFFFFFFF
        hash_TD = (torch.arange(from_TD.numel()).view(from_TD.shape) * 0x9E3779B9 + seed) & low
        hash_TD = ((hash_TD ^ (hash_TD >> 16)) * 0x85EBCA6B) & low
        hash_TD = ((hash_TD ^ (hash_TD >> 13)) * 0xC2B2AE35) & low
        hash_TD ^= hash_TD >> 16
        let_TD = torch.where(hash_TD < int(p * 2**32), 0.0, from_TD.float() * (1 / (1 - p)))
        to_TD.copy_(to_TD.float() + let_TD if add else let_TD)

    @staticmethod
    def outer(low_TR: Tensor, rows_TC: Tensor) -> Tensor:
        """low^T rows, (R, C), in fp32."""
        return torch.mm(low_TR.t(), rows_TC).float()
