"""Stochastic gradient descent, fused."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from genlab.core.contract import Optimizer
from genlab.core.registry import register
from genlab.core.schema import Fraction, NonNegative, Positive

__all__ = ["SGD"]


@register
class SGD(Optimizer, torch.optim.SGD):
    """SGD with momentum; weight decay is added to the gradient."""

    fused = True

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        *,
        lr: NonNegative,
        momentum: Fraction,
        nesterov: bool,
        weight_decay: NonNegative,
        clip: Positive | None,
    ) -> None:
        self.clip = clip
        super().__init__(
            params, lr, momentum, weight_decay=weight_decay, nesterov=nesterov, fused=True
        )
