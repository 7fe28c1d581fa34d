"""torch's own scaled_dot_product_attention behind the mask specification."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from genlab.kernel.backend import Arguments

__all__ = ["attend"]


def attend(q: Tensor, k: Tensor, v: Tensor, args: Arguments) -> tuple[Tensor, Tensor | None]:
    """As `math.attend`, without dropout and without the sums, which torch keeps to itself.

    A mask by ranks is written out, 1 byte a pair of tokens, or with ALiBi that of the scores.
    """
    assert not args.dropout and not args.lse, "the dispatcher gives these to another backend"
    mask = args.mask
    grouped = k.shape[1] != q.shape[1]
    allowed = None
    # torch's causal flag aligns the first query with the first key
    causal = mask.kind == "causal" and mask.queries == mask.keys and mask.slopes is None
    if not causal and mask.kind != "full":
        allowed = mask.dense(q.device)[:, None]
    if (bias := mask.bias(q.device)) is not None:
        allowed = bias if allowed is None else bias.where(allowed, float("-inf"))
        allowed = allowed.to(q.dtype)
    more = {"attn_mask": allowed, "is_causal": causal, "scale": args.scale}
    if allowed is not None and q.device.type == "cuda":
        # cuDNN, torch's first choice on newer GPUs, gives NaN slopes under a mask that is written
        # out at some lengths (pytorch issue 196678); the others share no keys between heads
        if grouped:
            k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))
        with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
            return F.scaled_dot_product_attention(q, k, v, **more), None
    return F.scaled_dot_product_attention(q, k, v, enable_gqa=grouped, **more), None
