"""The one attention function: checks what it is given and chooses the backend."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from math import inf, sqrt
from typing import Literal, overload

import torch
from torch import Tensor
from torch.autograd import forward_ad

from genlab.core.errors import DeviceError
from genlab.kernel import math, sdpa
from genlab.kernel.backend import Arguments, Attend, Backend, BackendName, interpreted, log_once
from genlab.kernel.mask import MaskSpec

__all__ = ["BACKENDS", "CHOICES", "attention", "available"]

CHOICES = ("auto", "triton", "flex", "sdpa", "plain")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SHORT = 256  # tokens up to which kernel.math is quicker in bf16 on a CPU
LONG = 2048  # keys beyond which chunks of queries pay under a mask on a CPU

TRITON = find_spec("triton") is not None


# imports that take long, in functions, and not by importlib: torch.compile can follow these
def _triton() -> Attend:
    from genlab.kernel.triton.operator import attend

    return attend


def _flex() -> Attend:
    from genlab.kernel.flex import attend

    return attend


def _chunked() -> Attend:
    from genlab.kernel.chunked import attend

    return attend


BACKENDS: Mapping[str, Backend] = {
    "triton": Backend(
        _triton,
        float64=False,
        # more has no tiles that a GPU's registers hold
        widest={torch.float32: 128, torch.bfloat16: 256, torch.float16: 256},
    ),
    "flex": Backend(_flex, float64=False, dropout=False, cpu_backward=False),
    "sdpa": Backend(lambda: sdpa.attend, dropout=False, lse=False),
    "chunked": Backend(_chunked, dropout=False),
    "plain": Backend(lambda: math.attend),
}
"""Those that can be asked for by name, and "chunked", which stands in for sdpa on a CPU."""


@overload
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: MaskSpec | None = None,
    *,
    scale: float | None = None,
    dropout: float = 0.0,
    lse: Literal[False] = False,
    backend: BackendName = "auto",
    double_backward: bool = False,
) -> Tensor: ...
@overload
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: MaskSpec | None = None,
    *,
    scale: float | None = None,
    dropout: float = 0.0,
    lse: Literal[True],
    backend: BackendName = "auto",
    double_backward: bool = False,
) -> tuple[Tensor, Tensor]: ...
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: MaskSpec | None = None,
    *,
    scale: float | None = None,
    dropout: float = 0.0,
    lse: bool = False,
    backend: BackendName = "auto",
    double_backward: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """softmax(scale q k^T + bias) v over the keys a mask allows.

    q [B, Hq, Sq, D], k, v [B, Hkv, Sk, D], Hkv a divisor of Hq (query head h reads key head
    h Hkv // Hq) -> out [B, Hq, Sq, D] in the type of q, or of autocast where it is on.

    mask: None is bidirectional. scale: 1 / sqrt(D) by default. dropout: probability in [0, 1) of
    the attention weights, drawn from torch's generator of the device.
    lse: also return log sum exp of each row of scores, float32 [B, Hq, Sq], differentiable: two
    results over disjoint keys merge by it. A query that sees no key gets 0, and -inf there.
    backend: as hardware.attention. double_backward: a second derivative will be taken.

    The result is the same under every backend, up to rounding. Second derivatives and forward-mode
    differentiation are those of `kernel.math`, whichever backend is asked for: no fused kernel has
    them, and some would give zeros for them without a word.

    Raises ValueError for shapes and types that do not belong together, DeviceError for a backend
    that this device does not have, or that has nothing for these types and widths.
    """
    if q.device.type != "meta" and torch.is_autocast_enabled(q.device.type):
        dtype = torch.get_autocast_dtype(q.device.type)
        q, k, v = (t.to(dtype) if t.dtype != torch.float64 else t for t in (q, k, v))
    if mask is None:
        mask = MaskSpec.bidirectional(q.shape[-2], k.shape[-2])
    _check(q, k, v, mask, dropout, backend)
    seed = None
    if dropout:
        seed = torch.randint(2**62, (1,), dtype=torch.int64, device=q.device)
    args = Arguments(mask, 1 / sqrt(q.shape[3]) if scale is None else scale, dropout, seed, lse)
    name = _choose(q, k, v, args, backend, double_backward)
    out, sums = BACKENDS[name].load()(q, k, v, args)
    if lse:
        assert sums is not None
        return out, sums
    return out


def available(backend: BackendName, device: torch.device) -> str:
    """The backend that runs on a device when this one is asked for: its name, never "auto".

    Raises DeviceError where it is not there.
    """
    cuda = device.type == "cuda"
    if backend == "auto":
        if cuda and not TRITON:
            log_once("attention: Triton is not installed, so torch's own kernels are used")
        return "triton" if cuda and TRITON else "sdpa"
    if backend == "triton":
        if not TRITON:
            raise DeviceError(
                "hardware.attention=triton, but Triton is not installed; install it or use "
                "hardware.attention=auto"
            )
        if not cuda and not interpreted():
            raise DeviceError(
                f"hardware.attention=triton needs a GPU, and the device is {device.type}; use "
                "hardware.attention=auto"
            )
    return backend


def check_backward(name: str, device: torch.device) -> None:
    """Raises DeviceError where a backend has no backward pass."""
    if name in BACKENDS and device.type == "cpu" and not BACKENDS[name].cpu_backward:
        raise DeviceError(
            f"hardware.attention={name} cannot train on a CPU: torch's FlexAttention has no "
            "backward pass there; use hardware.attention=auto"
        )


def check_width(name: str, width: int, dtype: torch.dtype, backend: BackendName) -> bool:
    """Whether a backend has tiles for heads of this width; one line on stderr where it has not.

    Raises DeviceError where it has not and was asked for by name.
    """
    widest = BACKENDS[name].widest.get(dtype, inf)
    if width <= widest:
        return True
    heads = f"heads of {width} numbers in {dtype}"
    if backend == name:
        raise DeviceError(
            f"hardware.attention={name} has no tiles for {heads}, {widest} are the "
            "most; use more heads or hardware.attention=sdpa"
        )
    log_once(f"attention: {name} has no tiles for {heads}, so sdpa is used")
    return False


def warn_no_dropout(name: str) -> None:
    """One line on stderr: another backend drops the weights."""
    log_once(f"attention: {name} has no dropout here, so plain is used")


def _choose(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    args: Arguments,
    backend: BackendName,
    double_backward: bool,
) -> str:
    """The name in BACKENDS of what computes this.

    Raises DeviceError where a backend asked for by name cannot.
    """
    auto, mask = backend == "auto", args.mask
    if double_backward or _transformed():
        if backend not in ("auto", "plain"):
            log_once(
                f"attention: {backend} has no second and no forward-mode derivatives, so plain is "
                "used where they are taken"
            )
        return "plain"
    if not auto and q.dtype == torch.float64 and not BACKENDS[backend].float64:
        raise DeviceError(
            f"hardware.attention={backend} computes float32, bfloat16 and float16, not float64; "
            "use hardware.attention=plain"
        )
    name = available(backend, q.device)
    cpu = q.device.type == "cpu"
    if auto:
        if q.dtype == torch.float64 or q.device.type not in ("cpu", "cuda"):
            name = "plain"
        elif cpu and q.dtype == torch.bfloat16 and mask.kind == "full" and q.shape[2] <= SHORT:
            name = "plain"  # the backward pass of torch's kernel takes 2 to 7 times as long there
    if not check_width(name, q.shape[3], q.dtype, backend):
        name = "sdpa"
    if torch.is_grad_enabled() and any(t.requires_grad for t in (q, k, v)):
        check_backward(name, q.device)
    if args.dropout and not BACKENDS[name].dropout:
        if not auto:
            warn_no_dropout(name)
        return "plain"
    if name == "sdpa" and cpu and k.shape[2] > LONG:
        square = mask.kind == "causal" and mask.queries == mask.keys
        by_flag = (square or mask.kind == "full") and mask.slopes is None  # no mask in memory
        if args.lse or not by_flag:
            return "chunked"
    return name if BACKENDS[name].lse or not args.lse else "plain"


def _transformed() -> bool:
    """True under forward-mode differentiation, and under the transforms of torch.func in eager.

    A custom operator is blind to the first: through it a tangent is zero, without an error. The
    others it refuses, as it does inside torch.compile, where there is always an interpreter.
    """
    if forward_ad._current_level >= 0:  # type: ignore[attr-defined]
        return True
    if torch.compiler.is_compiling():
        return False
    return torch._C._functorch.peek_interpreter_stack() is not None


def _check(q: Tensor, k: Tensor, v: Tensor, mask: MaskSpec, dropout: float, backend: str) -> None:
    if backend not in CHOICES:
        raise ValueError(f"attention is computed by {', '.join(CHOICES)}, not by {backend!r}")
    if not isinstance(mask, MaskSpec):
        raise ValueError(f"a mask is a MaskSpec, not a {type(mask).__name__}")
    for name, t in (("q", q), ("k", k), ("v", v)):
        if t.dim() != 4:
            raise ValueError(
                f"attention takes {name} of [batch, heads, tokens, width], not {list(t.shape)}"
            )
    if k.shape != v.shape:
        raise ValueError(
            f"attention takes k and v of one shape, not {list(k.shape)} and {list(v.shape)}"
        )
    if len(q) != len(k) or q.shape[3] != k.shape[3]:
        raise ValueError(
            f"q {list(q.shape)} and k {list(k.shape)} differ in batch or width of a head"
        )
    if not (q.shape[1] and k.shape[1] and q.shape[3]):
        raise ValueError(f"q {list(q.shape)} and k {list(k.shape)} have no heads or no width")
    if q.shape[1] % k.shape[1]:
        raise ValueError(
            f"{q.shape[1]} query heads cannot share {k.shape[1]} key heads evenly; "
            "use a divisor of them"
        )
    if not q.dtype == k.dtype == v.dtype:
        raise ValueError(f"q, k and v are {q.dtype}, {k.dtype} and {v.dtype}; give them one type")
    if q.dtype not in (*DTYPES, torch.float64):
        raise ValueError(f"attention computes floating-point numbers, not {q.dtype}")
    if not q.device == k.device == v.device:
        raise ValueError(
            f"q, k and v lie on {q.device}, {k.device} and {v.device}; move them to one device"
        )
    if (mask.queries, mask.keys) != (q.shape[2], k.shape[2]):
        raise ValueError(
            f"the mask is for {mask.queries} queries and {mask.keys} keys, and q and k have "
            f"{q.shape[2]} and {k.shape[2]}"
        )
    if mask.batch not in (1, len(q)):
        raise ValueError(f"the mask is for a batch of {mask.batch}, and q has {len(q)}")
    if mask.slopes is not None and len(mask.slopes) != q.shape[1]:
        raise ValueError(f"the mask has {len(mask.slopes)} ALiBi slopes for {q.shape[1]} heads")
    if not 0 <= dropout < 1:
        raise ValueError(f"attention dropout is in [0, 1), not {dropout}")
