"""The cosine path of improved DDPM."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from genlab.core.registry import register
from genlab.core.schema import Count, NonNegative, Positive
from genlab.process.preserving import Preserving
from genlab.process.table import Table

__all__ = ["Cosine"]


@register
class Cosine(Preserving):
    """A path that loses its datum evenly, and slowly at both ends.

    a = cos(phi) / cos(phi_0),  phi = pi/2 (t + offset) / (1 + offset),  b^2 = 1 - a^2

    The discrete path has beta_i = 1 - a(i / T)^2 / a((i - 1) / T)^2, but `cap` at most, without
    which nothing of the datum would be left at the end; so its last sigma is finite, 2e4 for
    iDDPM's keys. Without an offset the continuous path is `trig`.

    Reference: Nichol and Dhariwal 2021, arXiv 2102.09672, section 3.2.
    """

    def __init__(self, *, steps: Count | None, offset: NonNegative, cap: Positive) -> None:
        """steps: T of the discrete path, None for the continuous one, which has no cap.

        cap: in (0, 1). Raises ValueError.
        """
        if not 0 < cap < 1:
            raise ValueError(
                f"cap={cap:g}, but a step can replace between 0 and 1 of the variance"
            )
        self.steps, self.offset = steps, offset
        self.sin, self.cos = (f(math.pi / 2 * offset / (1 + offset)) for f in (math.sin, math.cos))
        self.rate = math.pi / 2 / (1 + offset)
        if steps is not None:
            t = torch.arange(steps + 1, dtype=torch.float64, device="cpu") / steps
            a2 = self._smooth(t)[0].square()
            self.decay = Table((1 - a2[1:] / a2[:-1]).clamp(max=cap))

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """t [B] in [0, 1] -> (a, b, da/dt, db/dt), each [B] float64; db/dt is inf at 0."""
        return self._smooth(t.double()) if self.steps is None else super().coefficients(t)

    def time(self, sigma: Tensor) -> Tensor:
        """sigma [B] in [0, inf] -> t [B] float64."""
        if self.steps is not None:
            return super().time(sigma)
        sigma = sigma.double()
        a, b = torch.ones_like(sigma), sigma.clamp(max=1e300)
        a, b = a / torch.hypot(a, b), b / torch.hypot(a, b)
        cos, sin = a * self.cos, ((b * self.cos).square() + self.sin**2).sqrt()
        # of phi - phi_0, whose sine is small at small sigma, from sin(x - y) sin(x + y)
        above = b.square() * self.cos**2 / (sin * self.cos + cos * self.sin).clamp(min=1e-300)
        beside = cos * self.cos + sin * self.sin
        return (torch.atan2(above, beside) / self.rate).clamp(max=1.0)

    def c_noise(self, t: Tensor) -> Tensor:
        """t [B] -> [B] float64: t - 1 / T as DDPM does, or t."""
        return t.double() if self.steps is None else super().c_noise(t)

    def _smooth(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The continuous path: a, b, da/dt, db/dt."""
        left, gone = (1 - t) * self.rate, t * self.rate  # pi/2 - phi and phi - phi_0
        cos, sin = left.sin(), left.cos()  # of phi; so 0 is 0
        a = cos / self.cos
        # cos^2 phi_0 - cos^2 phi = sin(phi - phi_0) sin(phi + phi_0)
        b = (gone.sin() * (sin * self.cos + cos * self.sin)).sqrt() / self.cos
        da = -self.rate * sin / self.cos
        return a, b, da, -a * da / b
