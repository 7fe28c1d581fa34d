"""What paths share that are written by the decay A(t) = -ln a(t)^2 of the datum."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from genlab.core.contract import Process
from genlab.core.schema import NonNegative, Positive

__all__ = ["Decay", "Decaying", "Preserving", "Rising"]


class Decay(Protocol):
    """A(t) = -ln a(t)^2, rising from 0; it keeps its digits where a or b has few left."""

    def at(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """t [B] float64 in [0, 1] -> (A, dA/dt) [B]."""
        ...

    def time(self, decay: Tensor) -> Tensor:
        """A [B] float64 -> t [B], the inverse; beyond A(1), 1."""
        ...


class Rising:
    """The decay whose rate grows evenly: A = low t + (high - low) t^2 / 2."""

    def __init__(self, low: float, high: float) -> None:
        """0 <= low <= high, 0 < high. Raises ValueError."""
        if low > high:
            raise ValueError(f"beta_min={low:g} must not be above beta_max={high:g}")
        self.low, self.rise, self.end = low, high - low, (low + high) / 2

    def at(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """t [B] float64 -> (A, dA/dt) [B]."""
        return t * (self.low + self.rise / 2 * t), self.low + self.rise * t

    def time(self, decay: Tensor) -> Tensor:
        """A [B] float64 -> t [B], the root in the form without a difference."""
        decay = decay.clamp(max=self.end)
        root = (self.low**2 + 2 * self.rise * decay).sqrt()
        return (2 * decay / (self.low + root).clamp(min=1e-300)).clamp(max=1.0)


class Decaying(Process):
    """A path whose rate of decay grows evenly."""

    decay: Decay

    def __init__(self, *, beta_min: NonNegative, beta_max: Positive) -> None:
        """beta_min <= beta_max: the rates at t = 0 and t = 1. Raises ValueError."""
        self.decay = Rising(beta_min, beta_max)


class Preserving(Process):
    """A path with a^2 + b^2 = 1: noisy data have the variance of the data, if that is 1."""

    decay: Decay

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """t [B] in [0, 1] -> (a, b, da/dt, db/dt), each [B] float64; db/dt is inf at 0."""
        decay, rate = self.decay.at(t.double())
        a, b = (-decay / 2).exp(), (-torch.expm1(-decay)).sqrt()
        return a, b, -rate * a / 2, rate * a.square() / (2 * b)

    def time(self, sigma: Tensor) -> Tensor:
        """sigma [B] in [0, inf] -> t [B] float64."""
        return self.decay.time(torch.log1p(sigma.double().square()))

    def c_noise(self, t: Tensor) -> Tensor:
        """t [B] -> [B] float64: t - 1 / T, or .999 t; DDPM counts its 1,000 steps from 0.

        Less noise than the first of T levels has is embedded as that level.
        """
        if self.steps is not None:
            return (t.double() - 1 / self.steps).clamp(min=0.0)
        return t.double() * 0.999
