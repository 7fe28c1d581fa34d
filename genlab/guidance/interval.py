"""Guidance with a scale, at some noise levels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from genlab.core.contract import BoundDenoiser, Guidance, Process
from genlab.core.gaussian_path import append_dims
from genlab.core.schema import NonNegative

__all__ = ["Interval", "ScaledGuidance"]


class ScaledGuidance(Guidance):
    """Guidance that moves an estimate away from another one, at noise levels of an interval."""

    scale: float

    def __init__(self, *, scale: NonNegative, interval: list[NonNegative | None] | None) -> None:
        """scale: 1 plain, above 1 away from the other estimate; interval: [least, largest]
        sigma at which it acts."""
        self.scale, self.interval = scale, Interval(interval)


class Interval:
    """From one sigma to another; an end that is None is open.

    In sigma rather than in time, so that it means the same on every path. Guidance does most good
    at middle levels: at high ones it takes away variety, at low ones it does next to nothing.

    Reference: Kynkaanniemi et al. 2024, arXiv 2404.07724.
    """

    def __init__(self, ends: Sequence[float | None] | None) -> None:
        """ends: (least, largest) sigma, None for all of the path. Raises ValueError for others."""
        least, largest = (0.0, torch.inf) if ends is None else _two(ends)
        if not least < largest:
            raise ValueError(f"interval=[{least:g},{largest:g}] must rise: [least, largest] sigma")
        self.ends = least, largest
        self.whole = self.ends == (0.0, torch.inf)

    def __call__(
        self, inside: BoundDenoiser, outside: BoundDenoiser, process: Process
    ) -> BoundDenoiser:
        """The denoiser `inside` at the levels within, `outside` at all others, on `process`.

        Of the two only that which is needed is evaluated.
        """
        if self.whole:
            return inside
        least, largest = self.ends

        def chosen(x: Tensor, t: Tensor) -> Tensor:
            sigma = process.sigma(t)
            within = (sigma >= least) & (sigma <= largest)
            # on a GPU this waits for the network before it, and saves one evaluation or more
            first, last = within.any().item(), within.all().item()
            if first == last:
                return inside(x, t) if last else outside(x, t)
            return torch.where(append_dims(within, x), inside(x, t), outside(x, t))

        return chosen


def _two(ends: Sequence[float | None]) -> tuple[float, float]:
    if len(ends) != 2:
        raise ValueError(f"interval={list(ends)} must be two: [least, largest] sigma")
    least, largest = ends
    return 0.0 if least is None else least, torch.inf if largest is None else largest
