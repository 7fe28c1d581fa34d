"""Adam with decoupled or coupled weight decay."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from genlab.core.contract import Optimizer
from genlab.core.registry import register
from genlab.core.schema import Fraction, NonNegative, Positive

__all__ = ["Adam", "AdamFamily", "AdamW"]


class AdamFamily(Optimizer):
    """The keys of Adam and its variants; the optimizer of torch is the other base class."""

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
        """betas: of both moments; ValueError unless they are two numbers in [0, 1)."""
        if len(betas) != 2 or max(betas) >= 1:
            raise ValueError(
                f"betas must be two numbers in [0, 1), like [0.9, 0.999], not {betas}"
            )
        self.clip = clip
        kernels = {"fused": True} if self.fused else {"foreach": True}
        super().__init__(params, lr, betas, eps=eps, weight_decay=weight_decay, **kernels)


@register("adamw")
class AdamW(AdamFamily, torch.optim.AdamW):
    """Adam with decoupled weight decay, fused.

    Reference: Loshchilov and Hutter 2017, arXiv 1711.05101, algorithm 2.
    """

    fused = True


@register("adam")
class Adam(AdamFamily, torch.optim.Adam):
    """Adam, fused; weight decay is added to the gradient.

    Reference: Kingma and Ba 2014, arXiv 1412.6980, algorithm 1.
    """

    fused = True
