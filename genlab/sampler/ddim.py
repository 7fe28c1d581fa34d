"""The sampler between DDPM and an ODE."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from torch import Tensor

from genlab.core.contract import BoundDenoiser, Noise, Process
from genlab.core.registry import register
from genlab.core.schema import Fraction
from genlab.sampler.noise_levels import Clipped

__all__ = ["DDIM"]


@register
class DDIM(Clipped):
    """The estimated noise kept, or replaced in part.

    x_s = a_s x0 + sqrt(b_s^2 - c^2) eps + c z,  eps = (x_t - a_t x0) / b_t,  z ~ N(0, 1)

    c is eta times the deviation of DDPM's posterior, so that eta 1 is ancestral sampling with the
    small variance. With eta 0 no noise is drawn, and on any path this is Euler's method in sigma:
    d(x / a) = eps d(b / a). eps is that of the clipped datum.

    Reference: Song et al. 2020, arXiv 2010.02502, eq. 12 and 16.
    """

    def __init__(self, *given: Any, eta: Fraction, **levels: Any) -> None:
        """eta: the part of the noise that is new; the rest are of `Clipped`."""
        super().__init__(*given, **levels)
        self.eta = eta

    def __call__(
        self, denoise: BoundDenoiser, z: Tensor, process: Process, noise: Noise
    ) -> Iterator[Tensor]:
        """steps + 1 states [B, *S], from the noise to the sample."""
        levels, denoise_at = self.noise_levels(process), self.denoise_at(denoise, z)
        x = z * levels[0].b
        yield x
        for here, there in pairwise(levels):
            x0 = denoise_at(x, here)
            if there.b:
                c = self.eta * math.sqrt(here.back(there).small)
                kept = math.sqrt(there.b**2 - c**2) / here.b
                x = (x * kept).add_(x0, alpha=there.a - here.a * kept)
                if c:
                    x.add_(noise.normal(*x.shape[1:]), alpha=c)
            else:
                x = x0
            yield x
