"""Masks to try things on: one of every kind, and any that a backend may meet."""

import torch

from genlab.kernel.mask import MaskSpec
from genlab.nn.position import alibi_slopes

KINDS = {
    "bidirectional": MaskSpec.bidirectional(37, 21),
    "causal": MaskSpec.causal(30, 45),
    "causal, more queries": MaskSpec.causal(45, 30),
    "prefix": MaskSpec.prefix(torch.tensor([0, 13, 40]), 40),
    "block-causal": MaskSpec.block_causal([1, 4, 9, 16]),
    "permuted": MaskSpec.permuted(torch.arange(40).flip(0), stream="both"),
    "window": MaskSpec.sliding_window(41, left=7, right=3),
    "packed": MaskSpec.packed([3, 17, 9, 12], causal=True),
    "memory": MaskSpec.causal(20).with_memory(9),
    "padding": MaskSpec.bidirectional(30).padded(
        torch.arange(30) < torch.tensor([[0], [9], [30]])
    ),
    "one": MaskSpec.bidirectional(1),
}
"""One of every kind, at lengths no tile divides; of batches of 1 or 3."""
SLOPES = 2.0 ** -torch.arange(1.0, 5.0)
ALL = KINDS | {f"{name}, ALiBi": mask.sloped(SLOPES) for name, mask in KINDS.items()}
"""For 4 heads."""


def _more():
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


MASKS = KINDS | _more()
"""One of every kind, and those at which a backend takes a way of its own; for 3 x 4 heads."""


def masks_of(length, keys=None):
    """Every kind of mask by name; those for as many keys as queries only without `keys`."""
    n, m = length, keys or length
    order = torch.randperm(n, generator=torch.Generator().manual_seed(n))
    some = {
        "full": MaskSpec.bidirectional(n, m),
        "causal": MaskSpec.causal(n, m),
        "window": MaskSpec.sliding_window(n, m, left=m // 5, right=2),
        "padded": MaskSpec.causal(n, m).padded(torch.arange(m) >= m // 4),
        "alibi": MaskSpec.causal(n, m).sloped(alibi_slopes(2)),
        "memory": MaskSpec.causal(n, m - m // 3).with_memory(m // 3),
    }
    if keys:
        return some
    third = n // 3
    return some | {
        "prefix": MaskSpec.prefix(third, n),
        "prefixes": MaskSpec.prefix(torch.tensor([n // 5, n // 2]), n),
        "blocks": MaskSpec.block_causal([1, third, n - 1 - third]),
        "content": MaskSpec.permuted(order),
        "query": MaskSpec.permuted(order, stream="query"),
        "both": MaskSpec.permuted(order, torch.arange(n) >= third, stream="both"),
        "packed": MaskSpec.packed([third, 1, n - third - 1], causal=True),
        "packed window": MaskSpec.packed([third, n - third], causal=False).within(n // 4, 1),
    }


def random_mask(rng, longest=50):
    """Any mask, of a batch of 1 or 3: every term with or without the others."""
    queries, keys, batch = rng.randint(1, longest), rng.randint(1, longest), rng.choice([1, 3])

    def numbers(length, least, most, ordered):
        row = torch.randint(least, most + 1, (batch, length))
        return row.sort(1).values if ordered else row

    given = {}
    for name, most, chance in (("rank", 40, 0.6), ("segment", 4, 0.4), ("position", 60, 0.3)):
        if rng.random() < chance:
            ordered = rng.random() < 0.7
            for side, length in (("q", queries), ("k", keys)):
                given[f"{name}_{side}"] = numbers(length, -1, most, ordered)
    if rng.random() < 0.4:
        given["window"] = rng.choice([-1, 0, 3, 20]), rng.choice([-1, 0, 5])
    if rng.random() < 0.3:
        given["valid"] = torch.rand(batch, keys) < rng.choice([0.1, 0.8])
    return MaskSpec(queries, keys, **given)


def written_out(mask):
    """allowed(i, j) bool [R, Sq, Sk] by loops over the definition."""

    def row(name, r, i, otherwise):
        tensor = getattr(mask, name)
        return otherwise if tensor is None else int(tensor[r % len(tensor), i])

    left, right = mask.window
    seen = torch.zeros(mask.batch, mask.queries, mask.keys, dtype=torch.bool)
    for r in range(mask.batch):
        for i in range(mask.queries):
            for j in range(mask.keys):
                apart = row("position_q", r, i, i + mask.keys - mask.queries)
                apart -= row("position_k", r, j, j)
                seen[r, i, j] = (
                    row("rank_k", r, j, 0) <= row("rank_q", r, i, 0)
                    and row("segment_k", r, j, 0) == row("segment_q", r, i, 0)
                    and (mask.kind != "causal" or apart >= 0)
                    and (left < 0 or apart <= left)
                    and (right < 0 or -apart <= right)
                    and bool(row("valid", r, j, True))
                )
    return seen
