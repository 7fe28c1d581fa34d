"""The variational bound: links by Bayes' rule, KLs of torch, and Gaussian data in closed form."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from genlab.core.random import SampleNoise
from genlab.model.vlb import discretized_log_likelihood, links, normal_kl, variational_bound
from genlab.process.vp import VariancePreserving
from tests.helpers.gaussians import BY_NAME


def noise(n, seed=0):
    return SampleNoise(seed, range(n), torch.device("cpu"))


def chain(steps):
    return torch.arange(1, steps + 1, dtype=torch.float64) / steps


def short(steps):
    """DDPM's path in fewer steps, which ends as noisy."""
    return VariancePreserving(beta_min=0.1, beta_max=min(20.0, 0.6 * steps), steps=steps)


def reverse_of(process, deviation, variance):
    """The best reverse chain of data N(0, deviation^2), or one with another variance a link."""

    def reverse(x, t, y):
        a, b, _, _ = (c.view(-1, *[1] * (x.dim() - 1)) for c in process.coefficients(t))
        x0 = a * deviation**2 * x.double() / (a.square() * deviation**2 + b.square())
        i = (t * len(variance)).round().long() - 1
        return x0, variance[i].log().view(-1, *[1] * (x.dim() - 1))

    return reverse


def best(process, deviation, steps):
    """Variance of x_{i-1} given x_i, [steps], for N(0, deviation^2): from the joint normal."""
    a, b, _, _ = process.coefficients(chain(steps))
    a, b = torch.cat([a.new_ones(1), a]), torch.cat([b.new_zeros(1), b])
    own = (a * deviation).square() + b.square()
    # x_i = alpha x_{i-1} + noise, so cov(x_{i-1}, x_i) = alpha var(x_{i-1})
    covariance = a[1:] / a[:-1] * own[:-1]
    return own[:-1] - covariance.square() / own[1:]


def test_three_links_by_hand():
    """beta .1, .3 and .5 leave .9, .63 and .315 of the variance (Ho et al., eq. 7)."""
    process = VariancePreserving(beta_min=0.3, beta_max=1.5, steps=3)
    found = links(process, chain(3))
    on_datum = [1, 0.9**0.5 * 0.3 / 0.37, 0.63**0.5 * 0.5 / 0.685]
    on_here = [0, 0.7**0.5 * 0.1 / 0.37, 0.5**0.5 * 0.37 / 0.685]
    small = [0, 0.3 * 0.1 / 0.37, 0.5 * 0.37 / 0.685]
    assert found.on_datum.tolist() == pytest.approx(on_datum, rel=1e-12)
    assert found.on_here.tolist() == pytest.approx(on_here, rel=1e-12)
    assert found.small.tolist() == pytest.approx(small, rel=1e-12)
    assert found.large.tolist() == pytest.approx([0.1, 0.3, 0.5], rel=1e-12)


def test_kl_is_that_of_torch():
    mean, mean2, log, log2 = torch.randn(4, 50, dtype=torch.float64)
    torch.testing.assert_close(
        normal_kl(mean, log, mean2, log2),
        kl_divergence(Normal(mean, (log / 2).exp()), Normal(mean2, (log2 / 2).exp())),
    )


@pytest.mark.parametrize("deviation", [1e-3, 0.05, 1.0, 30.0])
def test_grey_values_share_all_probability(deviation):
    values = torch.linspace(-1, 1, 256, dtype=torch.float64)
    mean = torch.tensor([-1.2, -0.31, 0.0, 0.9], dtype=torch.float64)[:, None]
    log_variance = torch.tensor(2 * math.log(deviation)).double()
    log_p = discretized_log_likelihood(values.expand(4, 256), mean, log_variance)
    torch.testing.assert_close(log_p.logsumexp(1), torch.zeros(4).double())
    assert log_p.isfinite().all() or deviation < 0.01
    inside = Normal(mean, deviation)
    edge = values[1:-1]
    direct = (inside.cdf(edge + 1 / 255) - inside.cdf(edge - 1 / 255)).clamp(min=1e-12).log()
    seen = direct > -20
    torch.testing.assert_close(log_p[:, 1:-1][seen], direct[seen], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("kind", "digits"), [(torch.float64, 1e-9), (torch.float32, 2e-5)])
