"""The Triton kernels as one operator of torch: what compile, export and autograd see.

Registered as a custom operator with a fake and an autograd formula of its own, so that
torch.compile, torch.export and checkpointing treat it as one node. Its backward pass is a second
operator without a formula: a second derivative raises instead of being zero. Forward-mode
differentiation would be zero through it; `dispatch` never brings it here.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from genlab.kernel.backend import Arguments, interpreted
from genlab.kernel.tiles import BLOCK, tiles
from genlab.kernel.triton import launch
from genlab.kernel.triton.launch import Call, result_like

__all__ = ["attend"]

MASKS = {"full": 0, "causal": 1, "rank_mask": 2}
LISTED = 64 if interpreted() else BLOCK  # smaller, so that small tests have several


def attend(q: Tensor, k: Tensor, v: Tensor, args: Arguments) -> tuple[Tensor, Tensor | None]:
    """As `math.attend`, in memory of the lengths alone."""
    mask, sides, lists = args.mask, None, None
    if mask.kind == "rank_mask":
        sides, lists = mask.sides(q.device), tiles(mask, q.device, LISTED)
    slopes = None if mask.slopes is None else mask.steepness(q.device)
    left, right = mask.bounds()
    out, sums = _attention(
        q,
        k,
        v,
        sides and sides.q,
        sides and sides.k,
        lists and lists.k,
        lists and lists.q,
        slopes,
        args.seed,
        MASKS[mask.kind],
        LISTED,
        mask.segment_q is not None,
        left,
        right,
        args.scale,
        args.dropout,
    )
    return out, sums if args.lse else None


@torch.library.custom_op("genlab::attention", mutates_args=())
def _attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    side_q: Tensor | None,
    side_k: Tensor | None,
    lists_k: Tensor | None,
    lists_q: Tensor | None,
    slopes: Tensor | None,
    seed: Tensor | None,
    mask: int,
    block: int,
    segmented: bool,
    left: int,
    right: int,
    scale: float,
    dropout: float,
) -> tuple[Tensor, Tensor]:
    more = (side_q, side_k, lists_k, lists_q, block, segmented, left, right, slopes, seed)
    with _on(q.device):
        return launch.attention(q, k, v, Call(mask, *more, scale, dropout))


@_attention.register_fake
def _(q: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return result_like(q), q.new_empty(q.shape[:3], dtype=torch.float32)


@torch.library.custom_op("genlab::attention_backward", mutates_args=())
def _backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    do: Tensor,
    dlse: Tensor | None,
    side_q: Tensor | None,
    side_k: Tensor | None,
    lists_k: Tensor | None,
    lists_q: Tensor | None,
    slopes: Tensor | None,
    seed: Tensor | None,
    mask: int,
    block: int,
    segmented: bool,
    left: int,
    right: int,
    scale: float,
    dropout: float,
) -> tuple[Tensor, Tensor, Tensor]:
    more = (side_q, side_k, lists_k, lists_q, block, segmented, left, right, slopes, seed)
    call = Call(mask, *more, scale, dropout)
    with _on(q.device):
        return launch.gradients(q, k, v, out, lse, do, dlse, call)


@_backward.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    return result_like(q), result_like(k), result_like(v)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, *rest = inputs
    ctx.set_materialize_grads(False)  # a gradient that nobody asked for costs nothing
    tensors, ctx.numbers = rest[:6], rest[6:]
    ctx.save_for_backward(q, k, v, *output, *tensors)


def _gradients(ctx: Any, do: Tensor | None, dlse: Tensor | None) -> tuple[Any, ...]:
    q, k, v, out, lse, *tensors = ctx.saved_tensors
    if do is None:
        do = torch.zeros_like(out)
    grads = _backward(q, k, v, out, lse, do, dlse, *tensors, *ctx.numbers)
    return (*grads, *[None] * 13)


_attention.register_autograd(_gradients, setup_context=_setup_context)


def _on(device: torch.device) -> AbstractContextManager[object]:
    """Triton launches on the current device, which need not be that of the tensors."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
