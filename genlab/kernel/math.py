"""Attention by matrix products and a softmax: the reference of every other backend.

Works for every type and device, at any order of differentiation, in memory of Sq x Sk.
"""

from __future__ import annotations

import torch
from torch import Tensor

from genlab.kernel.backend import Arguments

__all__ = ["attend", "dropout_mask", "philox"]

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
INCREMENTS = (0x9E3779B9, 0xBB67AE85)
WORD = 0xFFFFFFFF


def attend(q: Tensor, k: Tensor, v: Tensor, args: Arguments) -> tuple[Tensor, Tensor | None]:
    """q [B, Hq, Sq, D], k, v [B, Hkv, Sk, D] -> (out [B, Hq, Sq, D], sums [B, Hq, Sq] or None).

    out = softmax(s) v,  sums = log sum exp s (float32, float64 for it),
    s = scale q k^T + bias over the allowed keys

    A query that sees no key gets 0, and the sum -inf. Products are taken in the type of q; sums
    and softmax in float32 at least, inside.
    """
    mask = args.mask
    b, heads, queries, width = q.shape
    groups = heads // k.shape[1]
    rows = (q * args.scale).reshape(b, k.shape[1], groups * queries, width)
    s = (rows @ k.mT).view(b, heads, queries, k.shape[2])
    if (bias := mask.bias(q.device)) is not None:
        s = s + bias.to(s.dtype)
    allowed = empty = None
    if mask.kind != "full":
        allowed = mask.dense(q.device)[:, None]
        empty = ~allowed.any(3, keepdim=True)
        # an empty row is a softmax over everything, set to 0 afterwards: no NaN on the way back
        s = s.masked_fill(~(allowed | empty), float("-inf"))
    sums = None
    if args.lse:
        wide = torch.float64 if s.dtype == torch.float64 else torch.float32
        sums = torch.logsumexp(s.to(wide), 3)
        if empty is not None:
            sums = sums.masked_fill(empty[..., 0], float("-inf"))
    p = torch.softmax(s, 3)
    if empty is not None:
        p = p.masked_fill(empty, 0.0)
    if args.dropout:
        assert args.seed is not None
        stay = dropout_mask(args.seed, p.shape, args.dropout, q.device)
        p = (p * stay) / (1 - args.dropout)
    mixed = p.to(v.dtype).reshape(b, k.shape[1], groups * queries, -1) @ v
    return mixed.view(b, heads, queries, width), sums


def dropout_mask(
    seed: Tensor, shape: tuple[int, ...] | torch.Size, dropout: float, device: torch.device
) -> Tensor:
    """Which probabilities stay, bool [B, H, Sq, Sk]: a function of the seed and the place alone.

    A place stays when the upper 24 bits of its random word are at least 2^24 `dropout`. Its word
    is the first of philox at the counter (key, query, b H + head, 0).
    """
    b, heads, queries, keys = shape
    row = torch.arange(b * heads, device=device).view(b, heads, 1, 1)
    query = torch.arange(queries, device=device)[:, None]
    key = torch.arange(keys, device=device)
    word = philox(seed.to(device), key, query, row, torch.zeros_like(key))[0]
    return (word >> 8) >= int(dropout * 2**24)


def philox(seed: Tensor, *counter: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Four random words of 32 bits, as int64, at a counter of four.

    seed: int64 [1], both words of the key. Philox4x32 with ten rounds.

    Reference: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", section 3.2.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = seed & WORD, (seed >> 32) & WORD
    for _ in range(10):
        high0, low0 = _product(MULTIPLIERS[0], c0)
        high1, low1 = _product(MULTIPLIERS[1], c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + INCREMENTS[0]) & WORD, (k1 + INCREMENTS[1]) & WORD
    return c0, c1, c2, c3


def _product(a: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """(upper, lower) 32 bits of a x, in int64, whose sign leaves no room for all 64."""
    low = x & 0xFFFF
    high = x >> 16
    first = a * low
    second = a * high + (first >> 16)
    return second >> 16, ((second << 16) | (first & 0xFFFF)) & WORD
