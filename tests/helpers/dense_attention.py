"""Attention in float64 from a matrix of allowed pairs: independent of the code under test."""

import math

import torch


def masks(length, keys=None):
    """Every kind of mask by name; those for as many keys as queries only without `keys`."""
    from genlab.kernel.mask import MaskSpec
    from genlab.nn.position import alibi_slopes

    n, m = length, keys or length
    order = torch.randperm(n, generator=torch.Generator().manual_seed(n))
    some = {
        "full": MaskSpec.bidirectional(n, m),
        "causal": MaskSpec.causal(n, m),
        "window": MaskSpec.sliding_window(n, m, left=m // 5, right=2),
        "padded": MaskSpec.causal(n, m).padded(torch.arange(m) >= m // 4),
        "alibi": MaskSpec.causal(n, m).sloped(alibi_slopes(2)),
        "memory": MaskSpec.causal(n, m - m // 3).with_memory(m // 3),
    }
    if keys:
        return some
    third = n // 3
    return some | {
        "prefix": MaskSpec.prefix(third, n),
        "prefixes": MaskSpec.prefix(torch.tensor([n // 5, n // 2]), n),
        "blocks": MaskSpec.block_causal([1, third, n - 1 - third]),
        "content": MaskSpec.permuted(order),
        "query": MaskSpec.permuted(order, stream="query"),
        "both": MaskSpec.permuted(order, torch.arange(n) >= third, stream="both"),
        "packed": MaskSpec.packed([third, 1, n - third - 1], causal=True),
        "packed window": MaskSpec.packed([third, n - third], causal=False).within(n // 4, 1),
    }


def dense(q, k, v, mask):
    """(out, lse) of q [B, Hq, Sq, D] and k, v [B, Hkv, Sk, D] in float64, head by head.

    lse is 0 for queries that see no key, as out is.
    """
    q, k, v = q.double(), k.double(), v.double()
    allowed = mask.dense()
    group = q.shape[1] // k.shape[1]
    outs, sums = [], []
    at_q, at_k = mask.positions()
    for h in range(q.shape[1]):
        s = torch.einsum("bid,bjd->bij", q[:, h], k[:, h // group]) / math.sqrt(q.shape[3])
        if mask.slopes is not None:
            s = s - mask.slopes[h].double() * (at_q[..., None] - at_k[..., None, :]).abs()
        e = torch.where(allowed, s, 0.0).exp() * allowed
        total = e.sum(2, keepdim=True)
        seen = total > 0
        outs.append(torch.einsum("bij,bjd->bid", e / total.where(seen, 1.0), v[:, h // group]))
        sums.append(total.where(seen, 1.0).log()[..., 0])
    return torch.stack(outs, 1), torch.stack(sums, 1)


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
