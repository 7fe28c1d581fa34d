"""float32 to bfloat16 and back where Triton's interpreter does it wrongly."""

from __future__ import annotations

import triton
import triton.language as tl

from genlab.kernel.dispatch import interpreted

__all__ = ["INTERPRETED", "narrow"]

INTERPRETED = tl.constexpr(interpreted())
"""In the interpreter casts to bf16 cut off, and products of bf16 are of bit patterns."""


@triton.jit
def narrow(x, like):
    """x float32 in the type that pointer `like` points to, to nearest even."""
    if INTERPRETED and like.dtype.element_ty == tl.bfloat16:
        bits = x.to(tl.int32, bitcast=True)
        bits += 0x7FFF + ((bits >> 16) & 1)
        x = (bits & -65536).to(tl.float32, bitcast=True)
    return x.to(like.dtype.element_ty)
