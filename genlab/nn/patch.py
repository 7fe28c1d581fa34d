"""Pixels as patches, and whether a network's first map of them can lose any."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Audit", "audit", "budget", "narrow", "patchify", "unpatchify"]


def patchify(x: Tensor, patch: int) -> Tensor:
    """x [B, C, H, W] -> [B, (H/p) (W/p), p p C], a token a patch, row by row."""
    rows, columns = (side // patch for side in x.shape[2:])
    x = x.permute(0, 2, 3, 1).unflatten(2, (columns, patch)).unflatten(1, (rows, patch))
    return x.transpose(2, 3).reshape(len(x), rows * columns, -1)


def unpatchify(tokens: Tensor, patch: int, height: int, width: int) -> Tensor:
    """tokens [B, (H/p) (W/p), p p C] -> [B, C, H, W]: the inverse of `patchify`."""
    rows, columns = height // patch, width // patch
    x = tokens.view(len(tokens), rows, columns, patch, patch, -1).transpose(2, 3)
    return x.reshape(len(tokens), height, width, -1).permute(0, 3, 1, 2)


def narrow(patch: int, channels: int, width: int) -> list[str]:
    """Notes on a first map from patches to `width` numbers; none on a wide one."""
    numbers = patch**2 * channels
    if width >= numbers:
        return []
    return [
        f"a patch of {patch}x{patch} pixels has {numbers} numbers and the network reads it into "
        f"{width}: what these cannot hold is lost; a width of {numbers} or more loses nothing"
    ]


class Audit(NamedTuple):
    """How much of its input the first linear map of a network lets through.

    numbers: of what it reads; width: of what it gives; rank: of the map; condition: largest
    singular value over the least of all `numbers`, inf where some direction is lost.
    """

    numbers: int
    width: int
    rank: int
    condition: float

    @property
    def lossless(self) -> bool:
        """Whether the map is injective: no two patches become the same."""
        return self.rank == self.numbers


def audit(weight: Tensor, side: int = 16) -> Audit:
    """Of a linear map [width, p p C], or of a convolution [width, p p C, k, k] with stride 1.

    A convolution of a periodic map of `side` x `side` patches, side >= k, is a linear map at each
    frequency: rank is the least of them, condition that of the convolution as a whole.
    """
    w = weight.detach().double().cpu()
    width, numbers = w.shape[:2]
    if w.dim() == 4:
        maps = torch.fft.fft2(w, s=(side, side)).flatten(2).permute(2, 0, 1)
    else:
        maps = w[None]
    values = torch.linalg.svdvals(maps)  # [maps, min(width, numbers)]
    threshold = values.max() * max(width, numbers) * torch.finfo(weight.dtype).eps
    rank = int((values > threshold).sum(1).min())
    condition = float(values.max() / values.min()) if rank == numbers else math.inf
    return Audit(numbers, width, rank, condition)


def budget(shape: tuple[int, ...], tokens: int, bits: float = 3.0) -> tuple[float, float]:
    """(bits of an image, bits each of its tokens has to hold for nothing to be lost).

    shape: of the image, each number a byte. bits: of a byte, after the best compression; about 3
    for photographs. `tokens` of a vocabulary V hold tokens * log2 V.
    """
    whole = bits * math.prod(shape)
    return whole, whole / tokens
