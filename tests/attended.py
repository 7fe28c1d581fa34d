"""Attention as a sum over pairs in float64, and masks of every kind to try it on."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from genlab.kernel.mask import MaskSpec


def by_definition(
    q: Tensor, k: Tensor, v: Tensor, mask: MaskSpec, scale: float
) -> tuple[Tensor, Tensor]:
    """(out, log-sum-exp) in float64, one query at a time over the keys it sees."""
    q, k, v = (t.double() for t in (q, k, v))
    allowed = mask.dense().expand(len(q), -1, -1)
    at_q, at_k = (t.double().expand(len(q), -1) for t in mask.positions())
    outs, sums = [], []
    for b in range(len(q)):
        for h in range(q.shape[1]):
            g = h * k.shape[1] // q.shape[1]
            for i in range(q.shape[2]):
                seen = allowed[b, i]
                if not seen.any():
                    outs.append(torch.zeros_like(v[b, g, 0]))
                    sums.append(torch.tensor(-math.inf, dtype=torch.float64))
                    continue
                s = scale * (k[b, g, seen] * q[b, h, i]).sum(1)
                if mask.slopes is not None:
                    s = s - mask.slopes[h].double() * (at_q[b, i] - at_k[b, seen]).abs()
                total = s.exp().sum()
                outs.append((s.exp()[:, None] * v[b, g, seen]).sum(0) / total)
                sums.append(total.log())
    shape = q.shape[:3]
    return torch.stack(outs).view(*shape, -1), torch.stack(sums).view(shape)


def masks(length: int, batch: int) -> dict[str, MaskSpec]:
    """Masks of this many queries by name: every constructor, what is added to them, empty rows."""
    n, b = length, batch
    rng = torch.Generator().manual_seed(0)
    order = torch.stack([torch.randperm(n, generator=rng) for _ in range(b)])
    valid = torch.arange(n) < torch.tensor([[n - 5], [n // 3]])[:b]
    far = torch.full((1, n), 3, dtype=torch.int32)
    slopes = torch.tensor([0.5, 0.25, 0.125, 0.0])
    causal, thirds = MaskSpec.causal(n), [n // 3, n - n // 3]
    return {
        "full": MaskSpec.bidirectional(n),
        "cross": MaskSpec.bidirectional(n, n // 2),
        "causal": causal,
        "causal_long": MaskSpec.causal(n, n + 9),
        "causal_short": MaskSpec.causal(n, n - 9),
        "prefix": MaskSpec.prefix(n // 3, n),
        "prefix_batch": MaskSpec.prefix(torch.tensor([2, n - 3])[:b], n),
        "block_causal": MaskSpec.block_causal([1, 4, n - 5]),
        "content": MaskSpec.permuted(order[0]),
        "query_batch": MaskSpec.permuted(order, stream="query"),
        "two_streams": MaskSpec.permuted(order[0, : n // 2].argsort(), stream="both"),
        "window": MaskSpec.sliding_window(n, left=5, right=2),
        "window_long": MaskSpec.sliding_window(n, n + 20, left=4),
        "packed": MaskSpec.packed([*thirds, 6], causal=False),
        "packed_causal": MaskSpec.packed(thirds, [n // 2, 7], causal=True),
        "padded_batch": causal.padded(valid),
        "padded_front": causal.padded(torch.arange(n) >= n // 2),
        "memory": MaskSpec.causal(n).with_memory(3),
        "nothing": MaskSpec(n, n, far, far + 1),
        "alibi": MaskSpec.bidirectional(n).sloped(slopes),
        "alibi_causal": causal.sloped(slopes),
        "alibi_window_batch": causal.padded(valid).within(7).sloped(slopes),
    }


def drawn(
    mask: MaskSpec, batch: int, heads: int, shared: int, width: int, dtype: torch.dtype
) -> list[Tensor]:
    """q, k, v and a gradient of the output, standard normal."""
    sizes = [
        (heads, mask.queries),
        (shared, mask.keys),
        (shared, mask.keys),
        (heads, mask.queries),
    ]
    return [torch.randn(batch, h, s, width, dtype=dtype) for h, s in sizes]