@pytest.mark.parametrize("deviation", [1e-4, 0.01, 0.3])
def test_grey_values_teach_mean_and_variance_at_the_ends_and_far_away(deviation, kind, digits):
    """Value and gradient against differences of 60 digits, up to 10,000s of deviations off."""
    points = [
        (x, m) for x in (-1.0, -127 / 255, 1 / 255, 1.0) for m in (-3.0, -1, -0.3, 0.01, 0.9)
    ]
    points += [(x, x) for x in (-1.0, 1 / 255, 1.0)] + [(1.0, 5.0), (-1.0, -5.0), (-1.0, 5.0)]
    x, mean = torch.tensor(points, dtype=kind).T
    log_variance = torch.full_like(mean, 2 * math.log(deviation)).requires_grad_()
    mean = mean.clone().requires_grad_()
    value = discretized_log_likelihood(x, mean, log_variance)
    found = torch.autograd.grad(value.sum(), (mean, log_variance))

    def exact(x, mean, log):
        rate, half = mpmath.exp(-log / 2), mpmath.mpf(1) / 255
        low = -mpmath.inf if x == -1 else (x - mean - half) * rate
        high = mpmath.inf if x == 1 else (x - mean + half) * rate
        low, high = (low, high) if low + high <= 0 else (-high, -low)
        return mpmath.log(mpmath.ncdf(high) - mpmath.ncdf(low))

    with mpmath.workdps(60):
        for i, at in enumerate(zip(x.tolist(), mean.tolist(), log_variance.tolist(), strict=True)):
            given = [mpmath.mpf(v) for v in at]
            wanted = [exact(*given)]
            for k in (1, 2):
                step = mpmath.mpf(10) ** -20
                up, down = (
                    exact(*(v + sign * step * (j == k) for j, v in enumerate(given)))
                    for sign in (1, -1)
                )
                wanted.append((up - down) / (2 * step))
            got = [value[i].item(), found[0][i].item(), found[1][i].item()]
            scale = 1 / deviation  # a float32 edge is 6e-8 off, which is as much of a deviation
            for g, w, unit in zip(got, wanted, (1, scale, 1), strict=True):
                assert g == pytest.approx(float(w), rel=digits * 10, abs=digits * unit), at


@pytest.mark.parametrize("steps", [8, 60])
def test_gaussian_data_in_closed_form(steps):
    """With the true reverse chain the bound is tight but for where it starts.

    E bound = entropy + KL(N(0, a^2 s^2 + b^2) || N(0, b^2)): the rest of it is the KL between what
    the chain is given and what it is. Grey values are fine here, and hardly one lies at an end.
    """
    deviation, process = 0.25, short(steps)
    x = (torch.randn(4000, 4, dtype=torch.float64) * deviation).clamp(-1, 1)
    x = (x * 127.5 + 127.5).round() / 127.5 - 1
    variance = best(process, deviation, steps)
    found = variational_bound(reverse_of(process, deviation, variance), process, x, None,
                              noise(4000), times=chain(steps))  # fmt: skip
    data = Normal(0.0, deviation)
    a, b, _, _ = (c[-1].item() for c in process.coefficients(chain(steps)))
    last = Normal(0.0, math.hypot(a * deviation, b))
    start = kl_divergence(last, Normal(0.0, b)).item() * 4
    # of these x rather than of all, so that their own spread is not in the difference
    bits = -(data.log_prob(x) + math.log(2 / 255)).sum(1)
    gap = found.total - bits
    assert gap.mean().item() == pytest.approx(start, abs=4 * (gap.std() / 4000**0.5).item() + 2e-3)
    torch.testing.assert_close(found.prior, (a / b * x).square().sum(1) / 2)


@pytest.mark.parametrize("which", ["small", "large"])
def test_fixed_variances_cost_what_they_must(which):
    """KL of each link for Gaussian data, means right and variance given: by hand, and as found."""
    steps, deviation = 12, 0.25
    process = short(steps)
    own, true = links(process, chain(steps)), best(process, deviation, steps)
    variance = getattr(own, which).clone()
    variance[0] = own.small[1]
    x = torch.randn(4000, 4, dtype=torch.float64) * deviation
    found = variational_bound(
        reverse_of(process, deviation, variance), process, x, None, noise(4000), times=chain(steps)
    )
    # E (mean of q - mean of p)^2 is what x0 adds to the variance of x_{i-1} given x_i
    off = (true - own.small)[1:]
    small, variance = own.small[1:], variance[1:]
    by_hand = 2 * ((variance / small).log() + (small + off) / variance - 1)  # of 4 numbers
    error = found.chain.std().item() / 4000**0.5
    assert found.chain.mean().item() == pytest.approx(by_hand.sum().item(), abs=4 * error)


def test_a_part_of_the_links_stands_for_all():
    steps, deviation = 200, 0.25
    process = BY_NAME["trig"]
    x = torch.randn(1, 3, dtype=torch.float64) * deviation
    reverse = reverse_of(process, deviation, best(process, deviation, steps + 1)[:-1])
    calls = []

    def counted(x, t, y):
        calls.append(t)
        return reverse(x, t, y)

    times = chain(steps + 1)[:-1]

    def bound(evaluations, rows):
        given = x.expand(rows, 3)
        return variational_bound(
            counted, process, given, None, noise(rows), times=times, evaluations=evaluations
        )

    whole = bound(None, 200)
    assert len(calls) == steps
    calls.clear()
    part = bound(20, 2000)
    assert len(calls) == 20
    assert torch.cat(calls).unique().numel() == steps, "every link has its turn"
    error = math.hypot(part.chain.std() / 2000**0.5, whole.chain.std() / 200**0.5)
    assert part.chain.mean().item() == pytest.approx(whole.chain.mean().item(), abs=4 * error)
    with pytest.raises(ValueError, match="2 evaluations or more"):
        bound(1, 1)
