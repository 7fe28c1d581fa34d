"""Discrete paths: noise levels known at T times."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Table"]


class Table:
    """sigma at the times i / T, and between them by straight lines in ln sigma.

    Below the first level, where ln sigma has no end, the line is in sigma. A network learned at
    the T times takes those between them well enough for samplers that ask there.
    """

    def __init__(self, sigma: Tensor) -> None:
        """sigma [T] float64: rising, of the times 1 / T .. 1."""
        self.sigma = torch.cat([sigma.new_zeros(1), sigma])
        self.log = self.sigma.log()

    def at(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """t [B] float64 in [0, 1] -> (sigma, d sigma / dt) [B]."""
        steps = len(self.sigma) - 1
        place = t * steps
        low = place.floor().clamp(0, steps - 1).long().cpu()
        first = (low == 0).to(t.device)
        log_low, log_high = (self.log[i].to(t.device) for i in (low, low + 1))
        slope = torch.where(first, 0.0, log_high - log_low)
        start = torch.where(first, 0.0, log_low)
        lowest = self.sigma[1].to(t.device)
        sigma = torch.where(
            first, place * lowest, (start + (place - low.to(t.device)) * slope).exp()
        )
        return sigma, torch.where(first, lowest, sigma * slope) * steps

    def time(self, sigma: Tensor) -> Tensor:
        """sigma [B] -> t [B] float64 in [0, 1], the inverse."""
        steps = len(self.sigma) - 1
        values = sigma.double().cpu().clamp(0, self.sigma[-1].item())
        low = (torch.searchsorted(self.sigma, values, right=True) - 1).clamp(0, steps - 1)
        part = (values.log() - self.log[low]) / (self.log[low + 1] - self.log[low])
        part = torch.where(low == 0, values / self.sigma[1], part)
        return ((low + part) / steps).to(sigma.device)
