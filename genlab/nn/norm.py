"""Normalization in the type that is given, with a condition's scale and shift folded in."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["GroupNorm", "LayerNorm", "RMSNorm"]

STRIPS = 8  # parts of a map of pixels that are added up by themselves


class GroupNorm(nn.GroupNorm):
    """Group normalization that returns the type it is given.

    y = (x - mean) / sqrt(var + eps) * weight + bias,  then y (1 + scale) + shift if given

    Mean and variance are those of a group of channels of one image. Groups have at least 4
    channels, and there are 32 at most. Autocast would return float32 on CUDA, and everything up to
    the next convolution would move twice the bytes; the statistics are float32 all the same.

    Reference: Wu and He 2018, arXiv 1803.08494; the rule for the groups is that of Karras et al.
    2022, arXiv 2206.00364; scale and shift: Dhariwal and Nichol 2021, arXiv 2105.05233.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        """channels: any number >= 1."""
        most = min(32, max(1, channels // 4))
        groups = next(g for g in range(most, 0, -1) if channels % g == 0)
        super().__init__(groups, channels, eps=eps)

    def forward(
        self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None
    ) -> Tensor:
        """x [B, C, H, W]; scale, shift [B, C] or neither -> [B, C, H, W]."""
        if x.device.type == "cpu" and x.is_contiguous(memory_format=torch.channels_last):
            weight, bias = self.weight, self.bias
            if scale is not None and shift is not None:
                gain = 1 + scale.to(weight.dtype)
                weight, bias = weight * gain, bias * gain + shift
            rows = (len(x), -1)
            return _ChannelsLast.apply(
                x, weight.expand(rows), bias.expand(rows), self.num_groups, self.eps
            )
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        with _as_given(x):
            y = F.group_norm(x, self.num_groups, weight, bias, self.eps)
        if scale is None or shift is None:
            return y
        scale, shift = (v.to(x.dtype)[:, :, None, None] for v in (scale, shift))
        return torch.addcmul(shift, y, 1 + scale)


class LayerNorm(nn.Module):
    """Normalization over the numbers of a token that returns the type it is given.

    y = (x - mean) / sqrt(var + eps) * weight + bias,  then y (1 + scale) + shift if given

    affine: with weight and bias. Statistics are float32, whatever autocast says.

    Reference: Ba et al. 2016, arXiv 1607.06450; scale and shift: Peebles and Xie 2023, arXiv
    2212.09748, section 3.2.
    """

    def __init__(self, width: int, affine: bool = True, eps: float = 1e-6) -> None:
        """width: C."""
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width)) if affine else None
        self.bias = nn.Parameter(torch.zeros(width)) if affine else None
        self.eps = eps

    def forward(
        self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None
    ) -> Tensor:
        """x [B, T, C]; scale, shift [B, C] or neither -> [B, T, C]."""
        weight, bias = (None if p is None else p.to(x.dtype) for p in (self.weight, self.bias))
        with _as_given(x):
            y = F.layer_norm(x, x.shape[-1:], weight, bias, self.eps)
        if scale is None or shift is None:
            return y
        scale, shift = scale.to(x.dtype)[:, None], shift.to(x.dtype)[:, None]
        return torch.addcmul(shift, y, 1 + scale)


class RMSNorm(nn.Module):
    """Division by the root of the mean square, in the type that is given.

    y = x / sqrt(mean(x^2) + eps) * weight

    Reference: Zhang and Sennrich 2019, arXiv 1910.07467.
    """

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        """width: numbers of the last axis."""
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """x [..., width] -> the same shape."""
        wide = x.float() if x.dtype != torch.float64 else x
        rate = wide.square().mean(-1, keepdim=True).add(self.eps).rsqrt()
        return (wide * rate * self.weight).to(x.dtype)


class _ChannelsLast(torch.autograd.Function):
    """Group normalization from sums over pixels: y = A x + B with A, B of size [B, C].

    torch's own kernel for channels_last on CPUs takes 4 to 9 times as long (bf16, 4 channels a
    group), longer than the convolutions around it.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float
    ) -> Tensor:
        """x [B, C, H, W], weight and bias [B, C] -> [B, C, H, W]."""
        mean, rate = _statistics(x, groups, eps)
        ctx.save_for_backward(x, weight, mean, rate)
        ctx.groups, ctx.eps = groups, eps
        a = rate * _grouped(weight, groups)
        b = _grouped(bias, groups) - mean * a
        return torch.addcmul(_pixelwise(b, x), x, _pixelwise(a, x))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        """With h = (x - mean) rate: dx = rate (w g - mean(w g) - h mean(w g h)) over the group."""
        x, weight, mean, rate = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative runs through the statistics too
            mean, rate = _statistics(x, ctx.groups, ctx.eps)
        wide = mean.dtype
        w = _grouped(weight, ctx.groups)
        sum_g = _grouped(_sum(g, wide), ctx.groups)
        sum_gx = _grouped(_sum(g * x, wide), ctx.groups)
        sum_gh = (sum_gx - mean * sum_g) * rate
        count = x[0].numel() // ctx.groups
        mean_g = (w * sum_g).sum(2, keepdim=True) / count
        mean_gh = (w * sum_gh).sum(2, keepdim=True) / count
        slope = -rate * rate * mean_gh
        dx = torch.addcmul(
            torch.addcmul(
                _pixelwise((-rate * mean_g - slope * mean).expand_as(w), x),
                x,
                _pixelwise(slope.expand_as(w), x),
            ),
            g,
            _pixelwise(rate * w, x),
        )
        return dx, sum_gh.flatten(1), sum_g.flatten(1), None, None


def _statistics(x: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor]:
    """x [B, C, H, W] -> mean and 1 / sqrt(var + eps), [B, groups, 1] float32 (float64 for it).

    Squares are rounded like x itself.
    """
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    pixels = x.shape[2] * x.shape[3]
    mean = _grouped(_sum(x, wide) / pixels, groups).mean(2, keepdim=True)
    square = _grouped(_sum(x * x, wide) / pixels, groups).mean(2, keepdim=True)
    return mean, (square - mean * mean).clamp_min(0).add(eps).rsqrt()


def _sum(x: Tensor, wide: torch.dtype) -> Tensor:
    """Sums over the pixels: x [B, C, H, W] in channels_last -> [B, C] of type `wide`.

    Asked for float32 sums of bf16, torch makes a float32 copy of x first, which takes 3 to 20
    times as long as the sums. So larger maps are added up in strips: in float32 within a strip,
    whose sum is rounded to bf16, and in float32 again over the strips.
    """
    pixels = x.shape[2] * x.shape[3]
    if x.dtype != torch.bfloat16 or pixels % STRIPS or pixels <= 64:
        return x.sum((2, 3), dtype=wide)
    strips = x.permute(0, 2, 3, 1).reshape(len(x), STRIPS, pixels // STRIPS, -1)
    return strips.sum(2).sum(1, dtype=wide)


def _as_given(x: Tensor) -> torch.autocast:
    """Without autocast, which has norms return float32 on CUDA."""
    return torch.autocast(x.device.type, enabled=False)


def _grouped(v: Tensor, groups: int) -> Tensor:
    """[B, C] -> [B, groups, C / groups]."""
    return v.unflatten(1, (groups, -1))


def _pixelwise(v: Tensor, x: Tensor) -> Tensor:
    """[B, groups, C / groups] -> [B, C, 1, 1] in the type of x."""
    return v.flatten(1)[:, :, None, None].to(x.dtype)
