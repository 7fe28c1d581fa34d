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
                    and (mask.kind != "causal" or apart >= 0)
                    and (left < 0 or apart <= left)
                    and (right < 0 or -apart <= right)
                    and bool(row("valid", r, j, True))
                )
    return seen


def by_hand(q, k, v, mask, scale=None):
    """(softmax(s) v, log sum exp s) in float64, one query after the other, from the definition."""
    q, k, v = (t.double() for t in (q, k, v))
    scale = q.shape[3] ** -0.5 if scale is None else scale
    seen, (at_q, at_k) = written_out(mask), mask.positions()
    out, sums = torch.zeros_like(q), torch.full(q.shape[:3], float("-inf"), dtype=torch.float64)
    for b in range(len(q)):
        for h in range(q.shape[1]):
            shared = h // (q.shape[1] // k.shape[1])
            for i in range(q.shape[2]):
                js = seen[b % len(seen), i].nonzero()[:, 0]
                if not len(js):
                    continue
                s = scale * (k[b, shared, js] @ q[b, h, i])
                if mask.slopes is not None:
                    apart = at_q[b % len(at_q), i] - at_k[b % len(at_k), js]
                    s = s - mask.slopes[h].double() * apart.abs()
                weights = (s - s.max()).exp()
                out[b, h, i] = weights @ v[b, shared, js] / weights.sum()
                sums[b, h, i] = s.max() + weights.sum().log()
    return out, sums
