"""The cosine path with its noise shifted by the size of the images."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from genlab.core.contract import Process, Spec
from genlab.core.registry import register
from genlab.core.schema import Positive

__all__ = ["ShiftedCosine"]

FIRST = math.atan(math.exp(-7.5))
"""phi at t = 0: before the shift, ln(a^2 / b^2) goes from 15 to -15."""

RANGE = math.pi / 2 - 2 * FIRST

ROUNDS = 8
"""Of Newton's method: 5 are enough for float64 where references differ 64 times, 8 for 1,000."""


@register
class ShiftedCosine(Process):
    """`trig` with sigma moved by the resolution, variance preserved.

    sigma = tan(phi) d / d_0,  phi from 0.00055 to pi/2 - 0.00055 with t,  a^2 + b^2 = 1

    Averages of s x s pixels have 1 / s of the noise and most of the datum, so in a larger image as
    much noise per pixel hides less. With d / d_0 times the noise, images of d pixels a side lose
    their datum as those of d_0 do on `trig`. Of two references the logarithms are mixed: the
    larger at t = 0, for details, turns into the smaller at t = 1.

    At t = 0 there is still some noise; samplers end with the estimate of the datum behind it.

    Reference: Hoogeboom et al. 2023, arXiv 2301.11093, section 3.1 and appendix A.
    """

    def __init__(self, spec: Spec, *, reference: Positive | list[Positive]) -> None:
        """reference: d_0, or the smaller and the larger one, in pixels a side.

        Raises ValueError where data are no images, and where there are not one or two references.
        """
        spec.require("images", "shifted_cosine", "process=cosine or trig")
        given = reference if isinstance(reference, list) else [reference]
        if len(given) not in (1, 2) or given[0] > given[-1]:
            raise ValueError(f"reference is one size or two that rise, like [32,64], not {given}")
        side = math.sqrt(spec.shape[1] * spec.shape[2])
        self.shift, self.drift = math.log(side / given[-1]), math.log(given[-1] / given[0])

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """t [B] in [0, 1] -> (a, b, da/dt, db/dt), each [B] float64."""
        t = t.double()
        log, rate = self._log_sigma(t)
        a, b = (torch.sigmoid(2 * s).sqrt() for s in (-log, log))
        return a, b, -rate * a * b.square(), rate * b * a.square()

    def time(self, sigma: Tensor) -> Tensor:
        """sigma [B] -> t [B] float64, by Newton's method where there are two references."""
        ends = torch.tensor([0.0, 1.0], dtype=torch.float64, device="cpu")
        log = sigma.double().log().clamp(*self._log_sigma(ends)[0].tolist()) - self.shift
        tan = log  # of ln tan(phi), in which the drift bends the line but little
        for _ in range(ROUNDS if self.drift else 0):
            t = (tan.exp().atan() - FIRST) / RANGE
            tan = tan - (tan + self.drift * t - log) / (1 + self.drift / (2 * RANGE * tan.cosh()))
        return ((tan.exp().atan() - FIRST) / RANGE).clamp(0, 1)

    def _log_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """t [B] float64 -> (ln sigma, its derivative) [B]."""
        phi = FIRST + RANGE * t
        log = phi.tan().log() + self.shift + self.drift * t
        return log, 2 * RANGE / (2 * phi).sin() + self.drift
