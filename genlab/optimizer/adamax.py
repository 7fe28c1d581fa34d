"""Adam with the infinity norm."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from genlab.core.contract import Optimizer
from genlab.core.registry import register
from genlab.core.schema import Fraction, NonNegative, Positive
from genlab.optimizer.adamw import two_betas

__all__ = ["Adamax"]


@register
class Adamax(Optimizer, torch.optim.Adamax):
    """Adam with a decaying maximum of gradients for its second moment.

    Weight decay is added to the gradient.

    Reference: Kingma and Ba 2014, arXiv 1412.6980, algorithm 2.
    """

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
            params, lr, two_betas(betas), eps=eps, weight_decay=weight_decay, foreach=True
        )
