"""The variance-preserving path of DDPM."""

from __future__ import annotations

import torch
from torch import Tensor

from genlab.gaussian import Path
from genlab.process.table import Table
from genlab.registry import register
from genlab.schema import Count, NonNegative, Positive

__all__ = ["VariancePreserving"]


@register
class VariancePreserving(Path):
    """Shrinking data with rising noise, by rates that grow evenly.

    discrete    a_i^2 = prod_(j <= i) (1 - beta_j),  beta_j from beta_min / T to beta_max / T
    continuous  a^2 = exp(-beta_min t - (beta_max - beta_min) t^2 / 2)
    b^2 = 1 - a^2

    beta_min = 0.1 and beta_max = 20 are DDPM's 1e-4 to 0.02 over its 1,000 steps.

    Reference: Ho et al. 2020, arXiv 2006.11239, section 2; Song et al. 2020, arXiv 2011.13456,
    section 3.4 and appendix C.
    """

    def __init__(self, *, beta_min: NonNegative, beta_max: Positive, steps: Count | None) -> None:
        """beta_min <= beta_max; steps: T of the discrete path, None for the continuous one."""
        if beta_min > beta_max or (steps is not None and beta_max >= steps):
            raise ValueError(
                f"beta_min={beta_min:g} and beta_max={beta_max:g} must rise, and stay below the "
                f"steps, {steps}"
            )
        self.low, self.rise, self.steps = beta_min, beta_max - beta_min, steps
        self.table = None
        if steps is not None:
            beta = torch.linspace(beta_min / steps, beta_max / steps, steps, dtype=torch.float64)
            log_a2 = torch.log1p(-beta).cumsum(0)
            self.table = Table(torch.expm1(-log_a2).sqrt())

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """t [B] in [0, 1] -> (a, b, da/dt, db/dt), each [B] float64."""
        t = t.double()
        if self.table is not None:
            sigma, rate = self.table.at(t)
            a = (1 + sigma.square()).rsqrt()
            return a, a * sigma, -sigma * rate * a**3, rate * a**3
        exponent = self.low * t + self.rise * t.square() / 2
        a, b = (-exponent / 2).exp(), (-torch.expm1(-exponent)).sqrt()
        da = -(self.low + self.rise * t) / 2 * a
        return a, b, da, -a * da / b

    def time(self, sigma: Tensor) -> Tensor:
        """sigma [B] -> t [B] float64."""
        if self.table is not None:
            return self.table.time(sigma)
        log = torch.log1p(sigma.double().square())
        # the root of low t + rise t^2 / 2 = log, in the form without a difference
        t = 2 * log / ((self.low**2 + 2 * self.rise * log).sqrt() + self.low)
        return t.nan_to_num(0.0).clamp(0, 1)

    def told(self, t: Tensor) -> Tensor:
        """t [B] -> [B] float64: (t T - 1) / T, or .999 t; DDPM counts its 1,000 steps from 0."""
        if self.steps is not None:
            return t.double() - 1 / self.steps
        return t.double() * 0.999
