"""What a backend of attention is: a function of one signature, and what it can compute."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from genlab.core import console, dist
from genlab.kernel.mask import MaskSpec

__all__ = ["Arguments", "Attend", "Backend", "BackendName", "interpreted", "log_once"]

BackendName = Literal["auto", "triton", "flex", "sdpa", "plain"]
"""The values of hardware.attention; "plain" is `kernel.math`."""


@dataclass(frozen=True)
class Arguments:
    """What attention is given beside q, k and v.

    scale: of the scores. dropout: probability in [0, 1) of each attention weight, with seed, int64
    [1], from which `math.dropout_mask` draws. lse: return log sum exp of each row of scores, too.
    """

    mask: MaskSpec
    scale: float
    dropout: float = 0.0
    seed: Tensor | None = None
    lse: bool = False


Attend = Callable[[Tensor, Tensor, Tensor, Arguments], tuple[Tensor, Tensor | None]]
"""q [B, Hq, Sq, D], k, v [B, Hkv, Sk, D] -> (out [B, Hq, Sq, D], lse [B, Hq, Sq] or None)."""


@dataclass(frozen=True)
class Backend:
    """One way to compute attention.

    load: imports its function; some take a second to import. float64, dropout, lse: whether it has
    them. cpu_backward: whether it has gradients on a CPU. widest: head of each type up to which it
    computes, where there is a limit. Only `kernel.math` has second and forward-mode derivatives.
    """

    load: Callable[[], Attend]
    float64: bool = True
    dropout: bool = True
    lse: bool = True
    cpu_backward: bool = True
    widest: Mapping[torch.dtype, int] = field(default_factory=dict)


def interpreted() -> bool:
    """True when Triton kernels run as Python, on any device: TRITON_INTERPRET=1."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def log_once(line: str) -> None:
    """A line on stderr, the first time; on rank 0 alone, and not while torch.compile traces."""
    if not torch.compiler.is_compiling() and dist.rank() == 0:
        console.log_once(line)
