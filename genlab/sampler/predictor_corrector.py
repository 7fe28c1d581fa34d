"""The sampler of score SDEs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Literal

from torch import Tensor

from genlab.core.contract import BoundDenoiser, Noise, Process
from genlab.core.gaussian_path import NoiseLevel, append_dims
from genlab.core.registry import register
from genlab.core.schema import Natural, NonNegative
from genlab.sampler.noise_levels import Gridded

__all__ = ["PredictorCorrector"]


@register
class PredictorCorrector(Gridded):
    """Langevin steps at every level, then an ancestral step to the next.

    corrector  x <- x + e s + sqrt(2 e) z,  e = 2 alpha (snr |z| / |s|)^2,  s = (a x0 - x) / b^2
    predictor  x_s ~ q(x_s | x_t, x0)

    alpha = a_t^2 / a_s^2 of the step that follows: 1 where variance explodes, 1 - beta where it is
    preserved; where a = 0 noise is right as it is, and stays. The predictor with the large
    variance is the reverse diffusion of the variance-exploding SDE, and to first order in the step
    that of any other.

    The norms are of one sample each and not means over the batch, so that an image depends on no
    other. They must be over many numbers for the corrector to leave p(x_t) as it is: this sampler
    is for images, not for points of the plane.

    (corrections + 1) steps evaluations.

    Reference: Song et al. 2020, arXiv 2011.13456, algorithms 2 to 5, appendix G.
    """

    def __init__(
        self,
        *,
        variance: Literal["small", "large"],
        corrections: Natural,
        snr: NonNegative,
        **levels: Any,
    ) -> None:
        """variance: of the predictor, see
        `gaussian_path.Step`; corrections: Langevin steps a level; snr: of the signal to the noise
        in one; the rest are of `Gridded`."""
        super().__init__(**levels)
        self.variance: Literal["small", "large"] = variance
        self.corrections, self.snr = corrections, snr

    def __call__(
        self, denoise: BoundDenoiser, z: Tensor, process: Process, noise: Noise
    ) -> Iterator[Tensor]:
        """steps + 1 states [B, *S], from the noise to the sample."""
        levels, denoise_at = self.noise_levels(process), self.denoise_at(denoise, z)
        x = z * levels[0].b
        yield x
        for here, there in pairwise(levels):
            for _ in range(self.corrections):
                alpha = (here.a / there.a) ** 2
                x = self.corrected(x, denoise_at(x, here), here, alpha, noise)
            x0 = denoise_at(x, here)
            if there.b:
                step = here.back(there)
                c = math.sqrt(step.small if self.variance == "small" else step.large)
                x = (x * step.on_here).add_(x0, alpha=step.on_datum)
                x.add_(noise.normal(*x.shape[1:]), alpha=c)
            else:
                x = x0
            yield x

    def corrected(
        self, x: Tensor, x0: Tensor, level: NoiseLevel, alpha: float, noise: Noise
    ) -> Tensor:
        """x [B, *S] after one Langevin step at its level."""
        score = x0.mul(level.a).sub_(x).div_(level.b**2)
        z = noise.normal(*x.shape[1:]).to(x.dtype)
        sizes = z.flatten(1).norm(dim=1) / score.flatten(1).norm(dim=1)
        e = append_dims((sizes * self.snr).square().mul(2 * alpha), x)
        return x + e * score + (2 * e).sqrt() * z
