"""The probability flow where it is known.

On normal data a sample is a multiple of its noise; on a finite data set the density is a mixture
of normal ones.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from genlab.assemble.bound_sampler import PathSampler
from genlab.core.gaussian_path import DATUM, change_path, noise_levels, truncate
from genlab.sampler.euler import Euler
from tests.helpers.paths import SPEC
from tests.process.test_paths import PATHS, at, make

POINTS = torch.tensor([[1.0, 0.2], [-0.7, 0.8], [0.1, -1.1]], dtype=torch.float64)


def finite(process):
    """The denoiser of data that are POINTS: their mean under p(point | x_t)."""

    def denoiser(x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        a, b, _, _ = process.coefficients(t)
        off = torch.cdist(x, a[0] * POINTS).square() / (2 * b[0] ** 2)
        return (-off).softmax(1) @ POINTS

    return denoiser


LONG = [p for p in PATHS if p not in ("vp, 10 steps", "vp, one rate")]
"""Paths that get to sigma = 50."""


@pytest.mark.parametrize("path", LONG)
def test_switching_the_path_while_sampling_changes_nothing(path):
    """Euler along edm, of a denoiser that knows another path, is Euler of the denoiser of edm."""
    own, edm = make(path), make("edm", sigma_max=50)
    sampler = Euler(SPEC, steps=12, grid="karras", span=[0.05, 50], rho=7, clip=False)
    z = torch.randn(9, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    wanted, found = [], []
    straight = PathSampler(sampler, None, edm)
    straight.watch = wanted.append
    straight(finite(edm), z, None, None)
    through = PathSampler(sampler, None, own, edm)
    through.watch = found.append
    through(finite(own), z, None, None)
    assert through.evaluations == 12
    assert len(found) == 13
    torch.testing.assert_close(torch.stack(found), torch.stack(wanted), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("other", PATHS)
@pytest.mark.parametrize("own", PATHS)
def test_a_switched_field_has_values_at_both_ends(own, other):
    """There sigma may be 0, inf or outside the denoiser's own path."""
    x = torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    asked = {}

    def denoiser(x, t, y):
        asked.update(x=x, t=t)
        return x

    change_path(denoiser, make(own), make(other))(x, at(0, 1e-6, 1 - 1e-6, 1), None)
    assert asked["x"].isfinite().all()
    assert ((asked["t"] >= 0) & (asked["t"] <= 1)).all()


@pytest.mark.parametrize("path", PATHS)
def test_a_path_is_followed_as_far_as_the_field_knows_its_own(path):
    """To the level next to there, if it has levels."""
    within = make("edm", sigma_max=3)
    followed = truncate(make(path), within)
    rough = 0.5 if path == "vp, 10 steps" else 0.05 if followed.steps else 1e-9
    assert followed.sigma(at(1)).item() == pytest.approx(3, rel=rough)
    assert truncate(within, make(path)) is within


def test_a_grid_ends_at_the_datum():
    found = noise_levels(make("linear"), [1.0, 0.25])
    assert found[0][:3] == (1, 0, 1)
    assert found[0].sigma == math.inf
    assert found[1].sigma == pytest.approx(1 / 3)
    assert found[2] is DATUM
    assert (DATUM.a, DATUM.sigma) == (1, 0)


# --- from the flow alone: density of a finite data set -------------------------------------------


def log_density(process, x: Tensor, t: float) -> Tensor:
    """log p_t of POINTS, but for a constant: the mean of normal densities."""
    a, b, _, _ = process.coefficients(at(t))
    off = torch.cdist(x, a * POINTS).square() / (2 * b**2)
    return (-off).logsumexp(1) - 2 * b.log()


def derivatives(process, x: Tensor, t: float):
    """(d/dt log p, gradient, Laplacian of log p) at x [n, 2]."""
    h = 1e-5 * t
    after, before = (log_density(process, x, t + d) for d in (h, -h))
    x = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(log_density(process, x, t).sum(), x, create_graph=True)
    bend = sum(
        torch.autograd.grad(slope[:, i].sum(), x, retain_graph=True)[0][:, i] for i in (0, 1)
    )
    return (after - before) / (2 * h), slope.detach(), bend


def places() -> Tensor:
    return torch.randn(30, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("path", PATHS)
def test_the_flow_carries_the_density(path):
    """dp/dt = -div(p u), whatever the path: what makes the flow a sampler."""
    process = make(path)
    t = process.time(at(0.6)).item()
    p, q = noise_levels(process, [t])[0].velocity
    x = places().requires_grad_()
    u = p * x + q * finite(process)(x, at(t))
    div = sum(torch.autograd.grad(u[:, i].sum(), x, retain_graph=True)[0][:, i] for i in (0, 1))
    change, slope, _ = derivatives(process, x.detach(), t)
    wanted = -div - (u.detach() * slope).sum(1)
    torch.testing.assert_close(change, wanted, rtol=1e-5, atol=1e-5)
