"""The variance-exploding path of score matching."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from genlab.core.contract import Process
from genlab.core.registry import register
from genlab.core.schema import Positive

__all__ = ["VarianceExploding"]


@register
class VarianceExploding(Process):
    """Data with noise added, whose deviation grows geometrically with time.

    x_t = x0 + sigma eps,  sigma = sigma_min (sigma_max / sigma_min)^t

    So uniform times are NCSN's ladder of noise levels. At t = 0 there is still the noise
    sigma_min; samplers end with the estimate of the datum behind it. For data of deviation sd a
    network sees x_t / sqrt(sd^2 + sigma^2), in the papers x_t itself, and ln(sigma / 2).

    Reference: Song and Ermon 2019, arXiv 1907.05600, section 4; Song et al. 2020, arXiv
    2011.13456, section 3.4 and appendix C.
    """

    def __init__(self, *, sigma_min: Positive, sigma_max: Positive, raw: bool) -> None:
        """sigma_min < sigma_max: the noise at t = 0 and t = 1; raw: whether a network sees x_t.

        Raises ValueError.
        """
        if sigma_min >= sigma_max:
            raise ValueError(f"sigma_min={sigma_min:g} must be below sigma_max={sigma_max:g}")
        self.sigma_min, self.rate, self.raw = sigma_min, math.log(sigma_max / sigma_min), raw

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """t [B] in [0, 1] -> (a, b, da/dt, db/dt), each [B] float64."""
        t = t.double()
        sigma = self.sigma_min * torch.exp(self.rate * t)
        return torch.ones_like(t), sigma, torch.zeros_like(t), sigma * self.rate

    def time(self, sigma: Tensor) -> Tensor:
        """sigma [B] -> t [B] float64."""
        return ((sigma.double() / self.sigma_min).log() / self.rate).clamp(0, 1)

    def c_noise(self, t: Tensor) -> Tensor:
        """t [B] -> ln(sigma / 2) / 1000 [B] float64."""
        return (self.sigma(t) / 2).log() / 1000

    def c_in(self, t: Tensor, sd: float) -> Tensor:
        """t [B], standard deviation of the data -> 1 / sqrt(sd^2 + sigma^2), or 1, [B] float64."""
        if self.raw:
            return super().c_in(t, sd)
        return (sd**2 + self.sigma(t).square()).rsqrt()
