"""Attention for long sequences on a CPU: blocks of queries, in memory linear in length."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from genlab.kernel import math, sdpa
from genlab.kernel.backend import Arguments, log_once
from genlab.kernel.mask import MaskSpec
from genlab.kernel.tiles import BLOCK as TILE
from genlab.kernel.tiles import classify

__all__ = ["BLOCK", "Step", "attend", "part", "steps"]

BLOCK = 512
"""Queries at a time; of 128, torch's kernel takes about twice as long."""

CPU = torch.device("cpu")
FORWARD = "_scaled_dot_product_flash_attention_for_cpu"
BACKWARD = FORWARD + "_backward"


class Step(NamedTuple):
    """A block of queries, and the keys from the first to the last that any of them may see.

    kind: how they see these: "full", all of them; "causal", both ranges from their start;
        "rank_mask", by the mask of them.
    """

    rows: slice
    keys: slice
    kind: Literal["full", "causal", "rank_mask"]


@torch.compiler.disable
def attend(q: Tensor, k: Tensor, v: Tensor, args: Arguments) -> tuple[Tensor, Tensor | None]:
    """As `math.attend`, without dropout and without second derivatives, which raise.

    Beside its results it holds one number for every pair of a block of queries and the keys they
    see. Keys that no query of a block sees are passed over: a causal mask takes half the time of
    all pairs, a window what it is wide.

    Where torch's own kernel for this is absent, which is private, blocks go through the public
    function and are computed once more on the way back.
    """
    assert not args.dropout, "the dispatcher gives dropout to another backend"
    if not (hasattr(torch.ops.aten, FORWARD) and hasattr(torch.ops.aten, BACKWARD)):
        log_once(
            "attention: this torch has no CPU kernel that returns its sums, so long sequences "
            "are computed twice when training"
        )
        return _checkpointed(q, k, v, args)
    out, sums = Chunked.apply(q, k, v, args)
    return out, sums if args.lse else None


class Chunked(torch.autograd.Function):
    """out and sums of q, k, v, block by block through torch's own kernel.

    With the probabilities P and the gradients dO, dL of the output and of the sums,

    dS = P (dO v^T - delta),  delta = rowsum(dO out) - dL

    The kernel takes dO and out, and no dL. So each head gets one more number, where dO is 1, out
    is -dL and q, k and v are 0.
    """

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, args: Arguments
    ) -> tuple[Tensor, Tensor]:
        """-> (out [B, Hq, Sq, D], sums [B, Hq, Sq], which are right where they are asked for)."""
        mask = args.mask
        kernel = getattr(torch.ops.aten, FORWARD)
        b, heads, queries, width = q.shape
        wide = torch.promote_types(q.dtype, torch.float32)
        # tokens before heads, as that kernel has them: joining the heads afterwards is a view
        out = q.new_zeros(b, queries, heads, width).transpose(1, 2)
        sums = q.new_full((b, queries, heads), float("-inf"), dtype=wide).transpose(1, 2)
        for step in _native(mask):
            bias, allowed = _added(part(mask, step), q.dtype)
            here = (q[:, :, step.rows], *_shared(k, v, step.keys, heads))
            causal = step.kind == "causal"
            mixed, found = kernel(*here, 0.0, causal, attn_mask=bias, scale=args.scale)
            out[:, :, step.rows] = mixed
            if args.lse and allowed is not None:  # the kernel gives 0 where a query sees nothing
                found = found.masked_fill(~allowed.any(3), -torch.inf)
            sums[:, :, step.rows] = found
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(q, k, v, out, sums)
        ctx.mask, ctx.scale = mask, args.scale
        return out, sums

    # Not once_differentiable: that lets a second derivative be silently zero where dO has no
    # graph. The kernel refuses in every case.
    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        """(dO, dL), each None where it is not asked for -> those of q, k, v, and None."""
        kernel = getattr(torch.ops.aten, BACKWARD)
        q, k, v, out, sums = ctx.saved_tensors
        d_out, d_sums = grads
        d_out = torch.zeros_like(out) if d_out is None else d_out
        nowhere = sums == -torch.inf
        sums = sums.masked_fill(nowhere, 0.0)  # exp(-inf - 0) is 0 there, exp(-inf + inf) is not
        if d_sums is not None:
            d_sums = d_sums.masked_fill(nowhere, 0.0)[..., None].to(q.dtype)
        heads, width = q.shape[1], q.shape[3]
        dq = torch.zeros_like(q)
        dk, dv = (torch.zeros_like(t, dtype=sums.dtype) for t in (k, v))
        for step in _native(ctx.mask):
            bias, _ = _added(part(ctx.mask, step), q.dtype)
            rows = step.rows
            query, do, mixed = (t[:, :, rows] for t in (q, d_out, out))
            key, value = _shared(k, v, step.keys, heads)
            if d_sums is not None:
                query, key, value = (F.pad(t, (0, 1)) for t in (query, key, value))
                do = F.pad(do, (0, 1), value=1.0)
                mixed = torch.cat([mixed, -d_sums[:, :, rows]], 3)
            here = (do, query, key, value, mixed, sums[:, :, rows], 0.0, step.kind == "causal")
            found = kernel(*here, attn_mask=bias, scale=ctx.scale)
            dq[:, :, rows] = found[0][..., :width]
            for total, d in ((dk, found[1]), (dv, found[2])):
                total[:, :, step.keys] += d[..., :width].unflatten(1, (k.shape[1], -1)).sum(2)
        return dq, dk.to(k.dtype), dv.to(v.dtype), None


