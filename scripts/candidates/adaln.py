"""Normalization of tokens, scaled and shifted, in one kernel each way: adaLN and RMSNorm.

    h = (x - mean) rate,  y = h (1 + scale) + shift      layer norm, scale and shift of an image
    h = x rate,           y = h weight                   RMSNorm, one weight for all

A token lies in registers whole, so x is read once, and nothing but x and scale is kept for the
backward pass. With w what h is multiplied by, g = dL/dy and means over the D numbers of a token:

    dx = rate (w g - mean(w g) - h mean(w g h)),  dw = sum g h,  dshift = sum g    over the tokens

RMSNorm without the first mean. Each program adds up the tokens it has; their sums are added up
afterwards, in one order. Everything is float32 but what is read and written.

Reference: Peebles and Xie 2023, arXiv 2212.09748, section 3.2; Zhang and Sennrich 2019, arXiv
1910.07467.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from candidates.narrow import narrow

__all__ = ["CONFIGS", "Config", "adaln", "kernels", "plain_adaln", "plain_rms_norm", "rms_norm"]

EPS = 1e-6


class Config(NamedTuple):
    """numbers: of a tile, whose rows are tokens; tiles: of a program of the backward pass."""

    numbers: int
    tiles: int
    warps: int


CONFIGS = (
    Config(1024, 64, 4),
    Config(2048, 32, 4),
    Config(4096, 16, 8),
)


def plain_adaln(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Layer norm that returns the type it is given, and one pass for scale and shift."""
    y = torch.native_layer_norm(x, x.shape[-1:], None, None, EPS)[0]
    return torch.addcmul(shift[:, None], y, 1 + scale[:, None])


def plain_rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    """x / sqrt(mean(x^2) + eps) weight, computed in float32 (float64 for it)."""
    wide = x.float() if x.dtype != torch.float64 else x
    rate = wide.square().mean(-1, keepdim=True).add(EPS).rsqrt()
    return (wide * rate * weight).to(x.dtype)


def adaln(x: Tensor, scale: Tensor, shift: Tensor, config: Config = CONFIGS[1]) -> Tensor:
    """x [B, T, D], scale, shift [B, D] -> [B, T, D] in the type of x."""
    return _Norm.apply(x, scale, shift, True, config)


