"""Times drawn in proportion to what weighs in the bound on the likelihood."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from genlab.core.contract import Noise, Process
from genlab.core.gaussian_path import x0_coefficients
from genlab.core.schema import Predict

__all__ = ["LikelihoodTimes", "effective_share"]

QUANTILES = 2**18  # of the numbers that times are made of: 4e-6 apart, less than the earliest time


class LikelihoodTimes(nn.Module):
    """Importance sampling of the weight `likelihood`, on every path.

    p(t) = sigma' / (sigma (1 + sigma^2 / s^2)) / Z

    which makes ln(1 / sigma^2 + 1 / s^2) uniform. The weight is sigma' / sigma^3 on the error of
    the datum, which is sigma' / sigma on that of the noise, sigma' / (sigma (1 + sigma^2)) on that
    of v and sigma' / (sigma (1 + sigma^2 / sd^2)) on that of F. So with s = inf for eps and score,
    1 for v and sd for F the times are in proportion to it, and the weight divided by their density
    is the constant Z, its mean over uniform times.
    Errors of x0 and of a velocity have no one size along a path: their times are those of F (of
    eps, where a = 1 and a velocity is of noise alone), and the weight that is left is as uneven as
    their errors are.

    The inverse of the distribution is that of sigma, which every path has in closed form. Of a
    discrete path the T times have these p, with sums in the place of integrals.

    Reference: Song et al. 2021, arXiv 2101.09258, section 5.1, where s = inf.
    """

    def __init__(self, process: Process, predict: Predict, sd: float, first: float) -> None:
        """process: the part of a path that is learned; first: its earliest time, if continuous."""
        super().__init__()
        self.process, self.predict, self.sd = process, predict, sd
        size = {"eps": math.inf, "score": math.inf, "v": 1.0}.get(predict, sd)
        if predict == "velocity":
            a, _, _, _ = process.coefficients(torch.ones(1, device="cpu"))
            size = math.inf if a.item() == 1 else sd
        self.rest = size**-2
        steps, total = process.steps, None
        if steps is None:
            t = torch.tensor([first, 1.0], dtype=torch.float64, device="cpu")
            a, b, _, _ = process.coefficients(t)
            self.highest, lowest = self._m(a, b).log().tolist()
            self.range = self.highest - lowest
            self.mean = self.range / 2
        else:
            t = torch.arange(1, steps + 1, dtype=torch.float64, device="cpu") / steps
            total = self.relative(t).cumsum(0)
            self.mean = total[-1].item() / steps
        self.register_buffer("total", total, persistent=False)  # follows from the config

    def forward(self, uniform: Tensor) -> Tensor:
        """uniform [B] on [0, 1) -> t [B] float64."""
        u = uniform.double()
        if self.total is not None:
            place = torch.searchsorted(self.total, u * self.total[-1], right=True)
            return (place.clamp(max=len(self.total) - 1) + 1).double() / len(self.total)
        m = (self.highest - u * self.range).exp()
        return self.process.time((m - self.rest).clamp(min=0).rsqrt())  # also where it is inf

    def relative(self, t: Tensor) -> Tensor:
        """t [B] -> Z p(t) [B] float64; p of t as one of all times, if the path is discrete."""
        a, b, da, db = self.process.coefficients(t)
        return a * (a * db - b * da) / (b * (a.square() + b.square() * self.rest))

    def weight(self, a: Tensor, b: Tensor, da: Tensor, db: Tensor) -> Tensor:
        """a, b, da/dt, db/dt [B] of a time -> the weight divided by the density there [B]."""
        _, beta = x0_coefficients(self.predict, a, b, da, db, self.sd)
        return self.mean * beta.square() * self._m(a, b)

    def _m(self, a: Tensor, b: Tensor) -> Tensor:
        return (a / b).square() + self.rest


def effective_share(times: Callable[[Noise], Tensor], wanted: LikelihoodTimes) -> float:
    """Share of the images of a batch that count, in (0, 1], if it is learned at other times.

    (E r)^2 / E r^2 with r the ratio of the densities, which is the weight, so that a mean of n has
    the variance of one of so many at the wanted times. Of quantiles, so without chance.

    Reference: Kong 1992, University of Chicago, Technical Report 348.
    """
    ratio = wanted.relative(times(_Quantiles()).double())
    return (ratio.mean().square() / ratio.square().mean()).item()


class _Quantiles:
    """Noise of one number a sample that has each value as often as its distribution says."""

    n = QUANTILES

    def uniform(self, *shape: int) -> Tensor:
        """[n] float64, evenly on (0, 1)."""
        return (torch.arange(self.n, dtype=torch.float64, device="cpu") + 0.5) / self.n

    def normal(self, *shape: int) -> Tensor:
        """[n] float64, the quantiles of a normal number."""
        return torch.special.ndtri(self.uniform())
