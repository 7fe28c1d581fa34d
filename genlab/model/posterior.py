"""The reverse steps of a discrete path, and how many bits a model of them costs."""

from __future__ import annotations

import torch
from torch import Tensor

from genlab.contract import Process

__all__ = ["decoder", "divergence", "posterior"]


def posterior(process: Process) -> Tensor:
    """[4, T] float64: c, d, ln small and ln large of the steps i -> i - 1, i = 1 .. T.

    q(x_(i-1) | x_i, x0) = N(c x0 + d x_i, small), and with r = a_i / a_(i-1)
    large = b_i^2 - r^2 b_(i-1)^2, the noise that step i adds; small = large b_(i-1)^2 / b_i^2,
    c = a_(i-1) large / b_i^2, d = r b_(i-1)^2 / b_i^2.

    small is the variance of the step back if x0 is known, large if x0 is N(0, 1), on a path that
    preserves variance. That of the last step, 0, is replaced by that of the step before it.
    Raises ValueError for a path without steps.

    Reference: Ho et al. 2020, arXiv 2006.11239, eq. 7; Sohl-Dickstein et al. 2015, arXiv
    1503.03585, appendix A.
    """
    if process.steps is None or process.steps < 2:
        raise ValueError(
            "variance=learned is of the steps of a discrete path, and this one has none: use "
            "process.steps=1000, or variance=fixed"
        )
    t = torch.arange(process.steps + 1, dtype=torch.float64, device="cpu") / process.steps
    a, b, _, _ = process.coefficients(t)
    a[0], b[0] = 1.0, 0.0
    r = a[1:] / a[:-1]
    variance, before = b[1:].square(), b[:-1].square()
    large = variance - r.square() * before
    small = large * before / variance
    small[0] = small[1]
    return torch.stack([a[:-1] * large / variance, r * before / variance, small.log(), large.log()])


def divergence(mean: Tensor, log: Tensor, mean_p: Tensor, log_p: Tensor) -> Tensor:
    """KL(N(mean, e^log) || N(mean_p, e^log_p)) of each number, in nats."""
    return 0.5 * (log_p - log + (log - log_p).exp() + (mean - mean_p).square() * (-log_p).exp() - 1)


def decoder(x: Tensor, mean: Tensor, log: Tensor) -> Tensor:
    """-ln of the mass of N(mean, e^log) in the bin of each byte x in [-1, 1], in nats.

    A bin is 2 / 255 wide, and the outer two have no end. Reference: Ho et al. 2020, eq. 13.
    """
    rate, half = (-0.5 * log).exp(), 1 / 255
    above = torch.special.ndtr((x + half - mean) * rate).masked_fill(x > 0.999, 1.0)
    below = torch.special.ndtr((x - half - mean) * rate).masked_fill(x < -0.999, 0.0)
    return -(above - below).clamp(min=1e-12).log()
