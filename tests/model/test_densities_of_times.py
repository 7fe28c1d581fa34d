"""Which times are learned and how often, against the distributions they are said to have."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from tests.helpers.path_models import Given, model, process

GRID = (torch.arange(999) + 1) / 1000
NORMAL = Normal(0.0, 1.0).icdf(GRID.double()).float()


def times(name: str, path: object, *draws: Tensor, **keys: object) -> Tensor:
    return model(name, path, **keys).times(Given(*draws)).double()


def test_u_shape_is_the_inverse_of_its_integral():
    """p(t) ~ e^(at) + e^(a(1-t)); the trapezoid rule integrates it up to every time drawn."""
    a = 4.0
    t = times("flow_matching", process("linear"), GRID, density="u_shape", scale=a)
    s = torch.linspace(0, 1, 100_001, dtype=torch.float64)
    p = (a * s).exp() + (a * (1 - s)).exp()
    mass = torch.cat([s.new_zeros(1), torch.cumulative_trapezoid(p, s)])
    below = np.interp(t.numpy(), s.numpy(), (mass / mass[-1]).numpy())
    np.testing.assert_allclose(below, GRID.numpy(), rtol=0, atol=1e-6)


def test_logit_normal_and_lognormal_have_their_distribution():
    t = times("flow_matching", process("linear"), NORMAL, density="logit_normal", location=-0.5,
              scale=1.5)  # fmt: skip
    cdf = Normal(-0.5, 1.5).cdf((t / (1 - t)).log())
    torch.testing.assert_close(cdf, GRID.double(), rtol=0, atol=1e-6)
    for name in ("linear", "vp", "ve", "edm", "trig"):
        path = process(name, **({"steps": None} if name == "vp" else {}))
        t = times("edm", path, NORMAL, predict="x0")
        cdf = Normal(-1.2, 1.2).cdf(path.sigma(t).log())
        inside = GRID > 0.01  # on ve, whose least sigma is 0.01, less lies below
        torch.testing.assert_close(cdf[inside], GRID.double()[inside], rtol=0, atol=1e-5)


def test_uniform_times_are_even_and_start_after_the_datum():
    t = times("flow_matching", process("linear"), torch.cat([torch.zeros(1), GRID]))
    assert t[0].item() == pytest.approx(1e-5)
    torch.testing.assert_close(t[1:], GRID.double())


def test_a_discrete_path_is_learned_at_each_of_its_times_equally_often():
    u = (torch.arange(5000) + 0.5) / 5000
    t = times("ddpm", process("vp"), u)
    where, counts = (t * 1000).unique(return_counts=True)
    torch.testing.assert_close(where, torch.arange(1, 1001).double())
    assert (counts == 5).all()
    for density in ("lognormal", "logit_normal", "u_shape"):
        draw = GRID if density == "u_shape" else NORMAL
        step = times("ddpm", process("vp"), draw, density=density) * 1000
        torch.testing.assert_close(step, step.round(), rtol=0, atol=1e-9)
        assert 1 <= step.min() < step.max() <= 1000


def test_the_ladder_is_ncsns():
    """Ten levels from 1 to 0.01 in equal ratios, each as often as the others."""
    path = process("ve", sigma_min=0.01, sigma_max=1.0)
    u = (torch.arange(100) + 0.5) / 100
    t = times("score_sde", path, u, density="ladder", levels=10)
    found, counts = path.sigma(t).unique(return_counts=True)
    expected = 0.01 * (1 / 0.01) ** (torch.arange(10, dtype=torch.float64) / 9)
    torch.testing.assert_close(found, expected)
    assert (counts == 10).all()


def test_the_ladder_of_a_path_that_starts_at_the_datum_has_its_own_ends():
    path = process("vp")
    u = (torch.arange(70) + 0.5) / 70
    sigma = path.sigma(times("score_sde", path, u, density="ladder", levels=7)).unique()
    assert len(sigma) == 7
    torch.testing.assert_close(sigma[[0, -1]], path.sigma(torch.tensor([0.001, 1.0])))
    ratios = sigma.log().diff()  # at the nearest of the thousand levels there are
    assert ratios.max() / ratios.min() < 1.2


@pytest.mark.parametrize(("name", "levels"), [("vp", 7), ("vp", 400), ("cosine", 7)])
def test_the_ladder_of_a_discrete_path_has_its_levels_alone(name, levels):
    ours = model("score_sde", process(name), density="ladder", levels=levels)
    steps = ours.process.steps
    whole = (ours.ladder * steps).round()
    assert torch.equal(ours.ladder, whole / steps)
    assert (whole[0], whole[-1]) == (1, steps)
