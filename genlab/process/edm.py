"""The path of EDM: noise is added, and sigma is time."""

from __future__ import annotations

import torch
from torch import Tensor

from genlab.core.contract import Process
from genlab.core.registry import register
from genlab.core.schema import Positive

__all__ = ["EDM"]

QUIETEST = 1e-6  # least sigma of c_noise: ln 0 is no number


@register
class EDM(Process):
    """Data with noise added, whose deviation grows evenly with time.

    x_t = x0 + sigma eps,  sigma = t sigma_max

    A network sees x_t / sqrt(sd^2 + sigma^2), whose variance is 1 for data of deviation sd (with
    predict=F, that is all of the preconditioning), and c_noise = ln(sigma) / 4.

    Reference: Karras et al. 2022, arXiv 2206.00364, table 1.
    """

    def __init__(self, *, sigma_max: Positive) -> None:
        """sigma_max: the noise at t = 1; it must drown the data."""
        self.sigma_max = sigma_max

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """t [B] in [0, 1] -> (a, b, da/dt, db/dt), each [B] float64."""
        t = t.double()
        one = torch.ones_like(t)
        return one, t * self.sigma_max, torch.zeros_like(t), one * self.sigma_max

    def time(self, sigma: Tensor) -> Tensor:
        """sigma [B] -> t [B] float64."""
        return (sigma.double() / self.sigma_max).clamp(0, 1)

    def c_noise(self, t: Tensor) -> Tensor:
        """t [B] -> ln(sigma) / 4000 [B] float64."""
        return self.sigma(t).clamp(min=QUIETEST).log() / 4000

    def c_in(self, t: Tensor, sd: float) -> Tensor:
        """t [B], standard deviation of the data -> 1 / sqrt(sd^2 + sigma^2) [B] float64."""
        return (sd**2 + self.sigma(t).square()).rsqrt()
