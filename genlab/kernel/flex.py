"""torch's FlexAttention behind the mask specification: compiled on a GPU, inference on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, flex_attention

from genlab.kernel.backend import Arguments
from genlab.kernel.mask import MaskSpec
from genlab.kernel.tiles import BLOCK, tiles

__all__ = ["attend", "block_mask"]

NARROWEST = 16  # head that its kernels have tiles for

Mod = Callable[..., Tensor]


def attend(q: Tensor, k: Tensor, v: Tensor, args: Arguments) -> tuple[Tensor, Tensor | None]:
    """As `math.attend`, without dropout; on a CPU without gradients and with every score held."""
    assert not args.dropout, "the dispatcher gives dropout to another backend"
    mask = args.mask
    width = q.shape[3]
    if width < NARROWEST:
        q, k, v = (F.pad(t, (0, NARROWEST - width)) for t in (q, k, v))
    if q.device.type == "cpu":  # it refuses what requires a gradient, though none is taken
        q, k, v = (t.detach() for t in (q, k, v))
    run = flex_attention if torch.compiler.is_compiling() else _compiled(q.device.type)
    out, aux = run(
        q,
        k,
        v,
        score_mod=_sloped(mask, q.device),
        block_mask=None if mask.kind == "full" else block_mask(mask, q.device),
        scale=args.scale,
        enable_gqa=q.shape[1] != k.shape[1],
        return_aux=AuxRequest(lse=args.lse),
    )
    return out[..., :width], aux.lse


def block_mask(mask: MaskSpec, device: torch.device) -> BlockMask:
    """The mask as FlexAttention takes it, from the lists of its tiles; made once.

    A tile that FlexAttention's own search finds empty may be listed as partly seen.
    """

    def make() -> BlockMask:
        lists = tiles(mask, device, BLOCK).k
        full, live, order = lists[:, :, 0], lists[:, :, 1], lists[:, :, 2:]
        if mask.queries % BLOCK:
            # its kernels look at the ends of a sequence in tiles that are seen in part
            full = torch.cat([full[:, :-1], torch.zeros_like(full[:, -1:])], 1)
        behind = torch.arange(order.shape[2], device=device) + full[..., None]
        part = order.gather(2, behind % order.shape[2])
        return BlockMask.from_kv_blocks(
            *(t[:, None].contiguous() for t in (live - full, part, full, order)),
            BLOCK_SIZE=BLOCK,
            mask_mod=_seen(mask, device),
            seq_lengths=(mask.queries, mask.keys),
        )

    return mask.once(("flex", str(device), BLOCK), make)


@cache
def _compiled(device: str) -> Callable[..., Any]:
    """flex_attention as it runs there; uncompiled, it would be traced anew at every call."""
    return torch.compile(flex_attention, backend="eager" if device == "cpu" else "inductor")


def _seen(mask: MaskSpec, device: torch.device) -> Mod:
    """Whether query i sees key j, in tensors that are read only where the mask has them."""
    sides, apart = mask.sides(device), _apart(mask, device)
    q, k, several = sides.q, sides.k, len(sides.q) > 1
    ranked = mask.rank_q is not None or mask.valid is not None
    segmented, windowed = mask.segment_q is not None, mask.window != (-1, -1)
    causal, (left, right) = mask.kind == "causal", mask.bounds()

    def seen(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        row = b if several else 0
        if causal:
            return apart(b, i, j) >= 0
        ok = k[row, 0, j] <= q[row, 0, i] if ranked else j >= 0
        if segmented:
            ok = ok & (q[row, 1, i] == k[row, 1, j])
        if windowed:
            ok = ok & (apart(b, i, j) <= left) & (apart(b, i, j) >= -right)
        return ok

    return seen


def _sloped(mask: MaskSpec, device: torch.device) -> Mod | None:
    """ALiBi on a score; None without it."""
    if mask.slopes is None:
        return None
    slopes, apart = mask.steepness(device), _apart(mask, device)

    def sloped(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return score - slopes[h] * apart(b, i, j).abs()

    return sloped


def _apart(mask: MaskSpec, device: torch.device) -> Mod:
    """How far query i is behind key j; a number each where no positions are given."""
    sides, shift = mask.sides(device), mask.keys - mask.queries
    q, k, several = sides.q, sides.k, len(sides.q) > 1
    counted = mask.position_q is None and mask.position_k is None

    def apart(b: Tensor, i: Tensor, j: Tensor) -> Tensor:
        if counted:
            return i + shift - j
        row = b if several else 0
        return q[row, 2, i] - k[row, 2, j]

    return apart
