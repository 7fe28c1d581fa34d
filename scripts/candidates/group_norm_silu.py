"""Group normalization, a condition's scale and shift, and SiLU, in one kernel each way.

    h = (x - mean) rate,  u = h a + b,  y = u sigmoid(u),
    a = weight (1 + scale),  b = bias (1 + scale) + shift

A program has the pixels of one image and as many whole groups as fit its tile. It reads x for the
statistics and once more for y, from the L2 cache for maps of up to about 64 x 64. Backward, with
g = dL/du, sums over the pixels, and further sums over the n numbers of a group:

    db = sum g,  da = sum g h,  dx = rate (a g - sum(a db) / n - h sum(a da) / n)

Everything is float32 but what is read and written. Sums have one order: no atomics.

Reference: Wu and He 2018, arXiv 1803.08494; scale and shift: Dhariwal and Nichol 2021, arXiv
2105.05233; statistics of parts: Chan, Golub, LeVeque 1983, The American Statistician 37 (3).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from candidates.narrow import narrow
from genlab.nn.norm import GroupNorm

__all__ = ["CONFIGS", "Config", "group_norm_silu", "kernels", "plain"]


class Config(NamedTuple):
    """wide: channels of a tile, at most; rows: pixels of one; stages: of loads in flight."""

    wide: int
    rows: int
    warps: int
    stages: int


CONFIGS = (
    Config(32, 64, 4, 3),
    Config(64, 32, 4, 3),
    Config(64, 64, 8, 3),
    Config(64, 128, 8, 2),
)


def plain(norm: GroupNorm, x: Tensor, scale: Tensor | None, shift: Tensor | None) -> Tensor:
    """What the U-Net computes today, in the layout its next convolution wants."""
    return F.silu(norm(x, scale, shift)).contiguous(memory_format=torch.channels_last)


def group_norm_silu(
    norm: GroupNorm,
    x: Tensor,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    config: Config = CONFIGS[1],
) -> Tensor:
    """x [B, C, H, W] in channels_last; scale, shift [B, C] or neither -> SiLU of norm's output.

    Once differentiable in x, scale, shift and the parameters of norm. Raises ValueError for
    another layout.
    """
    if not x.is_contiguous(memory_format=torch.channels_last):
        raise ValueError("group_norm_silu takes channels_last maps, and x lies otherwise")
    return _GroupNormSiLU.apply(
        x, norm.weight, norm.bias, scale, shift, norm.num_groups, norm.eps, config
    )


class _GroupNormSiLU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        scale: Tensor | None,
        shift: Tensor | None,
        groups: int,
        eps: float,
        config: Config,
    ) -> Tensor:
        y = torch.empty_like(x)
        mean = x.new_empty(len(x), x.shape[1], dtype=torch.float32)  # each channel its group's
        rate = torch.empty_like(mean)
        grid, sizes, constants = _launch(x, groups, scale, shift, config)
        _forward[grid](x, weight, bias, scale, shift, y, mean, rate, *sizes, eps, **constants)
        ctx.save_for_backward(x, weight, bias, scale, shift, mean, rate)
        ctx.launch = grid, sizes, constants
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, scale, shift, mean, rate = ctx.saved_tensors
        grid, sizes, constants = ctx.launch
        dy = dy.contiguous(memory_format=torch.channels_last)
        dx = torch.empty_like(x)
        affine = x.new_empty(2, *mean.shape, dtype=torch.float32)  # of weight and bias, an image
        given = None if scale is None else scale.new_empty(2, *mean.shape)
        _backward[grid](
            x, dy, weight, bias, scale, shift, mean, rate, dx, affine, given, *sizes, **constants
        )
        dweight, dbias = affine.sum(1).to(weight.dtype)
        dscale, dshift = (None, None) if given is None else given
        return dx, dweight, dbias, dscale, dshift, None, None, None


def _launch(x, groups, scale, shift, config):
    """(grid, sizes, constants) of both kernels."""
    batch, channels, height, width = x.shape
    group = channels // groups
    wide = max(config.wide, triton.next_power_of_2(group))
    at_once = 2 ** ((wide // group).bit_length() - 1) * group  # channels of a program
    if scale is not None and (scale.stride(1), shift.stride(1)) != (1, 1):
        raise ValueError("group_norm_silu takes scale and shift whose rows are contiguous")
    strides = (0, 0) if scale is None else (scale.stride(0), shift.stride(0))
    constants = {
        "GROUP": group,
        "WIDE": wide,
        "ROWS": config.rows,
        "GIVEN": scale is not None,
        "STAGES": config.stages,
        "num_warps": config.warps,
    }
    grid = (triton.cdiv(channels, at_once), batch)
    return grid, (height * width, channels, at_once, *strides), constants


@triton.jit
def _affine(weight, bias, scale, shift, scale_row, shift_row, image, c, live, GIVEN: tl.constexpr):
    """(a, b, weight, bias, 1 + scale) of channels c of an image."""
    w = tl.load(weight + c, mask=live, other=0.0).to(tl.float32)
    b = tl.load(bias + c, mask=live, other=0.0).to(tl.float32)
    if GIVEN:
        gain = 1 + tl.load(scale + image * scale_row + c, mask=live, other=0.0).to(tl.float32)
        plus = tl.load(shift + image * shift_row + c, mask=live, other=0.0).to(tl.float32)
        return w * gain, b * gain + plus, w, b, gain
    return w, b, w, b, tl.full(c.shape, 1.0, tl.float32)


@triton.jit
def _over_group(v, same):
    """v [WIDE] -> for each channel the sum of v over its group."""
    return tl.sum(tl.where(same, v[None, :], 0.0), 1)


@triton.jit
def _same_group(c, live, GROUP: tl.constexpr):
    """[WIDE, WIDE], whether two channels share a group."""
    group = c // GROUP
    return (group[:, None] == group[None, :]) & live[None, :]


@triton.jit
def _forward(
    x, weight, bias, scale, shift, y, mean_out, rate_out,
    pixels, channels, at_once, scale_row, shift_row, eps,
    GROUP: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr, GIVEN: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """One image, at_once channels: x, y [B, pixels, channels], mean and rate [B, channels]."""
    image = tl.program_id(1).to(tl.int64)
    lane = tl.arange(0, WIDE)
    c = tl.program_id(0) * at_once + lane
    live = (lane < at_once) & (c < channels)
    x += image * pixels * channels
    y += image * pixels * channels

    mean = tl.zeros([WIDE], tl.float32)
    square = tl.zeros([WIDE], tl.float32)  # sum of (x - mean)^2
    for start in tl.range(0, pixels, ROWS, num_stages=STAGES):
        p = start + tl.arange(0, ROWS)
        inside = (p < pixels)[:, None] & live[None, :]
        tile = tl.load(x + p[:, None] * channels + c[None, :], mask=inside, other=0.0)
        tile = tile.to(tl.float32)
        before = start * 1.0
        n = tl.minimum(pixels - start, ROWS) * 1.0
        part = tl.sum(tile, 0) / n
        off = tl.where(inside, tile - part[None, :], 0.0)
        moved = part - mean
        mean += moved * (n / (before + n))
        square += tl.sum(off * off, 0) + moved * moved * (before * n / (before + n))
    same = _same_group(c, live, GROUP)
    middle = _over_group(mean, same) / GROUP
    off = mean - middle
    square = _over_group(square + pixels * off * off, same)
    rate = tl.rsqrt(square / (pixels * GROUP) + eps)
    tl.store(mean_out + image * channels + c, middle, mask=live)
    tl.store(rate_out + image * channels + c, rate, mask=live)

    a, b, _, _, _ = _affine(
        weight, bias, scale, shift, scale_row, shift_row, image, c, live, GIVEN
    )
    for start in tl.range(0, pixels, ROWS, num_stages=STAGES):
        p = start + tl.arange(0, ROWS)
        inside = (p < pixels)[:, None] & live[None, :]
        at = p[:, None] * channels + c[None, :]
        h = (tl.load(x + at, mask=inside, other=0.0).to(tl.float32) - middle[None, :]) * rate[
            None, :
        ]
        u = h * a[None, :] + b[None, :]
        tl.store(y + at, narrow(u * tl.sigmoid(u), y), mask=inside)


@triton.jit
def _slopes(x, dy, start, pixels, channels, c, live, mean, rate, a, b, ROWS: tl.constexpr):
    """(where, whether inside, h, dL/du) of a tile of pixels; dL/du is 0 outside."""
    p = start + tl.arange(0, ROWS)
    inside = (p < pixels)[:, None] & live[None, :]
    at = p[:, None] * channels + c[None, :]
    h = (tl.load(x + at, mask=inside, other=0.0).to(tl.float32) - mean[None, :]) * rate[None, :]
    u = h * a[None, :] + b[None, :]
    s = tl.sigmoid(u)
    g = tl.load(dy + at, mask=inside, other=0.0).to(tl.float32) * s * (1 + u * (1 - s))
    return at, inside, h, g


@triton.jit
def _backward(
    x, dy, weight, bias, scale, shift, mean_in, rate_in, dx, affine, given,
    pixels, channels, at_once, scale_row, shift_row,
    GROUP: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr, GIVEN: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """One image, at_once channels: dx as x; affine and given [2, B, channels]."""
    image = tl.program_id(1).to(tl.int64)
    images = tl.num_programs(1)
    lane = tl.arange(0, WIDE)
    c = tl.program_id(0) * at_once + lane
    live = (lane < at_once) & (c < channels)
    x += image * pixels * channels
    dy += image * pixels * channels
    dx += image * pixels * channels
    mean = tl.load(mean_in + image * channels + c, mask=live, other=0.0)
    rate = tl.load(rate_in + image * channels + c, mask=live, other=0.0)
    a, b, w, v, gain = _affine(
        weight, bias, scale, shift, scale_row, shift_row, image, c, live, GIVEN
    )

    da = tl.zeros([WIDE], tl.float32)
    db = tl.zeros([WIDE], tl.float32)
    for start in tl.range(0, pixels, ROWS, num_stages=STAGES):
        _, _, h, g = _slopes(x, dy, start, pixels, channels, c, live, mean, rate, a, b, ROWS)
        da += tl.sum(g * h, 0)
        db += tl.sum(g, 0)
    here = image * channels + c
    tl.store(affine + here, da * gain, mask=live)
    tl.store(affine + images * channels + here, db * gain, mask=live)
    if GIVEN:
        tl.store(given + here, narrow(da * w + db * v, given), mask=live)
        tl.store(given + images * channels + here, narrow(db, given), mask=live)

    same = _same_group(c, live, GROUP)
    mean_g = _over_group(a * db, same) / (pixels * GROUP)
    mean_gh = _over_group(a * da, same) / (pixels * GROUP)
    for start in tl.range(0, pixels, ROWS, num_stages=STAGES):
        at, inside, h, g = _slopes(x, dy, start, pixels, channels, c, live, mean, rate, a, b, ROWS)
        slope = rate[None, :] * (a[None, :] * g - mean_g[None, :] - h * mean_gh[None, :])
        tl.store(dx + at, narrow(slope, dx), mask=inside)


def kernels(config: Config) -> dict[str, tuple[Any, dict[str, str], dict[str, Any]]]:
    """{name: (kernel, types, constants)} as the widest U-Net launches them, for `fit`."""
    types = dict.fromkeys(("x", "y", "dy", "dx", "scale", "shift", "given"), "*bf16")
    for name in ("weight", "bias", "mean_out", "rate_out", "mean_in", "rate_in", "affine"):
        types[name] = "*fp32"
    constants = {
        "GROUP": 4,
        "WIDE": config.wide,
        "ROWS": config.rows,
        "GIVEN": True,
        "STAGES": config.stages,
        "num_warps": config.warps,
    }
    return {
        "forward": (_forward, types | {"eps": "fp32"}, constants),
        "backward": (_backward, types, constants),
    }