def rms_norm(x: Tensor, weight: Tensor, config: Config = CONFIGS[1]) -> Tensor:
    """x [..., D], weight [D] -> the same shape and type."""
    rows = x.reshape(1, -1, x.shape[-1])
    return _Norm.apply(rows, weight[None], None, False, config).view(x.shape)


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, shift: Tensor | None, adaptive: bool, config: Config
    ) -> Tensor:
        """x [G, T, D]; scale and shift [G, D], of each group of T tokens."""
        x = x.contiguous()
        y = torch.empty_like(x)
        groups, tokens, width = x.shape
        if not all(t is None or t.stride(1) == 1 for t in (scale, shift)):
            raise ValueError("adaln takes scale and shift whose rows are contiguous")
        constants = {
            "WIDE": triton.next_power_of_2(width),
            "ROWS": max(1, config.numbers // triton.next_power_of_2(width)),
            "ADAPTIVE": adaptive,
            "num_warps": config.warps,
        }
        grid = (triton.cdiv(tokens, constants["ROWS"]), groups)
        rows = (scale.stride(0), shift.stride(0) if adaptive else 0)
        _forward[grid](x, scale, shift, y, tokens, width, *rows, EPS, **constants)
        ctx.save_for_backward(x, scale)
        ctx.constants, ctx.per_program = constants, config.tiles * constants["ROWS"]
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, scale = ctx.saved_tensors
        groups, tokens, width = x.shape
        programs = triton.cdiv(tokens, ctx.per_program)
        dx = torch.empty_like(x)
        kinds = 2 if ctx.constants["ADAPTIVE"] else 1  # scale and shift, or the weight
        parts = x.new_empty(kinds, groups, programs, width, dtype=torch.float32)
        _backward[programs, groups](
            x, dy.contiguous(), scale, dx, parts,
            tokens, width, scale.stride(0), ctx.per_program, EPS, **ctx.constants,
        )  # fmt: skip
        sums = parts.sum(2).to(scale.dtype)
        return dx, sums[0], sums[1] if kinds == 2 else None, None, None


@triton.jit
def _normal(tile, inside, width, eps, ADAPTIVE: tl.constexpr):
    """(h, rate) of rows [ROWS, WIDE] that are 0 outside, where h is 0 too."""
    off = tile
    if ADAPTIVE:
        off = tl.where(inside, tile - (tl.sum(tile, 1) / width)[:, None], 0.0)
    rate = tl.rsqrt(tl.sum(off * off, 1) / width + eps)
    return off * rate[:, None], rate


@triton.jit
def _gain(scale, scale_row, group, c, width, ADAPTIVE: tl.constexpr):
    """What h is multiplied by, [WIDE]."""
    w = tl.load(scale + group * scale_row + c, mask=c < width, other=0.0).to(tl.float32)
    return 1 + w if ADAPTIVE else w


@triton.jit
def _forward(
    x, scale, shift, y, tokens, width, scale_row, shift_row, eps,
    WIDE: tl.constexpr, ROWS: tl.constexpr, ADAPTIVE: tl.constexpr,
):  # fmt: skip
    """ROWS tokens of one group."""
    group = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.arange(0, WIDE)
    inside = (row < tokens)[:, None] & (c < width)[None, :]
    at = (group * tokens + row)[:, None] * width + c[None, :]
    tile = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    h, _ = _normal(tile, inside, width, eps, ADAPTIVE)
    out = h * _gain(scale, scale_row, group, c, width, ADAPTIVE)[None, :]
    if ADAPTIVE:
        plus = tl.load(shift + group * shift_row + c, mask=c < width, other=0.0)
        out += plus.to(tl.float32)[None, :]
    tl.store(y + at, narrow(out, y), mask=inside)


@triton.jit
def _backward(
    x, dy, scale, dx, parts, tokens, width, scale_row, per_program, eps,
    WIDE: tl.constexpr, ROWS: tl.constexpr, ADAPTIVE: tl.constexpr,
):  # fmt: skip
    """per_program tokens of one group: dx, and their sums in parts [kinds, G, programs, D]."""
    group = tl.program_id(1).to(tl.int64)
    c = tl.arange(0, WIDE)
    w = _gain(scale, scale_row, group, c, width, ADAPTIVE)
    dw = tl.zeros([WIDE], tl.float32)
    dshift = tl.zeros([WIDE], tl.float32)
    first = tl.program_id(0) * per_program
    last = tl.minimum(first + per_program, tokens)
    for start in tl.range(first, last, ROWS, num_stages=3):
        row = start + tl.arange(0, ROWS)
        inside = (row < tokens)[:, None] & (c < width)[None, :]
        at = (group * tokens + row)[:, None] * width + c[None, :]
        tile = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        g = tl.load(dy + at, mask=inside, other=0.0).to(tl.float32)
        h, rate = _normal(tile, inside, width, eps, ADAPTIVE)
        dw += tl.sum(g * h, 0)
        wg = w[None, :] * g
        slope = wg - h * (tl.sum(wg * h, 1) / width)[:, None]
        if ADAPTIVE:
            dshift += tl.sum(g, 0)
            slope -= (tl.sum(wg, 1) / width)[:, None]
        tl.store(dx + at, narrow(slope * rate[:, None], dx), mask=inside)
    programs = tl.num_programs(0)
    parts += (group * programs + tl.program_id(0)) * width
    tl.store(parts + c, dw, mask=c < width)
    if ADAPTIVE:
        parts += tl.num_programs(1) * programs * width
        tl.store(parts + c, dshift, mask=c < width)


def kernels(config: Config) -> dict[str, tuple[Any, dict[str, str], dict[str, Any]]]:
    """{name: (kernel, types, constants)} as networks of width 768 launch them, for `fit`."""
    types = dict.fromkeys(("x", "y", "dy", "dx", "scale", "shift"), "*bf16")
    types |= {"parts": "*fp32", "eps": "fp32"}
    constants = {"WIDE": 1024, "ROWS": max(1, config.numbers // 1024), "num_warps": config.warps}
    return {
        f"{name}, {way}": (kernel, types, constants | {"ADAPTIVE": adaptive})
        for name, adaptive in (("adaln", True), ("rms_norm", False))
        for way, kernel in (("forward", _forward), ("backward", _backward))
    }
