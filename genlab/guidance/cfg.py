"""Guidance by the difference between a labelled and an unlabelled estimate."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from genlab.contract import Field, Process
from genlab.guidance.interval import Interval
from genlab.registry import register
from genlab.schema import NonNegative

__all__ = ["ClassifierFree"]


@register
class ClassifierFree:
    """Classifier-free guidance.

    x0 = x0(x, t, none) + scale (x0(x, t, y) - x0(x, t, none))

    The rule is linear, so it is the same one for eps, velocity or score. With scale 1, and outside
    the interval, only the labelled estimate is computed (bit for bit the plain conditional field),
    with scale 0 only the unlabelled one, else both in one batch of twice the size. Without labels
    nothing changes.

    Reference: Ho and Salimans 2022, arXiv 2207.12598, eq. 6, whose w is scale - 1.
    """

    def __init__(self, *, scale: NonNegative, interval: list[NonNegative | None] | None) -> None:
        """scale: 1 plain conditional, above 1 more of what the label asks; interval: of sigma."""
        self.scale, self.interval = scale, Interval(interval)

    @property
    def unlabelled(self) -> bool:
        """Whether it asks for estimates without a label, which label dropout teaches."""
        return self.scale != 1

    def __call__(
        self, field: Field, y: Tensor | None, process: Process
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """(x, t, y) -> x0 with labels y [B] (None: unconditional) bound: (x, t) -> x0."""

        def plain(x: Tensor, t: Tensor) -> Tensor:
            return field(x, t, y)

        if y is None or self.scale == 1:
            return plain
        if self.scale == 0:
            return self.interval(lambda x, t: field(x, t, None), plain, process)
        both = torch.cat([y, torch.full_like(y, -1)])  # a label below 0 is no label

        def guided(x: Tensor, t: Tensor) -> Tensor:
            labelled, none = field(torch.cat([x, x]), torch.cat([t, t]), both).chunk(2)
            return none.lerp(labelled, self.scale)

        return self.interval(guided, plain, process)
