"""From tensors to kernels: shapes, strides and tiles of one call."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from genlab.kernel.triton import tuning
from genlab.kernel.triton.backward import delta as delta_kernel
from genlab.kernel.triton.backward import keys_gradient, queries_gradient
from genlab.kernel.triton.forward import forward
from genlab.kernel.triton.tuning import Config, Key

__all__ = ["Call", "attention", "gradients", "result_like"]

RANKS = 2  # the mask that is given by lists


@dataclass(frozen=True)
class Call:
    """What a call has beside q, k and v.

    side_q, side_k, lists_k, lists_q: of a mask by ranks (`mask.Sides`, `tiles.Tiles`), else None.
    block: of the lists. slopes: float32 [Hq] or None. seed: int64 [1] where there is dropout.
    """

    mask: int
    side_q: Tensor | None
    side_k: Tensor | None
    lists_k: Tensor | None
    lists_q: Tensor | None
    block: int
    segmented: bool
    left: int
    right: int
    slopes: Tensor | None
    seed: Tensor | None
    scale: float
    dropout: float

    def flags(self) -> dict[str, Any]:
        """The constants a kernel is compiled for."""
        return {
            "BLOCK": self.block,
            "MASK": self.mask,
            "SEGMENTED": self.segmented,
            "WINDOWED": min(self.left, self.right) < 2**30,
            "SLOPED": self.slopes is not None,
            "DROPOUT": self.dropout > 0,
        }

    def numbers(self) -> tuple[Any, ...]:
        """(natural scale, scale in base 2, left, right, threshold, boost)."""
        return (
            self.scale,
            self.scale * math.log2(math.e),
            self.left,
            self.right,
            int(self.dropout * 2**24),
            1 / (1 - self.dropout),
        )


def result_like(x: Tensor) -> Tensor:
    """Memory for a result [B, H, S, D] that lies as [B, S, H, D], so that heads join for free."""
    b, heads, length, width = x.shape
    return x.new_empty(b, length, heads, width).transpose(1, 2)


def attention(q: Tensor, k: Tensor, v: Tensor, call: Call) -> tuple[Tensor, Tensor]:
    """q [B, Hq, Sq, D], k, v [B, Hkv, Sk, D] -> (out like q, lse [B, Hq, Sq] float32)."""
    out, lse = result_like(q), q.new_empty(q.shape[:3], dtype=torch.float32)
    any_ = lse  # a pointer for what a kernel is not to read
    b, heads, queries, width = q.shape
    keys = k.shape[2]
    _, *numbers = call.numbers()
    if not out.numel():
        return out, lse
    if not keys:
        return out.zero_(), lse.fill_(-math.inf)

    def run(config: Config) -> None:
        tiles = triton.cdiv(queries, config.bm)
        forward[(tiles * b * heads,)](
            q, k, v, out, lse,
            _or(call.side_q, any_), _or(call.side_k, any_), _or(call.lists_k, any_),
            _or(call.slopes, any_), _or(call.seed, any_),
            *q.stride(), *k.stride(), *v.stride(), *out.stride(),
            heads, heads // k.shape[1], queries, keys, *_listed(call.lists_k), *numbers,
            **_constants(width, config), **call.flags(),
        )  # fmt: skip

    run(tuning.best("forward", _key(q, k, call), run, _describable(k, v)))
    return out, lse


def gradients(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    do: Tensor,
    dlse: Tensor | None,
    call: Call,
) -> tuple[Tensor, Tensor, Tensor]:
    """(dq, dk, dv) from the gradients of out and, unless None, of lse."""
    dq, dk, dv = result_like(q), result_like(k), result_like(v)
    b, heads, queries, width = q.shape
    keys, shared = k.shape[2], k.shape[1]
    if not dq.numel() or not keys:
        return dq.zero_(), dk.zero_(), dv.zero_()
    delta = torch.empty_like(lse)
    any_ = lse
    dlse = None if dlse is None else dlse.contiguous()
    rows = 64
    delta_kernel[(triton.cdiv(queries, rows) * b * heads,)](
        do, out, lse, _or(dlse, any_), delta, *do.stride(), *out.stride(), heads, queries,
        WIDTH=width, BLOCK_D=_power(width), BM=rows, SUMMED=dlse is not None,
    )  # fmt: skip
    given = (_or(call.side_q, any_), _or(call.side_k, any_))
    more = (_or(call.slopes, any_), _or(call.seed, any_))
    strides = (*q.stride(), *k.stride(), *v.stride(), *do.stride())
    sizes = (heads, heads // shared, queries, keys)

    def run_keys(config: Config) -> None:
        blocks = call.block if call.mask == RANKS else config.bm  # lists end with whole blocks
        keys_gradient[(triton.cdiv(keys, config.bn) * b * shared,)](
            q, k, v, do, lse, delta, dk, dv, *given, _or(call.lists_q, any_), *more,
            *strides, *dk.stride(), *dv.stride(), *sizes, *_listed(call.lists_q), *call.numbers(),
            **_constants(width, config), **call.flags(), EVEN=queries % blocks == 0,
        )  # fmt: skip

    def run_queries(config: Config) -> None:
        queries_gradient[(triton.cdiv(queries, config.bm) * b * heads,)](
            q, k, v, do, lse, delta, dq, *given, _or(call.lists_k, any_), *more,
            *strides, *dq.stride(), *sizes, *_listed(call.lists_k), *call.numbers(),
            **_constants(width, config), **call.flags(),
        )  # fmt: skip

    key = _key(q, k, call)
    run_keys(tuning.best("keys", key, run_keys, _describable(q, do)))
    run_queries(tuning.best("queries", key, run_queries, _describable(k, v)))
    return dq, dk, dv


def _constants(width: int, config: Config) -> dict[str, Any]:
    if config.descriptors:
        triton.set_allocator(_scratch)  # descriptors are made in memory of the device
    return {
        "WIDTH": width,
        "BLOCK_D": _power(width),
        "BM": config.bm,
        "BN": config.bn,
        "DESCRIPTORS": config.descriptors,
        "INTERPRETED": tuning.INTERPRETED,
        "num_warps": config.warps,
        "num_stages": config.stages,
    }


def _key(q: Tensor, k: Tensor, call: Call) -> Key:
    longest = max(q.shape[2], k.shape[2])
    flags = call.flags()
    return Key(
        str(q.dtype).removeprefix("torch."),
        _power(q.shape[3]),
        call.mask,
        min(_power(longest), 16384),
        q.shape[1] // k.shape[1],
        "+".join(f.lower() for f in tuning.FEATURES if flags[f]),
    )


def _power(n: int) -> int:
    """The power of two that n fits in, 16 at least: the smallest side of a product."""
    return max(16, triton.next_power_of_2(n))


def _listed(lists: Tensor | None) -> tuple[int, int]:
    """(numbers in a row, R) of the lists."""
    return (0, 1) if lists is None else (lists.shape[2], lists.shape[0])


def _describable(*tensors: Tensor) -> bool:
    """Whether the tensor memory accelerator can read them: rows of 16 bytes' multiples."""
    return all(
        t.is_cuda
        and torch.cuda.get_device_capability(t.device)[0] >= 9
        and t.stride(3) == 1
        and t.stride(2) >= t.shape[3]  # rows that are one row again are no matrix to it
        and t.data_ptr() % 16 == 0
        and all(s * t.element_size() % 16 == 0 for s in t.stride()[:3])
        for t in tensors
    )


def _scratch(size: int, alignment: int, stream: int | None) -> Tensor:
    return torch.empty(size, device="cuda", dtype=torch.int8)


def _or(given: Tensor | None, otherwise: Tensor) -> Tensor:
    return otherwise if given is None else given
