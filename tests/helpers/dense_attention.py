"""Attention in float64 from a matrix of allowed pairs: independent of the code under test."""

import torch


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


def tokens(mask, *, heads=4, shared=None, width=8, batch=None, dtype=torch.float32):
    """q [B, heads, Sq, D], k, v [B, shared, Sk, D], standard normal; B is the mask's or 2."""
    batch = batch or (mask.batch if mask.batch > 1 else 2)
    of_keys = (shared or heads, mask.keys)
    return [
        torch.randn(batch, h, n, width).to(dtype)
        for h, n in ((heads, mask.queries), of_keys, of_keys)
    ]


def inputs(mask, **shape):
    """The same at every call, which need gradients: of two heads of 16 that share their keys."""
    torch.manual_seed(0)
    given = tokens(mask, **{"heads": 2, "shared": 1, "width": 16, "batch": 2} | shape)
    return [t.requires_grad_() for t in given]


def all_of(attend, tensors, backward=True):
    """[out, lse, dq, dk, dv] of attend(q, k, v) -> (out, lse), for random gradients of both.

    Without lse where it is None or there is none.
    """
    tensors = [t.detach().clone().requires_grad_(backward) for t in tensors]
    results = [t for t in attend(*tensors) if t is not None]
    finite = [t.where(t.isfinite(), 0.0) for t in results]
    if not backward:
        return finite
    drawn = torch.Generator().manual_seed(1)
    slopes = [torch.randn(t.shape, generator=drawn).to(t.dtype) for t in finite]
    return [*(t.detach() for t in finite), *torch.autograd.grad(finite, tensors, slopes)]


def assert_right(attend, mask, *, scale=None, dtype=torch.float32, backward=True, near=1e-5):
    """attend(q, k, v, lse) -> (out, lse or None) and its slopes are the definition's.

    With and without the sums, and of heads that share keys.
    """
    for shared, lse in ((4, False), (2, True), (1, False)):
        given = tokens(mask, shared=shared, dtype=dtype)
        found = all_of(lambda *t, lse=lse: attend(*t, lse), given, backward)
        wide = [t.double() for t in given]
        wanted = all_of(lambda *t, n=1 + lse: dense(*t, mask, scale)[:n], wide, backward)
        for mine, theirs in zip(found, wanted, strict=True):
            torch.testing.assert_close(mine.double(), theirs, rtol=near, atol=near)
