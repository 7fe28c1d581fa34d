"""Positions by rotation, and the ways of reading further than was trained."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

__all__ = ["Rotary", "Stretch", "rotate"]

Stretch = Literal["none", "interpolate", "ntk", "mixed"]

BEND = 0.75  # of NTK-mixed: how the stretch grows from the first pair to the last


class Rotary(nn.Module):
    """Turns queries and keys by their positions, so that products depend on differences alone.

    (x_i, x_{i + d/2}) turned by p w_i,  w_i = base^(-2 i / d),  i = 0 .. d/2 - 1

    The layout is half-split: a pair is one number of the first half of a head and one of the
    second. On images half of the pairs turn by the row and half by the column, each with the
    frequencies of d/2 numbers. Angles are float32, or float64 for such x: in bfloat16 positions
    beyond 256 fall together. There are no weights and no buffers.

    stretch, for texts `factor` = k times as long as those trained on:
        interpolate: p / k;
        ntk: base k^(d / (d - 2)), which leaves the first pair and turns the last k times slower;
        mixed: w_i exp(-a (i + 1)^b),  a = ln k / (d/2)^b,  b = 0.75, in between for all pairs.

    Reference: Su et al. 2021, arXiv 2104.09864, section 3.4; interpolate: Chen et al. 2023, arXiv
    2306.15595; ntk and mixed: the reference code of Su, github.com/bojone/rerope.
    """

    def __init__(
        self,
        width: int,
        *,
        axes: Literal[1, 2] = 1,
        base: float = 10000.0,
        stretch: Stretch = "none",
        factor: float = 1.0,
    ) -> None:
        """width: d, of a head, a multiple of 2 axes. axes: 1 for sequences, 2 for images.

        base: > 1. factor: k >= 1. Raises ValueError for others.
        """
        super().__init__()
        if width % (2 * axes):
            raise ValueError(
                f"rotation needs heads of a multiple of {2 * axes} numbers, not of {width}"
            )
        if base <= 1 or factor < 1:
            raise ValueError(
                f"rotation needs a base above 1 and a factor >= 1, not {base} and {factor}"
            )
        self.axes, self.width = axes, width // axes
        if stretch == "ntk" and self.width == 2:
            raise ValueError("stretch=ntk needs more than one pair an axis; use interpolate")
        self.base, self.stretch, self.factor = base, stretch, factor

    def frequencies(self, device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
        """w_0 .. w_{n-1} of one axis, in radians a position."""
        pairs = self.width // 2
        i = torch.arange(pairs, device=device, dtype=dtype)
        base = self.base
        if self.stretch == "ntk":
            base *= self.factor ** (self.width / (self.width - 2))
        powers = i * (-math.log(base) / pairs)
        if self.stretch == "mixed":
            powers = powers - math.log(self.factor) * ((i + 1) / pairs) ** BEND
        w = powers.exp()
        return w / self.factor if self.stretch == "interpolate" else w

    def table(self, position: Tensor, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """(cos, sin) of the angles, [T, d/2] or [B, 1, T, d/2] each.

        position: as of `forward`.
        """
        if self.axes == 1:
            position = position[..., None]
        if position.shape[-1] != self.axes or position.dim() not in (2, 3):
            raise ValueError(
                f"positions of {self.axes} numbers a token are not a tensor of "
                f"{list(position.shape[: None if self.axes > 1 else -1])}"
            )
        w = self.frequencies(position.device, dtype)
        angles = (position.to(dtype)[..., None] * w).flatten(-2)
        if angles.dim() == 3:
            angles = angles[:, None]
        return angles.cos(), angles.sin()

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        """x [B, H, T, d] -> the same, turned, in its type.

        position: integers or fractions, [T] or [B, T]; on two axes (row, column) [T, 2] or
        [B, T, 2].
        """
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        return rotate(x, *self.table(position, wide))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [B, H, T, d] turned by the angles of a table, in its type; the products in the table's."""
    first, second = x.chunk(2, -1)
    turned = torch.cat([first * cos - second * sin, second * cos + first * sin], -1)
    return turned.to(x.dtype)
