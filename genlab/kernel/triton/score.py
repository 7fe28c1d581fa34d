"""What the forward and the backward kernels share: loads, products, masks, dropout."""

from __future__ import annotations

# Triton reads these functions as source; their "types" are tensors, pointers and constants of it.
# ruff: noqa: ANN001, ANN201
import triton
import triton.language as tl

__all__ = [
    "CAUSAL",
    "FULL",
    "RANKS",
    "dot",
    "down",
    "dropout_mask",
    "fetch",
    "keys_at",
    "masked",
    "queries_at",
]

FULL = tl.constexpr(0)
CAUSAL = tl.constexpr(1)
RANKS = tl.constexpr(2)
NEVER = tl.constexpr(2**31 - 1)
ALWAYS = tl.constexpr(-(2**31))


@triton.jit
def fetch(
    ptr,
    start,
    rows,
    row_stride,
    columns,
    column_stride,
    count,
    WIDTH: tl.constexpr,
    WHOLE: tl.constexpr,
):
    """Rows start + rows of a matrix [count, WIDTH], zeros outside; WHOLE: no row lies outside."""
    at = ptr + start.to(tl.int64) * row_stride
    at = at + rows[:, None] * row_stride + columns[None, :] * column_stride
    if WHOLE:
        if WIDTH == columns.shape[0]:
            return tl.load(at)
        return tl.load(at, mask=columns[None, :] < WIDTH, other=0.0)
    inside = (start + rows < count)[:, None] & (columns < WIDTH)[None, :]
    return tl.load(at, mask=inside, other=0.0)


@triton.jit
def dot(a, b, INTERPRETED: tl.constexpr):
    """a b in float32; Triton's interpreter multiplies the bit patterns of bfloat16."""
    if INTERPRETED:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, input_precision="tf32x3")


@triton.jit
def down(x, like, INTERPRETED: tl.constexpr):
    """float32 in the type `like`, to nearest even; the interpreter would cut bfloat16 off."""
    if INTERPRETED and like == tl.bfloat16:
        bits = x.to(tl.int32, bitcast=True)
        bits += 0x7FFF + ((bits >> 16) & 1)
        x = (bits & -65536).to(tl.float32, bitcast=True)
    return x.to(like)


@triton.jit
def queries_at(side, rows, count, offset, MASK: tl.constexpr):
    """(rank, segment, position) of queries `rows`; those beyond the last see nothing in a list."""
    if MASK == RANKS:
        inside = rows < count
        rank = tl.load(side + rows, mask=inside, other=ALWAYS)
        segment = tl.load(side + count + rows, mask=inside, other=-1)
        at = tl.load(side + 2 * count + rows, mask=inside, other=0)
    else:
        at = rows + offset
        segment = rows * 0
        if MASK == CAUSAL:
            rank = at
        else:
            rank = segment
    return rank, segment, at


@triton.jit
def keys_at(side, rows, count, MASK: tl.constexpr):
    """(rank, segment, position) of keys `rows`; those beyond the last are seen by none."""
    inside = rows < count
    if MASK == RANKS:
        rank = tl.load(side + rows, mask=inside, other=NEVER)
        segment = tl.load(side + count + rows, mask=inside, other=-2)
        at = tl.load(side + 2 * count + rows, mask=inside, other=0)
    else:
        at = rows
        segment = rows * 0
        if MASK == CAUSAL:
            rank = tl.where(inside, rows, NEVER)
        else:
            rank = tl.where(inside, segment, NEVER)
    return rank, segment, at


@triton.jit
def masked(
    s, rank_q, segment_q, at_q, rank_k, segment_k, at_k, slope, left, right,
    PARTLY: tl.constexpr, SLOPED: tl.constexpr, SEGMENTED: tl.constexpr, WINDOWED: tl.constexpr,
):  # fmt: skip
    """Scores with ALiBi, and -inf where a query does not see a key; PARTLY: some may not.

    What is known of queries and keys is shaped to broadcast against the scores.
    """
    if SLOPED:
        s -= slope * tl.abs(at_q - at_k).to(tl.float32)
    if PARTLY:
        seen = rank_k <= rank_q
        if SEGMENTED:
            seen = seen & (segment_k == segment_q)
        if WINDOWED:
            apart = at_q - at_k
            seen = seen & (apart <= left) & (apart >= -right)
        s = tl.where(seen, s, float("-inf"))
    return s


@triton.jit
def dropout_mask(seed, row, query, key, threshold):
    """Which weights stay, as `math.dropout_mask`: row is b H + head, threshold 2^24 p."""
    counter = query + key * 0
    word, _, _, _ = tl.philox(seed, key + query * 0, counter, counter * 0 + row, counter * 0)
    return (word.to(tl.uint32) >> 8).to(tl.int32) >= threshold
