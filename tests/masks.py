"""Masks to try things on: one of every kind, and any that a backend may meet."""

import torch

from genlab.kernel.mask import MaskSpec

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
                    and (left < 0 or apart <= left)
                    and (right < 0 or -apart <= right)
                    and bool(row("valid", r, j, True))
                )
    return seen
