"""The nearest code of each vector, without the N x K table of scores.

    argmin_k |z - e_k|^2 = argmax_k (z . e_k - |e_k|^2 / 2)

A program keeps a tile of vectors, looks at one tile of codes after another, and of each vector
remembers the best score and its index: scores live in registers alone.

Reference: the house's own `genlab.nn.quantize.nearest`.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from candidates.narrow import INTERPRETED
from genlab.nn.quantize import nearest as plain

__all__ = ["PRODUCTS", "Config", "configs", "kernels", "nearest_code", "plain"]

Product = Literal["ieee", "tf32x3", "bf16"]
PRODUCTS: tuple[Product, ...] = ("ieee", "tf32x3", "bf16")


class Config(NamedTuple):
    """rows: vectors of a tile; codes: of one; stages: of loads in flight."""

    rows: int
    codes: int
    warps: int
    stages: int


def configs(product: Product) -> tuple[Config, ...]:
    """What fits; the first is the default."""
    found = (Config(64, 64, 4, 2), Config(128, 64, 8, 2))
    return found if product == "ieee" else (*found, Config(128, 128, 8, 2))  # it spills there


@torch.no_grad()
def nearest_code(
    z: Tensor, codes: Tensor, product: Product = "ieee", config: Config | None = None
) -> Tensor:
    """z [T, d], codes [K, d] -> int64 [T], the code at the smallest Euclidean distance of each.

    product: "ieee" is float32; "tf32x3" float32 up to its last digits, on tensor cores; "bf16"
    rounds z and codes first, and finds the nearest of the rounded ones. Sums are float32. Of codes
    with one score the lowest index wins. A vector that is not finite gets a code that exists.
    """
    config = config or configs(product)[0]
    z, codes = z.contiguous(), codes.contiguous()
    if product == "bf16":
        z, codes = z.bfloat16(), codes.bfloat16()
    else:
        z, codes = z.float(), codes.float()
    bias = codes.float().square().sum(1).mul_(-0.5)
    index = torch.empty(len(z), dtype=torch.int64, device=z.device)
    _search[(triton.cdiv(len(z), config.rows),)](
        z,
        codes,
        bias,
        index,
        len(z),
        len(codes),
        **_constants(z.shape[1], product, config),
    )
    return index


def _constants(width: int, product: Product, config: Config) -> dict[str, Any]:
    return {
        "WIDTH": width,
        "WIDE": max(16, triton.next_power_of_2(width)),
        "ROWS": config.rows,
        "CODES": config.codes,
        "PRECISION": "ieee" if product == "bf16" else product,
        "num_warps": config.warps,
        "num_stages": config.stages,
    }


@triton.jit
def _search(
    z, codes, bias, index, vectors, count,
    WIDTH: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr, CODES: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """ROWS vectors."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    d = tl.arange(0, WIDE)
    known = (row < vectors)[:, None] & (d < WIDTH)[None, :]
    at = row.to(tl.int64)[:, None] * WIDTH + d[None, :]
    tile = tl.load(z + at, mask=known, other=0.0)
    if INTERPRETED:
        tile = tile.to(tl.float32)
    tile = tl.where(tl.abs(tile) < float("inf"), tile, 0.0)  # no score is NaN because of z
    best = tl.full([ROWS], -float("inf"), tl.float32)
    chosen = tl.zeros([ROWS], tl.int32)
    for start in tl.range(0, count, CODES):
        k = start + tl.arange(0, CODES)
        there = (k < count)[None, :] & (d < WIDTH)[:, None]
        e = tl.load(codes + k[None, :] * WIDTH + d[:, None], mask=there, other=0.0)  # [d, k]
        if INTERPRETED:
            e = e.to(tl.float32)
        half = tl.load(bias + k, mask=k < count, other=-float("inf"))
        score = tl.dot(tile, e, input_precision=PRECISION) + half[None, :]
        top, place = tl.max(score, 1, return_indices=True)  # the first of equals
        better = top > best
        best = tl.where(better, top, best)
        chosen = tl.where(better, start + place, chosen)
    tl.store(index + row, chosen.to(tl.int64), mask=row < vectors)


def kernels(
    product: Product, config: Config
) -> dict[str, tuple[Any, dict[str, str], dict[str, Any]]]:
    """{name: (kernel, types, constants)} for vectors of 64 numbers, for `fit`."""
    types = dict.fromkeys(("z", "codes"), "*bf16" if product == "bf16" else "*fp32")
    types |= {"bias": "*fp32", "index": "*i64"}
    return {product: (_search, types, _constants(64, product, config))}
