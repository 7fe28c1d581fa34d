"""Halving and doubling the size of feature maps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ConvDown", "ConvUp", "FIRDown", "grow", "shrink"]

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


class ConvDown(nn.Conv2d):
    """A 3x3 convolution around every other pixel of every other row.

    around: of a map of even sides, zeros are added on all sides, and the first of the pixels is
    that of the corner; else on the right and below alone, as TensorFlow does, and it is the next.

    Reference: Ho et al. 2020, diffusion_tf/models/unet.py (right and below); Nichol and Dhariwal
    2021, improved_diffusion/unet.py (around).
    """

    def __init__(self, inside: int, outside: int, around: bool = True) -> None:
        """inside, outside: channels."""
        super().__init__(inside, outside, 3, stride=2, padding=1 if around else 0)
        self.around = around

    def forward(self, x: Tensor) -> Tensor:
        """x [B, inside, H, W] -> [B, outside, H/2, W/2]."""
        return super().forward(x if self.around else F.pad(x, (0, 1, 0, 1)))


class ConvUp(nn.Conv2d):
    """A 3x3 convolution and every pixel four times.

    large: the convolution is of the large map and may mend its steps; else of the small one, which
    costs a quarter.

    Reference: Ho et al. 2020, diffusion_tf/models/unet.py (large).
    """

    def __init__(self, inside: int, outside: int, large: bool) -> None:
        """inside, outside: channels."""
        super().__init__(inside, outside, 3, padding=1)
        self.large = large

    def forward(self, x: Tensor) -> Tensor:
        """x [B, inside, H, W] -> [B, outside, 2 H, 2 W]."""
        if self.large:
            return super().forward(grow(x, fir=False))
        return grow(super().forward(x), fir=False)


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
