"""Where a token stands: what a Transformer is told of it besides its mask."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["alibi_slopes"]


def alibi_slopes(heads: int) -> Tensor:
    """2^(-8 (h + 1) / H) for H heads, float32 [H].

    For H that is no power of two, those of the power P below it, and then every other one of 2 P.

    Reference: Press et al. 2021, arXiv 2108.12409, section 3.
    """
    below = 2 ** (heads.bit_length() - 1)

    def slopes(n: int) -> Tensor:
        return 2.0 ** (-8.0 / n * torch.arange(1, n + 1))

    return torch.cat([slopes(below), slopes(2 * below)[::2][: heads - below]])