def steps(mask: MaskSpec) -> list[Step]:
    """The blocks of a mask's queries in order; a block that sees nothing has no keys.

    Made once for a mask, from its values: on the CPU, where they are at hand.
    """
    block = BLOCK
    if mask.slopes is not None:  # one bias for each head, so shorter blocks
        block = max(BLOCK // len(mask.slopes), BLOCK // 8, 1)

    def make() -> list[Step]:
        full, live = classify(mask, block, CPU, TILE)
        full, live = full.all(0), live.any(0)
        found = []
        for i in range(len(live)):
            rows = slice(i * block, min((i + 1) * block, mask.queries))
            at = live[i].nonzero()
            first, last = (int(at[0]), int(at[-1]) + 1) if len(at) else (0, 0)
            keys = slice(first * TILE, min(last * TILE, mask.keys))
            found.append(Step(rows, keys, "full" if full[i, first:last].all() else "rank_mask"))
        return found

    return mask.once(("steps", block, TILE), make)


def part(mask: MaskSpec, step: Step) -> MaskSpec:
    """The mask between the queries and the keys of a step, as a mask of its own."""
    queries, keys = (len(range(s.start, s.stop)) for s in (step.rows, step.keys))
    if step.kind != "rank_mask" and mask.slopes is None:
        return MaskSpec(queries, keys, kind=step.kind)
    sides = mask.sides(CPU)
    q, k = sides.q[:, :, step.rows], sides.k[:, :, step.keys]
    at: dict[str, Any] = {"position_q": q[:, 2], "position_k": k[:, 2], "slopes": mask.slopes}
    if step.kind == "rank_mask":
        at |= {"rank_q": q[:, 0], "rank_k": k[:, 0], "window": mask.window}
        if mask.segment_q is not None:
            at |= {"segment_q": q[:, 1], "segment_k": k[:, 1]}
    return MaskSpec(queries, keys, **at, kind=step.kind)


def _native(mask: MaskSpec) -> list[Step]:
    """The steps that torch's kernel takes: one where it knows the mask by name."""
    square = mask.queries == mask.keys  # its causal flag aligns the first query and the first key
    if mask.slopes is None and (mask.kind == "full" or (mask.kind == "causal" and square)):
        return [Step(slice(0, mask.queries), slice(0, mask.keys), mask.kind)]
    return [step for step in steps(mask) if step.keys.stop]


def _added(mask: MaskSpec, dtype: torch.dtype) -> tuple[Tensor | None, Tensor | None]:
    """(what is added to the scores, which pairs see each other), None where there is none.

    float [R, 1 or Hq, Sq, Sk] of a type that the kernel reads beside q's; bool [R, 1, Sq, Sk].
    """
    bias = mask.bias()
    if bias is not None:
        bias = bias.to(torch.promote_types(dtype, bias.dtype))
    if mask.kind != "rank_mask":
        return bias, None
    allowed = mask.dense()[:, None]
    # 1 - 1 / allowed is 0 or -inf, in a seventh of the time that masked_fill or where takes
    never = allowed.to(dtype if bias is None else bias.dtype).reciprocal_().neg_().add_(1)
    return never if bias is None else bias.add_(never), allowed


def _shared(k: Tensor, v: Tensor, keys: slice, heads: int) -> tuple[Tensor, Tensor]:
    """These keys and values [B, Hq, n, D], one head for each of the queries'."""
    groups = heads // k.shape[1]
    found = (t[:, :, keys] for t in (k, v))
    key, value = (t.repeat_interleave(groups, 1) if groups > 1 else t for t in found)
    return key, value


def _checkpointed(
    q: Tensor, k: Tensor, v: Tensor, args: Arguments
) -> tuple[Tensor, Tensor | None]:
    """As `attend`, by public functions alone."""
    one = math.attend if args.lse else sdpa.attend
    outs, sums = [], []
    for step in steps(args.mask):
        here = (q[:, :, step.rows], k[:, :, step.keys], v[:, :, step.keys])
        part_args = replace(args, mask=part(args.mask, step))
        out, found = checkpoint(
            one, *here, part_args, use_reentrant=False, preserve_rng_state=False
        )
        outs.append(out)
        sums.append(found)
    return torch.cat(outs, 2), torch.cat(sums, 2) if args.lse else None
