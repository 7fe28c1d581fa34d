"""The masks that attention is timed under, and the work there is to do under them."""

import torch

from genlab.kernel.mask import MaskSpec

__all__ = ["KINDS", "WINDOW", "live", "mask", "operations"]

WINDOW = 256  # keys before its own that a query sees
ROWS = 1024  # counted at a time


def _permuted(length):
    return MaskSpec.permuted(torch.randperm(length, generator=torch.Generator().manual_seed(0)))


def _padded(length):
    return MaskSpec.causal(length).padded(torch.arange(length) < length * 7 // 8)


KINDS = {
    "full": MaskSpec.bidirectional,
    "causal": MaskSpec.causal,
    "prefix": lambda n: MaskSpec.prefix(n // 4, n),
    "permuted": _permuted,
    "window": lambda n: MaskSpec.sliding_window(n, left=WINDOW),
    "packed": lambda n: MaskSpec.packed([n // 2, n // 4, n // 8, n // 8], causal=True),
    "padded": _padded,
}
"""Length -> mask. prefix: the first quarter; packed: causal sequences of a half, a quarter and
twice an eighth; padded: causal, and the last eighth of the keys is not there."""


def mask(kind, length):
    """The mask of a kind for this many tokens."""
    return KINDS[kind](length)


def live(mask):
    """The share of all pairs that see each other; a half for a causal mask, as is the custom."""
    if mask.kind != "ranks":
        return 0.5 if mask.kind == "causal" else 1.0
    sides, seen = mask.sides(torch.device("cpu")), 0
    for at in range(0, mask.queries, ROWS):
        q = sides.q[:, :, at : at + ROWS]
        rows = MaskSpec(
            q.shape[2],
            mask.keys,
            rank_q=q[:, 0],
            rank_k=sides.k[:, 0],
            segment_q=q[:, 1],
            segment_k=sides.k[:, 1],
            position_q=q[:, 2],
            position_k=sides.k[:, 2],
            window=mask.window,
        )
        seen += int(rows.dense().sum())
    return seen / (mask.batch * mask.queries * mask.keys)


def operations(batch, heads, mask, width, backward=False):
    """Floating-point operations of the pairs that see each other: two products of them.

    4 B H Sq Sk D times `live`; on the way back two and a half times as many, which is the custom
    and counts the scores that are computed again.
    """
    forward = 4 * batch * heads * mask.queries * mask.keys * width * live(mask)
    return forward * (2.5 if backward else 1)
