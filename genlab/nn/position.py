"""Embeddings of the positions of tokens, and the slopes of ALiBi."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["LearnedPositions", "alibi_slopes", "grid", "sincos"]


class LearnedPositions(nn.Module):
    """A vector for each place, found in training, added to the token there.

    Starts with a deviation of 0.02, as in Dosovitskiy et al. 2020, arXiv 2010.11929.
    """

    def __init__(self, tokens: int, width: int) -> None:
        """tokens: how many places there are; width: C of the tokens."""
        super().__init__()
        self.table = nn.Parameter(torch.empty(tokens, width))
        nn.init.trunc_normal_(self.table, std=0.02)

    def forward(self, h: Tensor, at: Tensor) -> Tensor:
        """h [B, T, C] at places [T] or [B, T] -> h plus the embedding of its places."""
        return h + F.embedding(at, self.table).to(h.dtype)


def sincos(places: Tensor, width: int) -> Tensor:
    """Sines and cosines of places in a space of n axes, at geometric frequencies.

    For each axis [sin(p w_i), cos(p w_i)],  w_i = 10000^(-i / m),  i = 0 .. m - 1,
    m = width / (2 n)

    places [T, n] -> [T, width] float32. Raises ValueError for a width that is no multiple of 2 n.

    Reference: Vaswani et al. 2017, arXiv 1706.03762, section 3.5; an axis after the other: Peebles
    and Xie 2023, arXiv 2212.09748.
    """
    axes = places.shape[1]
    if width % (2 * axes):
        raise ValueError(
            f"sines and cosines of {axes} axes need a width that is a multiple of {2 * axes}, "
            f"not {width}"
        )
    pairs = width // (2 * axes)
    powers = torch.arange(pairs, device=places.device, dtype=torch.float64) / pairs
    angles = places.double()[..., None] * torch.exp(-math.log(10000) * powers)
    return torch.cat([angles.sin(), angles.cos()], 2).flatten(1).float()


def grid(height: int, width: int) -> Tensor:
    """(row, column) of every place of a plane, row by row, int64 [height width, 2]."""
    return torch.cartesian_prod(torch.arange(height), torch.arange(width))


def alibi_slopes(heads: int) -> Tensor:
    """2^(-8 (h + 1) / H) for H heads, float32 [H].

    For H that is no power of two, those of the power P below it, and then every other one of 2 P.

    Reference: Press et al. 2021, arXiv 2108.12409, section 3.
    """
    below = 2 ** (heads.bit_length() - 1)

    def slopes(n: int) -> Tensor:
        return 2.0 ** (-8.0 / n * torch.arange(1, n + 1))

    return torch.cat([slopes(below), slopes(2 * below)[::2][: heads - below]])
