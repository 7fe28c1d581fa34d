"""Guidance by the difference between a labelled and an unlabelled estimate."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from genlab.core.contract import BoundDenoiser, Denoiser, Process
from genlab.core.registry import register
from genlab.guidance.interval import ScaledGuidance
from genlab.guidance.labelled import labelled

__all__ = ["ClassifierFree"]


@register
class ClassifierFree(ScaledGuidance):
    """Classifier-free guidance.

    x0 = x0(x, t, none) + scale (x0(x, t, y) - x0(x, t, none))

    The rule is linear, so it is the same one for eps, velocity or score. Outside the interval only
    the labelled estimate is computed, without labels nothing changes.

    Reference: Ho and Salimans 2022, arXiv 2207.12598, eq. 6, whose w is scale - 1.
    """

    def __init__(self, **keys: Any) -> None:
        super().__init__(**keys)
        self.unconditional = self.scale != 1

    def __call__(self, denoise: Denoiser, y: Tensor | None, process: Process) -> BoundDenoiser:
        """(x, t, y) -> x0 with labels y [B] (None: unconditional) bound: (x, t) -> x0."""

        plain = labelled(denoise, y, 1)
        if y is None or self.scale == 1:
            return plain
        return self.interval(labelled(denoise, y, self.scale), plain, process)
