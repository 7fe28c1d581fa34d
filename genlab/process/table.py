"""Discrete paths: noise levels known at T times."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Table"]


class Table:
    """The decay of T steps, A(i / T) = -sum_(j <= i) ln(1 - beta_j), made smooth.

    Networks learn the T times alone, but samplers may visit times between and need dA/dt. There it
    is the mean of the two steps that meet; between them A is the rising rational quadratic with
    these slopes, whose inverse has a closed form. Where betas grow evenly it is quadratic, as A is
    on the continuous path.

    Reference: Gregory and Delbourgo 1982, IMA J. Numer. Anal. 2(2), 123-130.
    """

    def __init__(self, beta: Tensor) -> None:
        """beta [T] float64 on the CPU, each in (0, 1): the variance replaced by each step."""
        step = -torch.log1p(-beta)
        knots = torch.cat([step.new_zeros(1), step.cumsum(0)])
        slopes = torch.cat([step[:1], (step[1:] + step[:-1]) / 2, step[-1:]])
        self.steps, self.end = len(beta), knots[-1].item()
        # a copy for each device: to look up there, or to fetch at every call, makes no step wait
        self.tables = {knots.device: torch.stack([knots, slopes])}

    def at(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """t [B] float64 in [0, 1] -> (A, dA/dt) [B]."""
        place = t * self.steps
        low = place.floor().clamp(0, self.steps - 1)
        start, step, d0, d1 = self._around(low.long())
        f = place - low
        both = f * (1 - f)
        under = step + (d0 + d1 - 2 * step) * both
        rate = (d1 * f.square() + 2 * step * both + d0 * (1 - f).square()) * (
            step / under
        ).square()
        return start + step * (step * f.square() + d0 * both) / under, rate * self.steps

    def time(self, decay: Tensor) -> Tensor:
        """A [B] float64 -> t [B] in [0, 1], the inverse."""
        decay = decay.clamp(0, self.end)
        low = torch.searchsorted(self._on(decay.device)[0], decay, right=True) - 1
        low = low.clamp(0, self.steps - 1)
        start, step, d0, d1 = self._around(low)
        # (1 - q) of the way down: the root in [0, 1] of a quadratic, without a difference
        q = (decay - start) / step
        bend = q * (d0 + d1 - 2 * step)
        linear = d0 - bend
        root = (linear.square() + 4 * q * step * (step - linear)).sqrt()
        return (low + 2 * q * step / (linear + root)) / self.steps

    def _around(self, low: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """low [B] int64 -> (A at its start, rise, slopes at start and end) of the steps after."""
        (start, d0), (stop, d1) = (self._on(low.device)[:, i] for i in (low, low + 1))
        return start, stop - start, d0, d1

    def _on(self, device: torch.device) -> Tensor:
        """[2, T + 1] knots and slopes."""
        if device not in self.tables:
            self.tables[device] = self.tables[torch.device("cpu")].to(device)
        return self.tables[device]
