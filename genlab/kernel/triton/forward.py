"""The forward pass: softmax over tiles of keys, never a row of scores in memory.

For a tile of queries and one tile of keys after another, with s = log2(e) (scale q k^T + bias),

    m' = max(m, max_j s),  a = 2^(m - m'),  p = 2^(s - m'),  l = a l + sum_j p,  o = a o + p v

and at last o / l, and ln 2 (m + log2 l) for the log of the sum. Tiles that every query sees come
first and need no mask; which they are stands in lists, because a branch in the loop would keep the
compiler from loading ahead.

Reference: Milakov and Gimelshein 2018, arXiv 1805.02867 (online softmax); Dao 2023, arXiv
2307.08691, algorithm 1.
"""

from __future__ import annotations

# ruff: noqa: ANN001, ANN201, ANN202
import triton
import triton.language as tl

from genlab.kernel.triton.score import (
    CAUSAL,
    RANKS,
    dot,
    down,
    dropout_mask,
    fetch,
    keys_at,
    masked,
    queries_at,
)

__all__ = ["forward"]


@triton.jit
def span(
    row_list,
    m,
    offset,
    keys,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BLOCK: tl.constexpr,
    MASK: tl.constexpr,
):
    """(whole, live): how many tiles of keys every query of tile m sees, and how many any does."""
    if MASK == RANKS:
        whole = tl.load(row_list) * (BLOCK // BN)
        live = tl.load(row_list + 1) * (BLOCK // BN)
    else:
        live = tl.cdiv(keys, BN)
        whole = keys // BN
        if MASK == CAUSAL:
            first = m * BM + offset  # the last key that the first query sees
            live = tl.minimum(live, tl.maximum(first + BM - 1 + BN, 0) // BN)
            whole = tl.minimum(whole, tl.maximum(first + 1, 0) // BN)
    return whole, live


@triton.jit
def tile_at(
    row_list,
    t,
    BN: tl.constexpr,
    BLOCK: tl.constexpr,
    MASK: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """The first key of the t-th tile of a list; of the t-th of all where there is no list."""
    if MASK == RANKS:
        return tl.load(row_list + 2 + t // (BLOCK // BN)) * BLOCK + t % (BLOCK // BN) * BN
    if INTERPRETED:
        return t * BN
    # The compiler is not to know that this is t BN: it would keep an address for every vector that
    # a thread loads, and advance them all, which takes the registers the sums need.
    return tl.inline_asm_elementwise(
        "mov.b32 $0, $1;", "=r,r", [t * BN], dtype=tl.int32, is_pure=True, pack=1
    )


@triton.jit
def forward(
    q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr,
    side_q_ptr, side_k_ptr, lists_ptr, slopes_ptr, seed_ptr,
    q_b, q_h, q_s, q_d, k_b, k_h, k_s, k_d, v_b, v_h, v_s, v_d, o_b, o_h, o_s, o_d,
    heads, groups, queries, keys, list_row, mask_rows,
    scale, left, right, threshold, boost,
    WIDTH: tl.constexpr, BLOCK_D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    BLOCK: tl.constexpr,
    MASK: tl.constexpr, SEGMENTED: tl.constexpr, WINDOWED: tl.constexpr, SLOPED: tl.constexpr,
    DROPOUT: tl.constexpr, DESCRIPTORS: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """One tile of BM queries of one head.

    q, out [B, Hq, Sq, D], k, v [B, Hkv, Sk, D] by strides; lse [B, Hq, Sq] float32, contiguous.
    mask_rows: R; list_row: numbers in a row of the lists. scale: with log2(e) in it. threshold,
    boost: 2^24 p and 1 / (1 - p) of dropout. DESCRIPTORS: k and v by the memory accelerator.
    """
    tiles = tl.cdiv(queries, BM)
    program = tl.program_id(0)
    m = program % tiles
    row = program // tiles
    if MASK == CAUSAL:
        m = tiles - 1 - m  # the longest rows first, so that none is left over at the end
    b = (row // heads).to(tl.int64)
    h = (row % heads).to(tl.int64)
    offset = keys - queries
    mask_row = b % mask_rows
    side_q = side_q_ptr + mask_row * 3 * queries
    side_k = side_k_ptr + mask_row * 3 * keys
    row_list = lists_ptr + (mask_row * tl.cdiv(queries, BLOCK) + m * BM // BLOCK) * list_row

    rows = tl.arange(0, BM)
    columns = tl.arange(0, BLOCK_D)
    steps = tl.arange(0, BN)
    start_m = m * BM
    k_base = k_ptr + b * k_b + (h // groups) * k_h
    v_base = v_ptr + b * v_b + (h // groups) * v_h
    q = fetch(q_ptr + b * q_b + h * q_h, start_m, rows, q_s, columns, q_d, queries, WIDTH, False)
    rank_q, segment_q, at_q = queries_at(side_q, start_m + rows, queries, offset, MASK)
    slope = tl.load(slopes_ptr + h) * 1.4426950408889634 if SLOPED else 0.0
    seed = tl.load(seed_ptr) if DROPOUT else 0
    if DESCRIPTORS:
        k_tiles = tl.make_tensor_descriptor(k_base, [keys, WIDTH], [k_s, 1], [BN, BLOCK_D])
        v_tiles = tl.make_tensor_descriptor(v_base, [keys, WIDTH], [v_s, 1], [BN, BLOCK_D])

    top = tl.full([BM], float("-inf"), tl.float32)
    total = tl.zeros([BM], tl.float32)
    mixed = tl.zeros([BM, BLOCK_D], tl.float32)
    whole, live = span(row_list, m, offset, keys, BM, BN, BLOCK, MASK)
    for part in tl.static_range(2):
        first = 0 if part == 0 else whole
        last = whole if part == 0 else live
        for t in tl.range(first, last):
            start = tile_at(row_list, t, BN, BLOCK, MASK, INTERPRETED)
            if DESCRIPTORS:
                k = k_tiles.load([start, 0])
            else:
                k = fetch(k_base, start, steps, k_s, columns, k_d, keys, WIDTH, part == 0)
            s = dot(q, tl.trans(k), INTERPRETED) * scale
            if part == 1 or SLOPED:
                rank_k, segment_k, at_k = keys_at(side_k, start + steps, keys, MASK)
                s = masked(
                    s, rank_q[:, None], segment_q[:, None], at_q[:, None],
                    rank_k[None, :], segment_k[None, :], at_k[None, :],
                    slope, left, right, part == 1, SLOPED, SEGMENTED, WINDOWED,
                )  # fmt: skip
            higher = tl.maximum(top, tl.max(s, 1))
            level = higher
            if part == 1:
                level = tl.where(higher == float("-inf"), 0.0, higher)  # no key seen so far
            fade = tl.exp2(top - level)
            p = tl.exp2(s - level[:, None])
            total = total * fade + tl.sum(p, 1)
            if DROPOUT:
                p = tl.where(
                    dropout_mask(
                        seed, row, start_m + rows[:, None], start + steps[None, :], threshold
                    ),
                    p,
                    0.0,
                )
            if DESCRIPTORS:
                v = v_tiles.load([start, 0])
            else:
                v = fetch(v_base, start, steps, v_s, columns, v_d, keys, WIDTH, part == 0)
            mixed = mixed * fade[:, None] + dot(down(p, v.dtype, INTERPRETED), v, INTERPRETED)
            top = higher

    empty = total == 0.0
    total = tl.where(empty, 1.0, total)
    mixed = mixed / total[:, None]
    if DROPOUT:
        mixed = mixed * boost
    lse = tl.where(empty, float("-inf"), (top + tl.log2(total)) * 0.6931471805599453)
    inside = start_m + rows < queries
    tl.store(lse_ptr + row.to(tl.int64) * queries + start_m + rows, lse, mask=inside)
    out = out_ptr + b * o_b + h * o_h + start_m.to(tl.int64) * o_s
    out = out + rows[:, None] * o_s + columns[None, :] * o_d
    tl.store(
        out,
        down(mixed, out_ptr.dtype.element_ty, INTERPRETED),
        mask=inside[:, None] & (columns < WIDTH)[None, :],
    )
