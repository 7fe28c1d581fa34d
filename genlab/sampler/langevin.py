"""The sampler of NCSN."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise

from torch import Tensor

from genlab.contract import Noise, Process
from genlab.registry import register
from genlab.sampler.grid import Gridded
from genlab.schema import Count, Fraction, Grid, Positive

__all__ = ["Langevin"]


@register
class Langevin(Gridded):
    """Annealed Langevin dynamics: the noise level falls, and at each a chain forgets the last.

    y <- y + e s + sqrt(2 e) z,  e = rate sigma^2,  s = (x0 - y) / sigma^2,  y = x / a

    which in x is  x <- x + rate (a x0 - x) + sqrt(2 rate) b z  and has a value at a = 0 too. From
    one level to the next y stays (from a = 0, where there is noise alone, eps stays). NCSN's eps
    is rate sigma_L^2, so its 2e-5 over .01^2 is rate .2, NCSNv2's 6.2e-6 is .062, whatever the
    units of the data. The estimate of the datum at the last level ends it.

    A chain must forget faster than the levels fall, (1 - rate)^repeats: NCSNv2's are 3 % apart. A
    geometric grid, or the path `ve`, has them so. steps repeats + 1 evaluations.

    Reference: Song and Ermon 2019, arXiv 1907.05600, algorithm 1; 2020, arXiv 2006.09011, section
    3 and algorithm 1.
    """

    def __init__(
        self,
        *,
        steps: Count,
        grid: Grid | list[Positive],
        span: list[Positive] | None,
        rho: Positive,
        repeats: Count,
        rate: Fraction,
    ) -> None:
        """steps: levels; grid, span, rho: see `sampler.grid`.

        repeats: Langevin steps a level, T of the paper; rate: of a step, e / sigma^2.
        """
        self.steps, self.grid, self.span, self.rho = steps, grid, span, rho
        self.repeats, self.rate = repeats, rate

    def __call__(
        self, field: Callable[[Tensor, Tensor], Tensor], z: Tensor, process: Process, noise: Noise
    ) -> Iterator[Tensor]:
        """steps + 1 states [B, *S], from the noise to the sample."""
        path, estimate = self.levels(process), self.estimate(field, z)
        x = z * path[0].b
        for here, there in pairwise(path):
            yield x
            for _ in range(self.repeats):
                x = x.lerp(estimate(x, here) * here.a, self.rate)
                x.add_(noise.normal(*x.shape[1:]), alpha=math.sqrt(2 * self.rate) * here.b)
            if there.b:
                x = x * (there.a / here.a if here.a else there.b / here.b)
            else:
                x = estimate(x, here)
        yield x
