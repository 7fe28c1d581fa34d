"""The losses of a generator G against a discriminator D, and the penalty on the slope of D.

A loss is a pair of functions of the scores D(x) of data and D(G(z)) of samples, each [B]: what D
minimizes and what G minimizes, both [].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import relu, softplus

from genlab.core.contract import Noise

__all__ = ["LOSSES", "Loss", "gradient_penalty"]


def logistic_d(real: Tensor, fake: Tensor) -> Tensor:
    """-E log s(D(x)) - E log(1 - s(D(G(z)))), with the logistic function s.

    Goodfellow et al. 2014, arXiv 1406.2661, eq. 1.
    """
    return softplus(-real).mean() + softplus(fake).mean()


def non_saturating_g(real: Tensor, fake: Tensor) -> Tensor:
    """-E log s(D(G(z))). Goodfellow et al. 2014, section 3."""
    return softplus(-fake).mean()


def minimax_g(real: Tensor, fake: Tensor) -> Tensor:
    """E log(1 - s(D(G(z)))), flat where D is right. Goodfellow et al. 2014, eq. 1."""
    return -softplus(fake).mean()


def wasserstein_d(real: Tensor, fake: Tensor) -> Tensor:
    """E D(G(z)) - E D(x). Arjovsky et al. 2017, arXiv 1701.07875, algorithm 1."""
    return fake.mean() - real.mean()


def wasserstein_g(real: Tensor, fake: Tensor) -> Tensor:
    """-E D(G(z)). Arjovsky et al. 2017, algorithm 1."""
    return -fake.mean()


def hinge_d(real: Tensor, fake: Tensor) -> Tensor:
    """E max(0, 1 - D(x)) + E max(0, 1 + D(G(z))), G as for Wasserstein's.

    Lim and Ye 2017, arXiv 1705.02894; Miyato et al. 2018, arXiv 1802.05957, eq. 16 and 17.
    """
    return relu(1 - real).mean() + relu(1 + fake).mean()


def least_squares_d(real: Tensor, fake: Tensor) -> Tensor:
    """E (D(x) - 1)^2 / 2 + E D(G(z))^2 / 2. Mao et al. 2016, arXiv 1611.04076, eq. 9."""
    return ((real - 1).square().mean() + fake.square().mean()) / 2


def least_squares_g(real: Tensor, fake: Tensor) -> Tensor:
    """E (D(G(z)) - 1)^2 / 2. Mao et al. 2016, eq. 9."""
    return (fake - 1).square().mean() / 2


def relativistic_d(real: Tensor, fake: Tensor) -> Tensor:
    """-E log s(D(x) - D(G(z))), each datum against one sample.

    Jolicoeur-Martineau 2018, arXiv 1807.00734 (RSGAN); Huang et al. 2025, arXiv 2501.05441,
    section 2 (RpGAN).
    """
    return softplus(fake - real).mean()


def relativistic_g(real: Tensor, fake: Tensor) -> Tensor:
    """-E log s(D(G(z)) - D(x)). Jolicoeur-Martineau 2018."""
    return softplus(real - fake).mean()


class Loss(NamedTuple):
    """(real [B], fake [B]) -> [], what each player minimizes.

    relative: whether that of the generator depends on the scores of data too.
    """

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor, Tensor], Tensor]
    relative: bool = False


LOSSES: Mapping[str, Loss] = {
    "non_saturating": Loss(logistic_d, non_saturating_g),
    "minimax": Loss(logistic_d, minimax_g),
    "wasserstein": Loss(wasserstein_d, wasserstein_g),
    "hinge": Loss(hinge_d, wasserstein_g),
    "least_squares": Loss(least_squares_d, least_squares_g),
    "relativistic": Loss(relativistic_d, relativistic_g, relative=True),
}


def gradient_penalty(
    discriminator: nn.Module,
    real: Tensor,
    fake: Tensor,
    y: Tensor | None,
    noise: Noise,
    *,
    at: Literal["real", "fake", "between"],
    center: float,
    power: float,
    one_sided: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """(scores [B] at the points, mean of | |grad_x D| - center |^power [], mean |grad_x D| []).

    at: the points: data [B, *S], samples [B, *S], or x + a (G(z) - x) with a ~ U(0, 1) from
    `noise`, one for each sample. The norm is over all numbers of a sample. one_sided: only slopes
    above the center count.

    In float32: a gradient of a gradient has no digits to lose. Nothing is added under the root of
    the norm: torch gives it a slope of 0 where it is 0.

    Reference: at data with center 0, R1, half of which Mescheder et al. 2018, arXiv 1801.04406,
    eq. 9; at samples R2, eq. 10 there; between with center 1 Gulrajani et al. 2017, arXiv
    1704.00028, algorithm 1, one_sided in section 4; with center 0 Thanh-Tung et al. 2019, arXiv
    1902.03984; with power 6 Wu et al. 2018, arXiv 1712.01026, algorithm 1.
    """
    x = {"real": real, "fake": fake}.get(at)
    if x is None:
        a = noise.uniform(*[1] * (real.dim() - 1))
        x = torch.lerp(real, fake, a.to(real.dtype))
    with torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
        x = x.detach().requires_grad_()
        scores = discriminator(x, y)
        (gradient,) = torch.autograd.grad(scores.sum(), x, create_graph=True)
        if center == 0:  # without the root
            penalty = gradient.square().flatten(1).sum(1) ** (power / 2)
            slope = gradient.detach().flatten(1).norm(dim=1)
        else:
            slope = torch.linalg.vector_norm(gradient, dim=tuple(range(1, x.dim())))
            excess = slope - center
            penalty = (excess.clamp_min(0) if one_sided else excess.abs()) ** power
        return scores, penalty.mean(), slope.detach().mean()
