"""Attention in float64 from a matrix of allowed pairs: independent of the code under test."""

import torch

BATCH = 3
HEADS = 4


def dense(q, k, v, mask, scale=None):
    """(softmax(s) v, log sum exp s) of q [B, Hq, Sq, D] and k, v [B, Hkv, Sk, D] in float64.

    Zeros and -inf for a query that sees no key, and no gradient from there.
    """
    q, k, v = q.double(), k.double(), v.double()
    k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))
    allowed = mask.dense()[:, None]
    s = (q.shape[3] ** -0.5 if scale is None else scale) * (q @ k.mT)
    if mask.slopes is not None:
        at_q, at_k = mask.positions()
        apart = (at_q[:, None, :, None] - at_k[:, None, None, :]).abs()
        s = s - mask.slopes.double()[:, None, None] * apart
    e = s.where(allowed, 0.0).exp() * allowed
    total = e.sum(3, keepdim=True)
    seen = total > 0
    out = e / total.where(seen, 1.0) @ v
    return out, total.where(seen, 1.0).log().where(seen, -torch.inf)[..., 0]


def drawn(mask, shared, width, dtype):
    """q, k, v and a gradient of the output, standard normal; shared: heads of k and v."""
    sizes = ((HEADS, mask.queries), *[(shared, mask.keys)] * 2, (HEADS, mask.queries))
    return [torch.randn(BATCH, h, s, width, dtype=dtype) for h, s in sizes]


def inputs(mask, *, heads=2, shared=1, width=16, batch=2, dtype=torch.float32, seed=0):
    """(q, k, v) that need gradients, of the lengths of the mask."""
    drawn = torch.Generator().manual_seed(seed)
    shapes = [
        (batch, heads, mask.queries, width),
        (batch, shared, mask.keys, width),
        (batch, shared, mask.keys, width),
    ]
    return [torch.randn(s, generator=drawn).to(dtype).requires_grad_() for s in shapes]


def all_of(attend, tensors, seed=1):
    """[out, lse, dq, dk, dv] of attend(q, k, v) -> (out, lse), for random gradients of both."""
    tensors = [t.detach().clone().requires_grad_() for t in tensors]
    out, lse = attend(*tensors)
    lse = torch.where(lse.isinf(), 0.0, lse)
    drawn = torch.Generator().manual_seed(seed)
    do, dlse = (torch.randn(t.shape, generator=drawn).to(t.dtype) for t in (out, lse))
    ((out * do).sum().double() + (lse * dlse).sum()).backward()
    return [out.detach(), lse.detach(), *(t.grad for t in tensors)]
