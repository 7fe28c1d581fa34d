"""The sampler of NCSN."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

from torch import Tensor

from genlab.core.contract import BoundDenoiser, Noise, Process, Spec
from genlab.core.errors import ConfigError
from genlab.core.gaussian_path import NoiseLevel
from genlab.core.registry import register
from genlab.core.schema import Count, Fraction
from genlab.sampler.noise_levels import Gridded, grid

__all__ = ["Langevin"]

MOST = 2.0
"""Largest variance at a level, in parts of that where a chain of this rate settles."""

MANY = 2**14  # most levels or repeats that are advised


@register
class Langevin(Gridded):
    """Annealed Langevin dynamics: a Markov chain at every noise level.

    y <- y + e s + sqrt(2 e) z,  e = rate sigma^2,  s = (x0 - y) / sigma^2,  y = x / a

    which in x is  x <- x + rate (a x0 - x) + sqrt(2 rate) b z  and has a value at a = 0 too. From
    one level to the next y stays (from a = 0, where there is noise alone, eps stays). NCSN's eps
    is rate sigma_L^2, so its 2e-5 over .01^2 is rate .2, NCSNv2's 6.2e-6 is .062, whatever the
    units of the data. The estimate of the datum at the last level ends it.

    A chain must forget, (1 - rate)^(2 repeats), faster than the levels fall: NCSNv2's are 3.8 %
    apart, as a geometric grid or the path `ve` has them, and it still keeps 13 % of variance too
    much. Levels that would keep as much again as there is are refused. steps repeats + 1
    evaluations.

    Reference: Song and Ermon 2019, arXiv 1907.05600, algorithm 1; 2020, arXiv 2006.09011, section
    3 and algorithm 1.
    """

    def __init__(self, *, repeats: Count, rate: Fraction, **levels: Any) -> None:
        """repeats: Langevin steps a level, T of the paper; rate: of a step, e / sigma^2; the rest
        are of `Gridded`."""
        super().__init__(**levels)
        self.repeats, self.rate = repeats, rate

    def check(self, process: Process, spec: Spec) -> None:
        """Raises ConfigError where the levels fall faster than the chain forgets."""
        path = self.noise_levels(process)
        found = [k for k in _kept(path, self.rate, self.repeats) if k[0] > MOST]
        if not found:
            return
        kept, sigma = found[0]
        more = [
            f"sampler.repeats={r}" for r in self._least(lambda n: (path, n), self.repeats, MANY)
        ]
        if not isinstance(self.grid, list):

            def finer(n: int) -> tuple[list[NoiseLevel], int]:
                return grid(process, n, self.grid, self.span, self.rho), self.repeats

            most = process.steps or MANY
            more = [*(f"sampler.steps={n}" for n in self._least(finer, self.steps, most)), *more]
        raise ConfigError(
            f"sampler=langevin: {self.repeats} steps of rate {self.rate:g} at sigma={sigma:.3g} "
            f"leave {kept:.1f} times the noise of that level, since sigma falls too fast, and "
            f"samples would be noise; use {' or '.join(more) or 'a larger sampler.rate'}"
        )

    def _least(
        self, chain: Callable[[int], tuple[list[NoiseLevel], int]], start: int, most: int
    ) -> list[int]:
        """The least number above `start`, up to `most`, whose chain forgets, if one does."""
        numbers = range(start + 1, most + 1)

        def forgets(n: int) -> bool:
            path, repeats = chain(n)
            return all(kept <= MOST for kept, _ in _kept(path, self.rate, repeats))

        i = bisect_left(numbers, True, key=forgets)
        return [numbers[i]] if i < len(numbers) else []

    def __call__(
        self, denoise: BoundDenoiser, z: Tensor, process: Process, noise: Noise
    ) -> Iterator[Tensor]:
        """steps + 1 states [B, *S], from the noise to the sample."""
        levels, denoise_at = self.noise_levels(process), self.denoise_at(denoise, z)
        x = z * levels[0].b
        for here, there in pairwise(levels):
            yield x
            for _ in range(self.repeats):
                x = x.lerp(denoise_at(x, here) * here.a, self.rate)
                x.add_(noise.normal(*x.shape[1:]), alpha=math.sqrt(2 * self.rate) * here.b)
            if there.b:
                x = x * (there.a / here.a if here.a else there.b / here.b)
            else:
                x = denoise_at(x, here)
        yield x


def _kept(path: list[NoiseLevel], rate: float, repeats: int) -> Iterator[tuple[float, float]]:
    """Variance of noise alone after each level, in parts of where its chain settles; and sigma.

    w <- left (g^2 w - 1) + 1,  left = (1 - rate)^(2 repeats),  g the ratio of sigma to the next
    """
    kept, left = 1.0, (1 - rate) ** (2 * repeats)
    for before, here in pairwise(path[:-1]):
        fall = before.sigma / here.sigma if before.a else 1.0  # from noise alone eps stays
        kept = left * (fall**2 * kept - 1) + 1
        yield kept, here.sigma
