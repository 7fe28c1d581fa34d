"""Attention between the pixels of a feature map."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genlab.nn.norm import GroupNorm

__all__ = ["SelfAttention2d", "attention"]


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(D)) v for q, k, v [B, heads, T, D] -> [B, heads, T, D].

    torch's own function, but for few tokens in bf16 on a CPU: the backward pass of its fused
    kernel takes 2 to 7 times as long there as the products written out.
    """
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and q.shape[2] <= 256:
        return (
            torch.softmax((q / math.sqrt(q.shape[3])) @ k.transpose(2, 3), dim=-1).to(v.dtype) @ v
        )
    return F.scaled_dot_product_attention(q, k, v)


class SelfAttention2d(nn.Module):
    """Residual self-attention, every pixel a token.

    x + W_o softmax(q k^T / sqrt(D)) v,  (q, k, v) = W norm(x)

    W_o starts at zero, so the layer starts as the identity. In channels_last the tokens are a view
    of the feature map: nothing is copied on the way in or out.

    Reference: Ho et al. 2020, arXiv 2006.11239, appendix B.
    """

    def __init__(self, channels: int, head_width: int) -> None:
        """channels: C; head_width: D, has to divide C."""
        super().__init__()
        if channels % head_width:
            raise ValueError(
                f"attention over {channels} channels needs a head_width that divides them, "
                f"and {head_width} does not"
            )
        self.heads = channels // head_width
        self.norm = GroupNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> [B, C, H, W]."""
        b, c, height, width = x.shape
        tokens = self.norm(x).permute(0, 2, 3, 1).flatten(1, 2)  # [B, T, C]
        qkv = self.qkv(tokens).view(b, height * width, 3, self.heads, c // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each [B, heads, T, D]
        mixed = attention(q, k, v).transpose(1, 2).flatten(2)
        out = self.out(mixed).view(b, height, width, c)
        return x + out.permute(0, 3, 1, 2)
