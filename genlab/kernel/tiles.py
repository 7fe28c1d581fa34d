"""Which tiles of the score matrix a mask leaves alive, from the bounds of its ranks alone."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from genlab.kernel.mask import MaskSpec

__all__ = ["BLOCK", "Tiles", "classify", "tiles"]

BLOCK = 128
"""Side of a tile of the lists; a kernel's own tiles divide it."""


class Tiles(NamedTuple):
    """For each block of queries the blocks of keys to visit, and the other way round.

    k: int32 [R, nQ, 2 + nK], a row (full, live, blocks...): of the blocks of keys listed, the
        first `full` are seen whole by every query of the row's block, those up to `live` in part,
        the rest by none.
    q: int32 [R, nK, 2 + nQ], the same for blocks of keys.
    block: queries, and keys, of a block.
    """

    k: Tensor
    q: Tensor
    block: int


def classify(mask: MaskSpec, block: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(full, live), bool [R, nQ, nK] each: tiles seen whole, tiles of which any pair may be seen.

    From the least and largest rank, segment and position of each block. A tile is called live
    unless its bounds rule out every pair, so none that is live is ever missed; some that are dead
    may be called live. The tile of the last, shorter block of keys is never full.
    """
    sides = mask.sides(device)
    least_q, most_q = (t[..., None] for t in _bounds(sides.q, block))  # [R, 3, nQ, 1]
    least_k, most_k = (t[:, :, None] for t in _bounds(sides.k, block))  # [R, 3, 1, nK]
    live = least_k[:, 0] <= most_q[:, 0]
    full = most_k[:, 0] <= least_q[:, 0]
    if mask.segment_q is not None:
        live &= (least_k[:, 1] <= most_q[:, 1]) & (least_q[:, 1] <= most_k[:, 1])
        full &= (least_q[:, 1] == most_k[:, 1]) & (most_q[:, 1] == least_k[:, 1])
    if mask.window != (-1, -1):
        left, right = mask.bounds()
        nearest, furthest = least_q[:, 2] - most_k[:, 2], most_q[:, 2] - least_k[:, 2]
        live &= (nearest <= left) & (furthest >= -right)
        full &= (furthest <= left) & (nearest >= -right)
    if mask.keys % block:
        full[:, :, -1] = False
    return full & live, live


def _bounds(side: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """(least, most) of each block: int32 [R, 3, S] -> int64 [R, 3, n] each."""
    rest = -side.shape[2] % block
    if rest:
        side = torch.cat([side, side[:, :, -1:].expand(-1, -1, rest)], 2)
    blocks = side.long().unflatten(2, (-1, block))
    return blocks.amin(3), blocks.amax(3)


def tiles(mask: MaskSpec, device: torch.device, block: int = BLOCK) -> Tiles:
    """The lists of a mask on a device, made once for it."""

    def make() -> Tiles:
        full, live = classify(mask, block, device)
        return Tiles(_listed(full, live), _listed(full.mT, live.mT), block)

    return mask.once(("tiles", str(device), block), make)


def _listed(full: Tensor, live: Tensor) -> Tensor:
    """bool [R, n, m] -> int32 [R, n, 2 + m]: how many are full, how many live, which in order."""
    kind = 2 - full.int() - live.int()  # 0 full, 1 in part, 2 dead
    order = kind.argsort(dim=2, stable=True)
    counts = torch.stack([full.sum(2), live.sum(2)], 2)
    return torch.cat([counts, order], 2).to(torch.int32).contiguous()
