"""The backward pass: scores computed again, tile by tile; every sum has one writer.

With P = exp(s - lse), delta_i = sum_d do o - dlse, dP = do v^T and dS = P (dP - delta),

    dv_j = sum_i P do,  dk_j = scale sum_i dS q,  dq_i = scale sum_j dS k

A kernel per tile of keys adds up dk and dv over the queries, of all heads that share the keys; one
per tile of queries adds up dq. Scores are computed twice for it, and no sum needs atomics, whose
order would differ from run to run. A query without keys has lse = -inf, read as +inf: P = 0.

Reference: Dao 2023, arXiv 2307.08691, algorithm 2.
"""

from __future__ import annotations

# ruff: noqa: ANN001, ANN201, ANN202
import triton
import triton.language as tl

from genlab.kernel.triton.forward import span, tile_at
from genlab.kernel.triton.score import (
    CAUSAL,
    FULL,
    RANKS,
    dot,
    down,
    dropout_mask,
    fetch,
    keys_at,
    masked,
    queries_at,
)

__all__ = ["delta", "keys_gradient", "queries_gradient"]


@triton.jit
def delta(
    do_ptr, out_ptr, lse_ptr, dlse_ptr, delta_ptr,
    do_b, do_h, do_s, do_d, o_b, o_h, o_s, o_d, heads, queries,
    WIDTH: tl.constexpr, BLOCK_D: tl.constexpr, BM: tl.constexpr, SUMMED: tl.constexpr,
):  # fmt: skip
    """delta_i = sum_d do o - dlse, float32 [B, Hq, Sq]; SUMMED: dlse is given."""
    tiles = tl.cdiv(queries, BM)
    program = tl.program_id(0)
    start = program % tiles * BM
    row = program // tiles
    b = (row // heads).to(tl.int64)
    h = (row % heads).to(tl.int64)
    rows = tl.arange(0, BM)
    columns = tl.arange(0, BLOCK_D)
    do = fetch(
        do_ptr + b * do_b + h * do_h, start, rows, do_s, columns, do_d, queries, WIDTH, False
    )
    out = fetch(out_ptr + b * o_b + h * o_h, start, rows, o_s, columns, o_d, queries, WIDTH, False)
    found = tl.sum(do.to(tl.float32) * out.to(tl.float32), 1)
    at = row.to(tl.int64) * queries + start + rows
    inside = start + rows < queries
    if SUMMED:  # the sum of a query that sees nothing has no slope, whatever comes back to it
        seen = tl.load(lse_ptr + at, mask=inside, other=float("-inf")) != float("-inf")
        found -= tl.load(dlse_ptr + at, mask=inside & seen, other=0.0)
    tl.store(delta_ptr + at, found, mask=inside)


@triton.jit
def lse_at(lse_ptr, at, inside):
    """log2(e) lse of queries; +inf where a query sees nothing or is none."""
    lse = tl.load(lse_ptr + at, mask=inside, other=float("-inf"))
    return tl.where(lse == float("-inf"), float("inf"), lse * 1.4426950408889634)


@triton.jit
def keys_gradient(
    q_ptr, k_ptr, v_ptr, do_ptr, lse_ptr, delta_ptr, dk_ptr, dv_ptr,
    side_q_ptr, side_k_ptr, lists_ptr, slopes_ptr, seed_ptr,
    q_b, q_h, q_s, q_d, k_b, k_h, k_s, k_d, v_b, v_h, v_s, v_d, do_b, do_h, do_s, do_d,
    dk_b, dk_h, dk_s, dk_d, dv_b, dv_h, dv_s, dv_d,
    heads, groups, queries, keys, list_row, mask_rows,
    natural, scale, left, right, threshold, boost,
    WIDTH: tl.constexpr, BLOCK_D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    BLOCK: tl.constexpr,
    MASK: tl.constexpr, SEGMENTED: tl.constexpr, WINDOWED: tl.constexpr, SLOPED: tl.constexpr,
    DROPOUT: tl.constexpr, DESCRIPTORS: tl.constexpr, INTERPRETED: tl.constexpr,
    EVEN: tl.constexpr,
):  # fmt: skip
    """dk and dv of one tile of BN keys, over the `groups` query heads that share it.

    natural: the scale of the scores; scale: log2(e) times it. EVEN: no tile ends behind
    the last query. The rest as in `forward`.
    """
    tiles = tl.cdiv(keys, BN)
    program = tl.program_id(0)
    n = program % tiles
    shared = heads // groups
    b = (program // tiles // shared).to(tl.int64)
    h_k = (program // tiles % shared).to(tl.int64)
    offset = keys - queries
    mask_row = b % mask_rows
    side_q = side_q_ptr + mask_row * 3 * queries
    side_k = side_k_ptr + mask_row * 3 * keys
    row_list = lists_ptr + (mask_row * tl.cdiv(keys, BLOCK) + n * BN // BLOCK) * list_row

    rows = tl.arange(0, BM)
    columns = tl.arange(0, BLOCK_D)
    steps = tl.arange(0, BN)
    start_n = n * BN
    k = fetch(k_ptr + b * k_b + h_k * k_h, start_n, steps, k_s, columns, k_d, keys, WIDTH, False)
    v = fetch(v_ptr + b * v_b + h_k * v_h, start_n, steps, v_s, columns, v_d, keys, WIDTH, False)
    rank_k, segment_k, at_k = keys_at(side_k, start_n + steps, keys, MASK)
    seed = tl.load(seed_ptr) if DROPOUT else 0
    dk = tl.zeros([BN, BLOCK_D], tl.float32)
    dv = tl.zeros([BN, BLOCK_D], tl.float32)

    # tiles of queries that see all keys of this tile: [least, most); that see some: [from_, to)
    if MASK == RANKS:
        least = 0
        most = tl.load(row_list) * (BLOCK // BM)
        from_ = most
        to = tl.load(row_list + 1) * (BLOCK // BM)
    else:
        least = 0
        most = tl.cdiv(queries, BM)
        from_ = most
        to = most
        if MASK == CAUSAL:
            least = tl.minimum(tl.cdiv(tl.maximum(start_n + BN - 1 - offset, 0), BM), most)
            from_ = tl.minimum(tl.maximum(start_n - offset, 0) // BM, least)
            to = least
    for g in range(groups):
        h = h_k * groups + g
        row = (b * heads + h).to(tl.int32)
        lse_row = lse_ptr + row.to(tl.int64) * queries
        delta_row = delta_ptr + row.to(tl.int64) * queries
        q_base = q_ptr + b * q_b + h * q_h
        do_base = do_ptr + b * do_b + h * do_h
        slope = tl.load(slopes_ptr + h) * 1.4426950408889634 if SLOPED else 0.0
        if DESCRIPTORS:
            q_tiles = tl.make_tensor_descriptor(q_base, [queries, WIDTH], [q_s, 1], [BM, BLOCK_D])
            do_tiles = tl.make_tensor_descriptor(
                do_base, [queries, WIDTH], [do_s, 1], [BM, BLOCK_D]
            )
        for part in tl.static_range(1 if MASK == FULL else 2):
            first = least if part == 0 else from_
            last = most if part == 0 else to
            for t in tl.range(first, last):
                start = tile_at(row_list, t, BM, BLOCK, MASK, INTERPRETED)
                if DESCRIPTORS:
                    q = q_tiles.load([start, 0])
                else:
                    q = fetch(q_base, start, rows, q_s, columns, q_d, queries, WIDTH, EVEN)
                s = dot(k, tl.trans(q), INTERPRETED) * scale  # [BN, BM]
                if part == 1 or SLOPED:
                    rank_q, segment_q, at_q = queries_at(
                        side_q, start + rows, queries, offset, MASK
                    )
                    s = masked(
                        s, rank_q[None, :], segment_q[None, :], at_q[None, :],
                        rank_k[:, None], segment_k[:, None], at_k[:, None],
                        slope, left, right, part == 1, SLOPED, SEGMENTED, WINDOWED,
                    )  # fmt: skip
                inside = start + rows < queries
                p = tl.exp2(s - lse_at(lse_row + start, rows, inside)[None, :])
                if DESCRIPTORS:
                    do = do_tiles.load([start, 0])
                else:
                    do = fetch(do_base, start, rows, do_s, columns, do_d, queries, WIDTH, EVEN)
                dp = dot(v, tl.trans(do), INTERPRETED)
                heavy = p
                if DROPOUT:
                    stay = dropout_mask(
                        seed, row, start + rows[None, :], start_n + steps[:, None], threshold
                    )
                    heavy = tl.where(stay, p * boost, 0.0)
                    dp = tl.where(stay, dp * boost, 0.0)
                dv += dot(down(heavy, do.dtype, INTERPRETED), do, INTERPRETED)
                ds = p * (dp - tl.load(delta_row + start + rows, mask=inside, other=0.0)[None, :])
                dk += dot(down(ds, q.dtype, INTERPRETED), q, INTERPRETED)

    inside = (start_n + steps < keys)[:, None] & (columns < WIDTH)[None, :]
    at = dk_ptr + b * dk_b + h_k * dk_h + start_n.to(tl.int64) * dk_s
    at = at + steps[:, None] * dk_s + columns[None, :] * dk_d
    tl.store(at, down(dk * natural, dk_ptr.dtype.element_ty, INTERPRETED), mask=inside)
    at = dv_ptr + b * dv_b + h_k * dv_h + start_n.to(tl.int64) * dv_s
    at = at + steps[:, None] * dv_s + columns[None, :] * dv_d
    tl.store(at, down(dv, dv_ptr.dtype.element_ty, INTERPRETED), mask=inside)


@triton.jit
def queries_gradient(
    q_ptr, k_ptr, v_ptr, do_ptr, lse_ptr, delta_ptr, dq_ptr,
    side_q_ptr, side_k_ptr, lists_ptr, slopes_ptr, seed_ptr,
    q_b, q_h, q_s, q_d, k_b, k_h, k_s, k_d, v_b, v_h, v_s, v_d, do_b, do_h, do_s, do_d,
    dq_b, dq_h, dq_s, dq_d,
    heads, groups, queries, keys, list_row, mask_rows,
    natural, scale, left, right, threshold, boost,
    WIDTH: tl.constexpr, BLOCK_D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    BLOCK: tl.constexpr,
    MASK: tl.constexpr, SEGMENTED: tl.constexpr, WINDOWED: tl.constexpr, SLOPED: tl.constexpr,
    DROPOUT: tl.constexpr, DESCRIPTORS: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """dq of one tile of BM queries of one head; arguments as in `keys_gradient`."""
    tiles = tl.cdiv(queries, BM)
    program = tl.program_id(0)
    m = program % tiles
    row = program // tiles
    if MASK == CAUSAL:
        m = tiles - 1 - m
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
    do = fetch(
        do_ptr + b * do_b + h * do_h, start_m, rows, do_s, columns, do_d, queries, WIDTH, False
    )
    at = row.to(tl.int64) * queries + start_m + rows
    lse = lse_at(lse_ptr, at, start_m + rows < queries)
    delta_q = tl.load(delta_ptr + at, mask=start_m + rows < queries, other=0.0)
    rank_q, segment_q, at_q = queries_at(side_q, start_m + rows, queries, offset, MASK)
    slope = tl.load(slopes_ptr + h) * 1.4426950408889634 if SLOPED else 0.0
    seed = tl.load(seed_ptr) if DROPOUT else 0
    if DESCRIPTORS:
        k_tiles = tl.make_tensor_descriptor(k_base, [keys, WIDTH], [k_s, 1], [BN, BLOCK_D])
        v_tiles = tl.make_tensor_descriptor(v_base, [keys, WIDTH], [v_s, 1], [BN, BLOCK_D])
    dq = tl.zeros([BM, BLOCK_D], tl.float32)
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
            p = tl.exp2(s - lse[:, None])
            if DESCRIPTORS:
                v = v_tiles.load([start, 0])
            else:
                v = fetch(v_base, start, steps, v_s, columns, v_d, keys, WIDTH, part == 0)
            dp = dot(do, tl.trans(v), INTERPRETED)
            if DROPOUT:
                stay = dropout_mask(
                    seed, row, start_m + rows[:, None], start + steps[None, :], threshold
                )
                dp = tl.where(stay, dp * boost, 0.0)
            ds = p * (dp - delta_q[:, None])
            dq += dot(down(ds, k.dtype, INTERPRETED), k, INTERPRETED)

    inside = (start_m + rows < queries)[:, None] & (columns < WIDTH)[None, :]
    at = dq_ptr + b * dq_b + h * dq_h + start_m.to(tl.int64) * dq_s
    at = at + rows[:, None] * dq_s + columns[None, :] * dq_d
    tl.store(at, down(dq * natural, dq_ptr.dtype.element_ty, INTERPRETED), mask=inside)
