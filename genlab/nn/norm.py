"""Normalization layers."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["GroupNorm"]


class GroupNorm(nn.GroupNorm):
    """Group normalization that returns the type it is given.

    Autocast would return float32 on CUDA, and everything up to the next convolution would move
    twice the bytes. The statistics are float32 in the kernel whatever the input is.

    Groups have at least 4 channels, 32 groups at most.

    Reference: Wu and He 2018, arXiv 1803.08494; the rule for the groups is that of Karras et al.
    2022, arXiv 2206.00364.
    """

    def __init__(self, channels: int) -> None:
        """channels: any number >= 1."""
        most = min(32, max(1, channels // 4))
        groups = next(g for g in range(most, 0, -1) if channels % g == 0)
        super().__init__(groups, channels, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> [B, C, H, W]."""
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        return F.group_norm(x, self.num_groups, weight, bias, self.eps)
