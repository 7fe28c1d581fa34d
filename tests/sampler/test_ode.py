"""The ODE samplers against the exact flow of Gaussian data, each other and their formulas."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from genlab.core.gaussian_path import noise_levels
from genlab.sampler.noise_levels import grid
from tests.helpers.gaussian_data import MEAN, SD, Gaussian, flow, last, sampler, z
from tests.helpers.paths import PATHS, path

ODE = ["euler", "ddim", "heun", "dpmpp_2m"]
KARRAS = [(name, "karras") for name in PATHS]
UNIFORM = [("linear", "uniform"), ("trig", "uniform")]


def slopes(name: str, process, kind: str, counts: tuple[int, ...]) -> list[float]:
    """log2 of the factor by which the error falls when the steps double."""
    errors = []
    for steps in counts:
        ours = sampler(name, steps=steps, grid=kind)
        x = last(ours(Gaussian(process), z(), process, None))
        errors.append((x - flow(process, ours.noise_levels(process))).abs().max().item())
    return [math.log2(a / b) for a, b in pairwise(errors)]


@pytest.mark.parametrize(("process", "kind"), [*KARRAS, ("ve", "uniform"), *UNIFORM])
@pytest.mark.parametrize(
    ("name", "order"), [("euler", 1), ("ddim", 1), ("heun", 2), ("dpmpp_2m", 2)]
)
def test_order_of_convergence(name, order, process, kind):
    if name == "dpmpp_2m" and (process, kind) in UNIFORM:
        pytest.skip("its logarithm is tested by itself")
    found = slopes(name, path(process), kind, (64, 128, 256, 512))
    assert found[-1] == pytest.approx(order, abs=0.15), found


@pytest.mark.parametrize("process", ["linear", "trig"])
def test_dpmpp_loses_a_logarithm_where_ln_sigma_is_unbounded(process):
    """error = (c + d ln steps) / steps^2, so times steps^2 it grows by d ln 2 at each doubling."""
    process, found = path(process), []
    for steps in (128, 256, 512, 1024):
        x = last(sampler("dpmpp_2m", steps=steps)(Gaussian(process), z(), process, None))
        found.append((x - (MEAN + SD * z())).abs().max().item() * steps**2)
    growth = [b - a for a, b in pairwise(found)]
    assert growth[-1] == pytest.approx(growth[-2], rel=0.05), found


@pytest.mark.parametrize("process", [*PATHS, "ddpm"])
def test_ddim_is_euler_in_sigma(process):
    """y = x / a,  y <- y + eps (sigma_next - sigma),  eps = (y - x0) / sigma."""
    process, ladder = path(process), [40.0, 9.0, 2.0, 0.6, 0.1]
    denoiser = Gaussian(process)
    x = last(sampler("ddim", grid=ladder)(Gaussian(process), z(), process, None))
    t = process.time(torch.tensor(ladder, dtype=torch.float64))
    a, b, _, _ = process.coefficients(t)
    y = z() * b[0] / a[0]
    for i, (sigma, after) in enumerate(pairwise([*ladder, 0.0])):
        eps = (y - denoiser(y * a[i], t[i].expand(len(y)))) / sigma
        y = y + eps * (after - sigma)
    torch.testing.assert_close(x, y, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", ["uniform", "quadratic", "karras"])
def test_euler_on_the_straight_path_is_ddim_on_its_levels(kind):
    process = path("linear")
    euler, ddim = (
        last(sampler(name, steps=9, grid=kind)(Gaussian(process), z(), process, None))
        for name in ("euler", "ddim")
    )
    torch.testing.assert_close(euler, ddim, rtol=0, atol=1e-13)


def test_euler_in_the_time_of_a_curved_path_is_not_ddim():
    process = path("trig")
    euler, ddim = (
        last(sampler(name, steps=9)(Gaussian(process), z(), process, None))
        for name in ("euler", "ddim")
    )
    assert (euler - ddim).abs().max() > 1e-3


def test_heun_on_edms_path_is_algorithm_1():
    """In sigma: d = (y - D) / sigma, Euler, and the mean of two slopes."""
    process = path("edm")
    found = last(sampler("heun", steps=6, grid="karras")(Gaussian(process), z(), process, None))
    denoiser, ladder = Gaussian(process), [v.sigma for v in grid(process, 6, "karras", None, 7.0)]

    def slope(y, sigma):
        return (y - denoiser(y, torch.full((len(y),), sigma / 80, dtype=y.dtype))) / sigma

    y = z() * 80
    for sigma, after in pairwise(ladder):
        d = slope(y, sigma)
        ahead = y + (after - sigma) * d
        y = y + (after - sigma) * (d + slope(ahead, after)) / 2 if after else ahead
    torch.testing.assert_close(found, y, rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", ["ddim", "dpmpp_2m"])
def test_samplers_in_sigma_do_not_know_the_path(name):
    """On the same sigmas, from the same y = x / a, every path gives the same sample."""
    ladder, found = [40.0, 12.0, 3.0, 0.7, 0.1, 0.02], []
    for process in map(path, PATHS):
        first, *_ = noise_levels(
            process, process.time(torch.tensor(ladder, dtype=torch.float64)).tolist()
        )
        start = z() * 40 * first.a / first.b
        found.append(last(sampler(name, grid=ladder)(Gaussian(process), start, process, None)))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=0, atol=1e-8)


def test_dpmpp_keeps_the_noise_of_a_single_datum_on_a_curved_path():
    process, ladder = path("trig"), [20.0, 3.0, 0.4, 0.05]
    datum = torch.full_like(z(), 0.3)
    states = list(sampler("dpmpp_2m", grid=ladder)(lambda x, t: datum, z(), process, None))
    path_ = noise_levels(process, process.time(torch.tensor(ladder, dtype=torch.float64)).tolist())
    eps = (states[0] - path_[0].a * datum) / path_[0].b
    for state, level in zip(states, path_, strict=True):
        torch.testing.assert_close(state, level.a * datum + level.b * eps, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ODE)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_a_single_datum_is_hit_exactly(name, steps):
    """Its straight path has one velocity, so no step size errs."""
    datum = torch.tensor([[0.3, -1.2]], dtype=torch.float64)
    noise = torch.randn(1, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    states = list(sampler(name, steps=steps)(lambda x, t: datum, noise, path("linear"), None))
    torch.testing.assert_close(states[-1], datum, rtol=0, atol=1e-15)
    for i, state in enumerate(states):
        t = 1 - i / steps
        torch.testing.assert_close(state, (1 - t) * datum + t * noise, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("name", "calls"),
    [
        ("euler", [1.0, 0.75, 0.5, 0.25]),
        ("dpmpp_2m", [1.0, 0.75, 0.5, 0.25]),
        ("heun", [1.0, 0.75, 0.75, 0.5, 0.5, 0.25, 0.25]),
    ],
)
def test_when_the_field_is_asked(name, calls):
    denoiser = Gaussian(path("linear"))
    states = list(sampler(name, steps=4)(denoiser, z(), path("linear"), None))
    assert denoiser.times == calls
    assert torch.equal(states[0], z())


@pytest.mark.parametrize("name", ["edm", "linear"])
def test_dpmpp_2m_of_three_uneven_steps_by_hand(name):
    """Lu et al., algorithm 2: the second step goes by D = x0 + h / (2 h_last) (x0 - x0_last)."""
    a, b = {
        "edm": (lambda s: 1.0, lambda s: s),
        "linear": (lambda s: 1 / (1 + s), lambda s: s / (1 + s)),
    }[name]
    said, sigma = [0.4, -0.2, 0.9], [8.0, 2.0, 0.25]
    answers, start = iter(said), torch.ones(1, 1, dtype=torch.float64)
    states = sampler("dpmpp_2m", grid=sigma)(
        lambda x, t: torch.full_like(x, next(answers)), start, path(name), None
    )
    h_last, h = math.log(4), math.log(8)
    x, wanted = b(8.0), [b(8.0)]
    for s, after, estimate in (
        (8.0, 2.0, 0.4),
        (2.0, 0.25, -0.2 + h / (2 * h_last) * (-0.2 - 0.4)),
    ):
        x = b(after) / b(s) * x - a(after) * math.expm1(math.log(after / s)) * estimate
        wanted.append(x)
    assert [v.item() for v in states] == pytest.approx([*wanted, 0.9], rel=1e-9)
