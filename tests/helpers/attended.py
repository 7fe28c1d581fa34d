"""What a backend of attention is tried on."""

from __future__ import annotations

import torch
from torch import Tensor

from genlab.kernel.mask import MaskSpec
from tests.helpers.masks import KINDS


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
