"""The variational bound of a chain of noise levels, on the probability of the bytes."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.special import erfcx

from genlab.core.contract import Noise, Process
from genlab.core.gaussian_path import append_dims, posterior

__all__ = [
    "Bound",
    "Links",
    "Reverse",
    "discretized_log_likelihood",
    "links",
    "normal_kl",
    "variational_bound",
]

Reverse = Callable[[Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]
"""(x [B, *S] at the times t [B], t, y) -> (x0 [B, *S], log-variance of the link from there to the
level before, in a shape that broadcasts with x)."""


class Links(NamedTuple):
    """The links of a chain of N noise levels, each [N] float64; the first leads to the datum.

    x_i = a x0 + b eps, and the step back from there as in `gaussian_path.Step`.
    """

    a: Tensor
    b: Tensor
    on_datum: Tensor
    on_here: Tensor
    small: Tensor
    large: Tensor


def links(process: Process, times: Tensor) -> Links:
    """times [N] rising in (0, 1] -> the links of their chain, with the datum before the first."""
    a, b, _, _ = process.coefficients(times.double())
    a_before = torch.cat([a.new_ones(1), a[:-1]])
    b_before = torch.cat([b.new_zeros(1), b[:-1]])
    return Links(a, b, *posterior(a, b, a_before, b_before))


class Bound(NamedTuple):
    """Terms of the bound, nats a datum, each [B] float64."""

    prior: Tensor  # KL of the last level to where samples start
    chain: Tensor  # sum of the KLs of the links
    decoder: Tensor  # -log P of the bytes given the first level

    @property
    def total(self) -> Tensor:
        """[B]; -log P of the bytes is no more, in the mean over the noise."""
        return self.prior + self.chain + self.decoder


def variational_bound(
    reverse: Reverse,
    process: Process,
    x: Tensor,
    y: Tensor | None,
    noise: Noise,
    *,
    times: Tensor,
    evaluations: int | None = None,
    levels: int = 256,
) -> Bound:
    """The bound of data x [B, *S], each number one of `levels` values evenly from -1 to 1.

        KL(q(x_N | x0) || N(0, b_N^2)) + sum_(i > 1) KL(q(x_{i-1} | x_i, x0) || p(x_{i-1} | x_i))
        - log P(x0 | x_1),   p(x_{i-1} | x_i) = N(on_datum x0^ + on_here x_i, variance)

    with one x_i ~ q(x_i | x0) for each link. The prior is what samplers start from.

    times: of the chain, [N] rising; each chain is a model of its own, and that of every i / T is
    what DDPM's paper reports. evaluations: of the network, None for all N. With fewer the sum is
    estimated without bias: the links 2..N are cut into evaluations - 1 ranges, finer where noise
    is low, of each of which one link stands for all.

    Reference: Ho et al. 2020, arXiv 2006.11239, eq. 5 and section 3.3.
    """
    if evaluations is not None and not 2 <= evaluations:
        raise ValueError(f"a bound takes 2 evaluations or more, not {evaluations}")
    chain = Links(*(c.to(x.device) for c in links(process, times)))
    times = times.double().to(x.device)
    n, size = len(times), x.flatten(1).double()

    def link(i: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """i [B] of 0 .. n - 1 -> mean of p, its log-variance, mean of q; [B, *S] float64."""
        a, b, on_datum, on_here = (append_dims(c[i], x) for c in chain[:4])
        x_i = a * x.double() + b * noise.normal(*x.shape[1:]).double()
        x0, log_variance = reverse(x_i.to(x.dtype), times[i], y)
        guess, log_variance = x0.double(), log_variance.double().expand_as(x)
        return (
            on_datum * guess + on_here * x_i,
            log_variance,
            on_datum * x.double() + on_here * x_i,
        )

    here = torch.zeros(len(x), dtype=torch.long, device=x.device)
    mean, log_variance, _ = link(here)
    decoder = -discretized_log_likelihood(x.double(), mean, log_variance, levels).flatten(1).sum(1)
    total = torch.zeros_like(decoder)
    for low, high in _ranges(1, n, n - 1 if evaluations is None else evaluations - 1):
        if high - low > 1:
            i = (noise.uniform().double() * (high - low)).floor().long() + low
        else:
            i = here + low
        mean, log_variance, true = link(i)
        small = append_dims(chain.small[i].log(), x)
        kl = normal_kl(true, small, mean, log_variance)
        total += kl.flatten(1).sum(1) * (high - low)
    prior = (chain.a[-1] / chain.b[-1] * size).square().sum(1) / 2
    return Bound(prior, total, decoder)


def normal_kl(mean: Tensor, log_variance: Tensor, mean2: Tensor, log_variance2: Tensor) -> Tensor:
    """KL(N(mean, variance) || N(mean2, variance2)) in nats, number by number."""
    ratio = log_variance - log_variance2
    return (ratio.exp() + (mean - mean2).square() * (-log_variance2).exp() - 1 - ratio) / 2


def discretized_log_likelihood(
    x: Tensor, mean: Tensor, log_variance: Tensor, levels: int = 256
) -> Tensor:
    """log of the part of N(mean, variance) that is nearest to the grey value x, number by number.

    The values lie evenly from -1 to 1; all below belongs to the first and all above to the last.
    With d = |x - mean|, r = 1 / deviation, h half a step, and u = (h - d) r the nearer edge,

        Phi(u) - Phi(-(d + h) r) = e^(-u^2 / 2) [E(u) - e^(-2 h d r^2) E(-(d + h) r)],
        E(z) = Phi(z) e^(z^2 / 2) = erfcx(-z / sqrt 2) / 2

    whose logarithm and gradient keep their digits as far off as u^2 is a number; where the mean
    lies within the edges it is a sum of two erf.

    Reference: Ho et al. 2020, arXiv 2006.11239, eq. 13.
    """
    half, off = 1 / (levels - 1), x - mean
    first, last = x < half - 1, x > 1 - half
    outer, far = first | last, off.abs()
    inward = torch.where(first, off, torch.where(last, -off, -far))
    rate = (-log_variance / 2).exp() * math.sqrt(0.5)
    near, other = (half + inward) * rate, (half + far) * rate
    # both forms are evaluated everywhere, so each where it has a value and a gradient
    outside, inside = near.clamp(max=0), near.clamp(min=0)
    tail = erfcx(other) * (-4 * half * far * rate.square()).exp()
    scaled = (erfcx(-outside) - tail.masked_fill(outer, 0)).clamp(min=torch.finfo(x.dtype).tiny)
    beside = (scaled / 2).log() - outside.square()
    return torch.where(
        near > 0,
        ((torch.erf(inside) + torch.erf(other).masked_fill(outer, 1)) / 2).log(),
        beside,
    )


def _ranges(low: int, high: int, parts: int) -> list[tuple[int, int]]:
    """low .. high - 1 in at most `parts` ranges whose lengths grow evenly."""
    if parts >= high - low:
        return [(i, i + 1) for i in range(low, high)]
    edges = [low]
    for k in range(1, parts + 1):
        edge = low + round((high - low) * (k / parts) ** 2)
        edges.append(max(edge, edges[-1] + 1))
    return list(pairwise(edges))
