"""Adam with decoupled or coupled weight decay, fused."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from genlab.core.contract import Optimizer
from genlab.core.registry import register
from genlab.core.schema import Fraction, NonNegative, Positive

__all__ = ["Adam", "AdamW", "two_betas"]


@register("adamw")
class AdamW(Optimizer, torch.optim.AdamW):
    """Adam with decoupled weight decay.

    Reference: Loshchilov and Hutter 2017, arXiv 1711.05101, algorithm 2.
    """

    fused = True

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        *,
        lr: NonNegative,
        betas: tuple[Fraction, ...],
        eps: Positive,
        weight_decay: NonNegative,
        clip: Positive | None,
    ) -> None:
        self.clip = clip
        super().__init__(
            params, lr, two_betas(betas), eps=eps, weight_decay=weight_decay, fused=True
        )


@register("adam")
class Adam(Optimizer, torch.optim.Adam):
    """Adam; weight decay is added to the gradient.

    Reference: Kingma and Ba 2014, arXiv 1412.6980, algorithm 1.
    """

    fused = True

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        *,
        lr: NonNegative,
        betas: tuple[Fraction, ...],
        eps: Positive,
        weight_decay: NonNegative,
        clip: Positive | None,
    ) -> None:
        self.clip = clip
        super().__init__(
            params, lr, two_betas(betas), eps=eps, weight_decay=weight_decay, fused=True
        )


def two_betas(betas: tuple[float, ...]) -> tuple[float, float]:
    """The decay of both moments; ValueError unless there are two numbers in [0, 1)."""
    if len(betas) != 2 or max(betas) >= 1:
        raise ValueError(f"betas must be two numbers in [0, 1), like [0.9, 0.999], not {betas}")
    return betas[0], betas[1]
