"""Guidance by the difference between a labelled and an unlabelled estimate."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from genlab.contract import Field, Process
from genlab.registry import register
from genlab.schema import NonNegative

__all__ = ["ClassifierFree"]


@register
class ClassifierFree:
    """Classifier-free guidance.

    x0 = x0(x, t, none) + scale (x0(x, t, y) - x0(x, t, none))

    The rule is linear, so it is the same one for eps, velocity or score. With scale 1 only the
    labelled estimate is computed (bit for bit the plain conditional field), with scale 0 only the
    unlabelled one, else both in one batch of twice the size. Without labels nothing changes.

    Reference: Ho and Salimans 2022, arXiv 2207.12598, eq. 6, whose w is scale - 1.
    """

    def __init__(self, *, scale: NonNegative) -> None:
        """scale: 1 plain conditional, above 1 more of what the label asks."""
        self.scale = scale

    def __call__(
        self, field: Field, y: Tensor | None, process: Process
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """(x, t, y) -> x0 with labels y [B] (None: unconditional) bound: (x, t) -> x0."""
        if y is None or self.scale == 0:
            return lambda x, t: field(x, t, None)
        if self.scale == 1:
            return lambda x, t: field(x, t, y)
        both = torch.cat([y, torch.full_like(y, -1)])  # a label below 0 is no label

        def guided(x: Tensor, t: Tensor) -> Tensor:
            labelled, plain = field(torch.cat([x, x]), torch.cat([t, t]), both).chunk(2)
            return plain.lerp(labelled, self.scale)

        return guided
