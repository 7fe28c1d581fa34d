"""Halving and doubling the size of feature maps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["FIRDown", "grow", "shrink"]

TAPS = (1.0, 3.0, 3.0, 1.0)
"""The binomial filter, along each axis: what is finer than the smaller map holds fades."""


def _fir(x: Tensor) -> Tensor:
    """The outer product of the taps, whose sum is 1, for each channel: [C, 1, 4, 4]."""
    taps = torch.tensor(TAPS, device=x.device) / sum(TAPS)
    return taps.outer(taps).to(x.dtype).expand(x.shape[1], 1, 4, 4)


def shrink(x: Tensor, fir: bool) -> Tensor:
    """x [B, C, H, W] -> [B, C, H/2, W/2]: means of 2 x 2, or of 4 x 4 with the weights 1-3-3-1.

    Reference: Karras et al. 2020, arXiv 1912.04958, appendix B (the filter); outside the map it
    sees zeros.
    """
    if not fir:
        return F.avg_pool2d(x, 2)
    return F.conv2d(x, _fir(x), stride=2, padding=1, groups=x.shape[1])


def grow(x: Tensor, fir: bool) -> Tensor:
    """x [B, C, H, W] -> [B, C, 2 H, 2 W]: every pixel four times, or smoothed with 1-3-3-1."""
    if not fir:
        return F.interpolate(x, scale_factor=2.0, mode="nearest")
    # the transpose of shrink; a pixel is one of the four that its mean is of
    return F.conv_transpose2d(x, 4 * _fir(x), stride=2, padding=1, groups=x.shape[1])


class FIRDown(nn.Module):
    """A convolution that halves the size of what was smoothed with 1-3-3-1.

    Reference: Song et al. 2021, arXiv 2011.13456, appendix H.1.
    """

    def __init__(self, inside: int, outside: int) -> None:
        """inside, outside: channels."""
        super().__init__()
        self.conv = nn.Conv2d(inside, outside, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, inside, H, W] -> [B, outside, H/2, W/2]."""
        # two pixels around: a result then stands in the middle of its 2 x 2
        return self.conv(F.conv2d(x, _fir(x), padding=2, groups=x.shape[1]))
