"""The second-order ODE sampler, and its stochastic form."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from genlab.core.contract import BoundDenoiser, Noise, Process
from genlab.core.gaussian_path import NoiseLevel, noise_levels
from genlab.core.registry import register
from genlab.core.schema import NonNegative, Positive
from genlab.sampler.noise_levels import Clipped

__all__ = ["Heun"]

MOST = math.sqrt(2) - 1
"""Largest part of sigma by which churn raises it: then as much noise is new as was there."""


@register
class Heun(Clipped):
    """Heun's method on the probability-flow ODE, in the time of the path.

    x' = x + h u(x, t),  x <- x + h/2 (u(x, t) + u(x', t_next)),  h = t_next - t < 0

    The last step gives the estimate of the datum, because eps has no meaning there; that costs no
    order. Error O(1 / steps^2), 2 steps - 1 evaluations.

    churn: before a step whose sigma = b / a lies in [churn_min, churn_max] fresh noise raises it,

        gamma = min(churn / steps, sqrt 2 - 1),  sigma^ = (1 + gamma) sigma
        x^ / a^ = x / a + noise sqrt(sigma^^2 - sigma^2) z,  z ~ N(0, 1)

    and the step starts there. Nothing is raised above the loudest level of the path, and where
    a = 0 there is noise alone. With churn 0 no noise is drawn.

    Reference: Karras et al. 2022, arXiv 2206.00364, algorithms 1 and 2.
    """

    def __init__(
        self,
        *given: Any,
        churn: NonNegative,
        churn_min: NonNegative,
        churn_max: Positive | None,
        noise: Positive,
        **levels: Any,
    ) -> None:
        """churn, churn_min, churn_max (None: no limit), noise: S_churn, S_tmin, S_tmax and S_noise
        of the paper; the rest are of `Clipped`. 2 steps - 1 evaluations."""
        super().__init__(*given, **levels)
        self.churn, self.noise = churn, noise
        self.churn_min, self.churn_max = churn_min, math.inf if churn_max is None else churn_max

    def __call__(
        self, denoise: BoundDenoiser, z: Tensor, process: Process, noise: Noise
    ) -> Iterator[Tensor]:
        """steps + 1 states [B, *S], from the noise to the sample."""
        levels, denoise_at = self.noise_levels(process), self.denoise_at(denoise, z)
        x = z * levels[0].b
        yield x
        for (here, there), start in zip(
            pairwise(levels), self.raised(process, levels), strict=True
        ):
            if start is not here:
                fresh = start.a * math.sqrt(start.sigma**2 - here.sigma**2) * self.noise
                x = (x * (start.a / here.a)).add_(noise.normal(*x.shape[1:]), alpha=fresh)
            x0 = denoise_at(x, start)
            if there.b:
                h, (p, q), (p2, q2) = there.t - start.t, start.velocity, there.velocity
                euler = (x * (1 + h * p)).add_(x0, alpha=h * q)
                ahead = denoise_at(euler, there)
                # x + h/2 (p x + q x0 + p2 euler + q2 ahead), where the first half of the sum is
                # the mean of x and euler.
                x = x.lerp(euler, 0.5)
                x.add_(euler, alpha=h / 2 * p2).add_(ahead, alpha=h / 2 * q2)
            else:
                x = x0
            yield x

    def raised(self, process: Process, path: list[NoiseLevel]) -> list[NoiseLevel]:
        """Where each step starts: its level, or the one churn raises it to."""
        noisy = path[:-1]
        up = 1 + min(self.churn / len(noisy), MOST)
        last = process.sigma(torch.ones(1, dtype=torch.float64)).item()
        aims = [
            min(up * level.sigma, last)
            if level.a and self.churn_min <= level.sigma <= self.churn_max
            else level.sigma
            for level in noisy
        ]
        higher = [i for i, level in enumerate(noisy) if aims[i] > level.sigma * (1 + 1e-9)]
        times = process.time(torch.tensor([aims[i] for i in higher], dtype=torch.float64))
        for i, level in zip(higher, noise_levels(process, times.tolist()), strict=False):
            noisy[i] = level
        return noisy
