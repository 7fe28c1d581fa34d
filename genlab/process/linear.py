"""The straight path of flow matching and rectified flow."""

from __future__ import annotations

import torch
from torch import Tensor

from genlab.core.contract import Process
from genlab.core.registry import register

__all__ = ["Linear"]


@register
class Linear(Process):
    """The straight path between a datum and its noise.

    x_t = (1 - t) x0 + t eps, so the velocity dx_t/dt = eps - x0 does not depend on t.

    Reference: Lipman et al. 2022, arXiv 2210.02747; Liu et al. 2022, arXiv 2209.03003, eq. 1.
    """

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """t [B] in [0, 1] -> (a, b, da/dt, db/dt), each [B] float64."""
        t = t.double()
        one = torch.ones_like(t)
        return one - t, t, -one, one

    def time(self, sigma: Tensor) -> Tensor:
        """sigma [B] in [0, inf] -> sigma / (1 + sigma) [B] float64."""
        return 1 / (1 + 1 / sigma.double())  # right at 0 and at inf too
