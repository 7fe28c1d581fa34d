"""The circle between datum and noise."""

from __future__ import annotations

import math

from torch import Tensor

from genlab.core.contract import Process
from genlab.core.registry import register

__all__ = ["Trigonometric"]


@register
class Trigonometric(Process):
    """Rotation from the datum to its noise at constant speed.

    x_t = cos(phi) x0 + sin(phi) eps,  phi = pi t / 2

    Variance is preserved; v = dx/dphi, so v and velocity differ by a factor alone.

    Reference: Salimans and Ho 2022, arXiv 2202.00512, appendix D; Albergo and Vanden-Eijnden 2022,
    arXiv 2209.15571, section 2.
    """

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """t [B] in [0, 1] -> (a, b, da/dt, db/dt), each [B] float64."""
        phi, rate = t.double() * (math.pi / 2), math.pi / 2
        # sin(pi/2 - phi) rather than cos(phi), which is not 0 at t = 1
        a, b = (math.pi / 2 - phi).sin(), phi.sin()
        return a, b, -rate * b, rate * a

    def time(self, sigma: Tensor) -> Tensor:
        """sigma [B] in [0, inf] -> t [B] float64."""
        return sigma.double().atan() / (math.pi / 2)
