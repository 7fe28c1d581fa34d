"""Averages of any length from those that were kept: power-function profiles after the fact.

A power-function average at time t (images drawn) is

    avg_gamma(t) = integral of p_{gamma,t}(s) net(s) over s <= t,
    p_{gamma,t}(s) = (gamma + 1) s^gamma / t^(gamma + 1)

Its width grows with t: the standard deviation of p is always the same share of t,

    sigma_rel(gamma) = sqrt((gamma + 1) / ((gamma + 2)^2 (gamma + 3)))

from 0.288 (gamma = 0, the plain mean) to 0, and names the average. An average that was not tracked
is the sum of kept ones whose profile is nearest to the wanted one in L2. Their inner products have
a closed form: with m = min(t, u),

    <p_{gamma,t}, p_{delta,u}> = (gamma + 1) (delta + 1) / (gamma + delta + 1)
                                 m^(gamma + delta + 1) / (t^(gamma + 1) u^(delta + 1))

Reference: Karras et al. 2023, arXiv 2312.02696, section 3 and appendix C. Added here: the
coefficients sum to 1, as every profile does. The mean of the weights is then carried over whatever
the profiles leave over, which makes the error about ten times smaller on a random walk.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["blend", "gamma_of", "std_of"]


def std_of(gamma: float) -> float:
    """gamma >= 0 -> relative standard deviation of its profile, in (0, 0.289]."""
    return ((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3))) ** 0.5


def gamma_of(std: float) -> float:
    """Relative standard deviation in (0, 0.288] -> gamma, the largest root of its cubic.

    gamma^3 + 7 gamma^2 + (16 - std^-2) gamma + 12 - std^-2 = 0. Raises ValueError outside.
    """
    if not 0 < std <= std_of(0):
        raise ValueError(f"no profile t^gamma, gamma >= 0, has a relative std of {std:g}")
    inverse = std**-2
    low, high = 0.0, inverse**0.5  # sigma_rel falls with gamma and is below 1 / (gamma + 2)
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (middle, high) if std_of(middle) > std else (low, middle)
    return middle


def blend(std: float, time: float, kept: Sequence[tuple[float, float]]) -> tuple[Tensor, float]:
    """How much of each kept average makes the one of `std` at `time`.

    kept: (std, time) of each, all different. Returns (coefficients [n] float64, which sum to 1;
    the distance of their profile from the wanted one, relative to the length of that).
    """
    gammas = torch.tensor([gamma_of(s) for s, _ in kept], dtype=torch.float64)
    times = torch.tensor([t for _, t in kept], dtype=torch.float64) / time
    wanted = torch.tensor(gamma_of(std), dtype=torch.float64)
    one = torch.ones(len(kept), dtype=torch.float64)
    among = _inner(gammas[:, None], times[:, None], gammas, times)
    aims = _inner(wanted, one[0], gammas, times)
    # least squares under a constraint: the gradient is the same in every coefficient
    matrix = torch.cat([torch.cat([among, one[:, None]], 1), one.new_ones(1, len(kept) + 1)])
    matrix[-1, -1] = 0
    right = torch.cat([aims, one[:1]])[:, None]
    found = torch.linalg.lstsq(matrix, right, driver="gelsd").solution[:-1, 0]
    whole = _inner(wanted, one[0], wanted, one[0])
    left = whole - 2 * aims @ found + found @ among @ found
    return found, float((left.clamp(min=0) / whole).sqrt())


def _inner(gamma: Tensor, t: Tensor, delta: Tensor, u: Tensor) -> Tensor:
    """<p_{gamma,t}, p_{delta,u}>, written so that large powers stay between 0 and 1."""
    m = torch.minimum(t, u)
    scale = (gamma + 1) * (delta + 1) / (gamma + delta + 1)
    return scale * (m / t) ** gamma * (m / u) ** delta * m / (t * u)
