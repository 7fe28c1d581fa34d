"""The sub-VP path of score SDEs."""

from __future__ import annotations

import torch
from torch import Tensor

from genlab.core.registry import register
from genlab.process.preserving import Decaying

__all__ = ["SubVP"]


@register
class SubVP(Decaying):
    """The continuous `vp` with less noise on the way: b = 1 - a^2.

    Made for likelihoods. sigma = 2 sinh(A / 2) with A = -ln a^2.

    Reference: Song et al. 2020, arXiv 2011.13456, section 3.4 and appendix C.
    """

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """t [B] in [0, 1] -> (a, b, da/dt, db/dt), each [B] float64."""
        decay, rate = self.decay.at(t.double())
        a = (-decay / 2).exp()
        return a, -torch.expm1(-decay), -rate * a / 2, rate * a.square()

    def time(self, sigma: Tensor) -> Tensor:
        """sigma [B] in [0, inf] -> t [B] float64."""
        return self.decay.time(2 * (sigma.double() / 2).asinh())

    def c_noise(self, t: Tensor) -> Tensor:
        """t [B] -> .999 t [B] float64."""
        return t.double() * 0.999
