"""Attention over parts of the keys, put together."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["merge"]


def merge(*parts: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Results of `attention(..., lse=True)` over disjoint keys -> that over all of them.

    out = sum_i w_i out_i,  w_i = exp(lse_i - lse),  lse = log sum_i exp lse_i

    parts: (out [B, H, S, D], lse [B, H, S]), -inf where a query sees no key of a part; one that
    sees none at all gets 0, and -inf. out is in the type of the first part; differentiable.
    """
    sums = torch.stack([lse for _, lse in parts])
    # a constant, which cancels: only differences of the sums are differentiated
    most = sums.detach().amax(0)
    most = most.where(most.isfinite(), 0.0)
    weights = (sums - most).exp()
    total = weights.sum(0)
    empty = total == 0
    total = total.masked_fill(empty, 1.0)
    shares = (weights / total)[..., None]
    out = sum(share * part for share, (part, _) in zip(shares, parts, strict=True))
    assert isinstance(out, Tensor)
    lse = (most + total.log()).masked_fill(empty, float("-inf"))
    return out.to(parts[0][0].dtype), lse
