"""Adam with the infinity norm."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from genlab.registry import register
from genlab.schema import Fraction, NonNegative, Positive

__all__ = ["Adamax"]


@register
class Adamax(torch.optim.Adamax):
    """Adam whose second moment is a decaying maximum; weight decay is added to the gradient.

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
        if len(betas) != 2 or max(betas) >= 1:
            raise ValueError(
                f"betas must be two numbers in [0, 1), like [0.9, 0.999], not {betas}"
            )
        super().__init__(
            params, lr, (betas[0], betas[1]), eps=eps, weight_decay=weight_decay, foreach=True
        )
