"""A test of the Triton kernel on a device, run before anything depends on it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from genlab.core.errors import DeviceError
from genlab.kernel.backend import BackendName, log_once
from genlab.kernel.dispatch import (
    BACKENDS,
    SHORT,
    attention,
    available,
    check_width,
    warn_no_dropout,
)
from genlab.kernel.mask import MaskSpec

__all__ = ["failure", "resolve_backend"]

TOLERANCE = {torch.float32: 0.01, torch.bfloat16: 0.05, torch.float16: 0.02}
"""Largest error relative to the largest value of the math backend: TF32's in float32."""


def resolve_backend(
    requested: BackendName,
    device: torch.device,
    dtype: torch.dtype,
    double_backward: bool,
    widths: Sequence[int],
    dropout: bool = False,
) -> tuple[BackendName, str]:
    """(backend of a model's layers, what that computes with, in words), of hardware.attention.

    double_backward: the model takes second derivatives. widths: of its heads. dropout: of its
    attention weights. On a GPU the Triton kernel is tested. Where it fails, "auto" falls back to
    torch's kernels with one line on stderr.

    Raises DeviceError where "triton" itself was asked for, and for a backend that is not there.
    """
    name = available(requested, device)
    if double_backward:
        log_once(
            "attention: this model takes second derivatives, which no fused kernel has, so plain "
            "is used"
        )
        return "plain", "plain"
    backend, widest = requested, BACKENDS[name].widest.get(dtype)
    if name == "triton" and device.type == "cuda" and (reason := failure(device, dtype, widths)):
        if requested == "triton":
            raise DeviceError(
                f"hardware.attention=triton does not work on this machine: {reason}; use "
                "hardware.attention=auto"
            )
        log_once(
            f"attention: Triton does not work here, so torch's own kernels are used: {reason}"
        )
        backend, name = "sdpa", "sdpa"
    words = name
    if dropout and not BACKENDS[name].dropout:
        if requested != "auto":
            warn_no_dropout(name)
        words = f"{name}, plain while weights are dropped"
    elif not all([check_width(name, width, dtype, requested) for width in widths]):
        words = f"{name}, {'plain' if dropout else 'sdpa'} for heads of more than {widest}"
    if requested == "auto" and device.type == "cpu" and dtype == torch.bfloat16:
        words += f", plain up to {SHORT} tokens"
    return backend, words


def failure(device: torch.device, dtype: torch.dtype, widths: Sequence[int]) -> str:
    """Why the Triton kernel cannot be used on a device; "" where it works forward and backward.

    For every width of a head, with shared key heads, two tiles and a bit, under the full mask and
    one by ranks. Results and gradients are compared with those of `kernel.math` in float32.
    Widths it has no tiles for are left out.
    """
    masks = MaskSpec.bidirectional(160), MaskSpec.prefix(50, 160)
    widest = BACKENDS["triton"].widest[dtype]
    cases = [(w, m) for w in widths if w <= widest for m in masks]
    here = torch.cuda.device(device) if device.type == "cuda" else nullcontext()
    try:
        with here, torch.inference_mode(False), torch.enable_grad():
            return next(filter(None, (_wrong(device, dtype, *case) for case in cases)), "")
    except Exception as e:  # compilers and drivers raise anything
        first = next(iter(str(e).strip().splitlines()), "")
        return f"{type(e).__name__}: {first}" if first else type(e).__name__


def _wrong(device: torch.device, dtype: torch.dtype, width: int, mask: MaskSpec) -> str:
    pairs = zip(
        *(_tried(backend, device, dtype, width, mask) for backend in ("triton", "plain")),
        strict=True,
    )
    for name, (found, wanted) in zip(("result", "dq", "dk", "dv"), pairs, strict=True):
        error = (found.float() - wanted).abs().max() / wanted.abs().max()
        if not error <= TOLERANCE[dtype]:  # also when it is NaN
            return f"its {name} is off by {error:.2g} of the largest value"
    return ""


def _tried(
    backend: BackendName, device: torch.device, dtype: torch.dtype, width: int, mask: MaskSpec
) -> list[Tensor]:
    """[result, dq, dk, dv] of one small attention; `kernel.math` takes the same in float32."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, heads, 160, width) for heads in (4, 2, 2)]
    rows = [torch.randn(s, generator=generator).to(device, dtype) for s in shapes]
    if backend == "plain":
        rows = [t.float() for t in rows]
    q, k, v = (t.requires_grad_() for t in rows)
    with torch.autocast(device.type, enabled=False):
        out = attention(q, k, v, mask, backend=backend)
    return [out.detach(), *torch.autograd.grad(out.float().square().sum(), (q, k, v))]
