"""Attention by its definition in float64, and what to try it on."""

from __future__ import annotations

import math

import torch
from masks import KINDS
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


def _more() -> dict[str, MaskSpec]:
    n = 37
    valid = torch.arange(n) < torch.tensor([[n - 5], [n // 3], [n]])
    order = torch.tensor([[(i * step) % n for i in range(n)] for step in (5, 11, 36)])
    slopes = torch.tensor([0.5, 0.25, 0.125, 0.0])
    causal, far = MaskSpec.causal(n), torch.full((1, n), 3, dtype=torch.int32)
    return {
        "full": MaskSpec.bidirectional(n),
        "causal, square": causal,
        "query stream": MaskSpec.permuted(order, stream="query"),
        "packed, bidirectional": MaskSpec.packed([12, 25, 6], causal=False),
        "padding in front": causal.padded(torch.arange(n) >= n // 2),
        "nothing": MaskSpec(n, n, far, far + 1),
        "alibi": MaskSpec.bidirectional(n).sloped(slopes),
        "alibi, causal": causal.sloped(slopes),
        "alibi, window": causal.padded(valid).within(7).sloped(slopes),
    }


BATCH = 3
HEADS = 4

MASKS = KINDS | _more()
"""One of every kind, and those at which a backend takes a way of its own; for 3 x 4 heads."""


def drawn(mask: MaskSpec, shared: int, width: int, dtype: torch.dtype) -> list[Tensor]:
    """q, k, v and a gradient of the output, standard normal; shared: heads of k and v."""
    sizes = [
        (HEADS, mask.queries),
        (shared, mask.keys),
        (shared, mask.keys),
        (HEADS, mask.queries),
    ]
    return [torch.randn(BATCH, h, s, width, dtype=dtype) for h, s in sizes]
