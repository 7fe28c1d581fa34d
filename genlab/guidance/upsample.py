"""Images larger than those of training, guided by the estimate at the size of training."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from genlab.core.contract import BoundDenoiser, Denoiser, Process
from genlab.core.registry import register
from genlab.core.schema import Count, NonNegative
from genlab.guidance.interval import ScaledGuidance
from genlab.guidance.labelled import labelled

__all__ = ["Upsample"]


@register
class Upsample(ScaledGuidance):
    """Upsample guidance: `factor` times the size, without training.

    x0 = x0(x; sigma) + theta U[ x0(D x; sigma / m) - D x0(x; sigma) ]

    D is the mean over m x m pixels, U repeats pixels, so D U = 1: with theta 1 the estimate has
    the low resolution of the one at the size of training, and its own details. A mean over m^2
    independent numbers has a deviation m times smaller, hence sigma / m; where a path has none so
    small, the level is the least it has. With theta 0 the network runs at the larger size by
    itself.

    This is the paper's rule for eps, in which D x_t is divided by rho and its eps by m, written
    for the datum of any path (there rho = a / a_low, at the time tau where sigma is m times less).
    The paper's eta, under which theta acts at DDPM's steps from (1 - eta) T on alone, is the
    interval [sigma((1 - eta) T), null]; eta = .6 is [2, null].

    Each level inside the interval takes two evaluations, one of them at 1 / m^2 of the size.

    Reference: Hwang, Park and Jo 2024, arXiv 2404.01709.
    """

    def __init__(self, *, factor: Count, theta: NonNegative, **keys: Any) -> None:
        """factor: m >= 2; theta: about 1.2. scale is of classifier-free guidance at both sizes,
        the interval of sigma at the larger one."""
        super().__init__(**keys)
        if factor < 2:
            raise ValueError(f"factor={factor} enlarges nothing; use 2 or more, or guidance=cfg")
        self.factor, self.theta, self.unconditional = factor, theta, self.scale != 1

    def __call__(self, denoise: Denoiser, y: Tensor | None, process: Process) -> BoundDenoiser:
        """(x, t, y) -> x0 with labels y [B] bound: (x [B, C, m H, m W], t [B]) -> x0."""
        native, m = labelled(denoise, y, self.scale), self.factor

        def guided(x: Tensor, t: Tensor) -> Tensor:
            x0 = native(x, t)
            sigma = process.sigma(t)
            there = process.time(sigma / m)
            scale = _rescaled(process, t, there, m).to(x.dtype).view(-1, 1, 1, 1)
            low = native(F.avg_pool2d(x, m) * scale, there.to(t.dtype))
            lift = self.theta * (low - F.avg_pool2d(x0, m))
            return x0 + lift.repeat_interleave(m, 2).repeat_interleave(m, 3)

        return native if self.theta == 0 else self.interval(guided, native, process)


def _rescaled(process: Process, t: Tensor, there: Tensor, m: int) -> Tensor:
    """[B] a(there) / a(t), what brings D x_t to the time `there` of the path.

    Where the datum is lost, a(t) = 0, it is the ratio of the noises b(there) / (b(t) / m).
    """
    (a, b, *_), (a_low, b_low, *_) = process.coefficients(t), process.coefficients(there)
    return torch.where(a > 0, a_low / a, m * b_low / b)
