"""The ODE samplers on data whose denoiser is known in closed form.

For x0 ~ N(m, sd^2) the best estimate is x0 = m + a sd^2 / v (x_t - a m), v = a^2 sd^2 + b^2, and
the probability flow keeps (x_t - a m) / sqrt(v) constant. So the sample that belongs to a z at
t = 1 (a = 0, b = 1 on the linear path) is m + sd z.
"""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from genlab.errors import ConfigError
from genlab.gaussian import Path, levels
from genlab.process.linear import Linear
from genlab.sampler.euler import Euler as AnyEuler
from genlab.sampler.heun import Heun as AnyHeun
from genlab.sampler.one_step import OneStep

MEAN, SD = 0.7, 0.4


PLAIN = {"grid": "uniform", "span": None, "rho": 7.0}


def Euler(**keys):
    return AnyEuler(**{**PLAIN, **keys})


def Heun(**keys):
    return AnyHeun(**{**PLAIN, **keys})


def uniform(steps):
    return [1 - i / steps for i in range(steps + 1)]


class Cosine(Path):
    """Variance-preserving path x_t = cos(pi t / 2) x0 + sin(pi t / 2) eps."""

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        angle = t.double() * math.pi / 2
        a, b = angle.cos(), angle.sin()
        return a, b, -b * math.pi / 2, a * math.pi / 2


ODE = [Euler, Heun]


class Gaussian:
    """The exact field of N(MEAN, SD^2); counts its calls and remembers their times."""

    def __init__(self, process) -> None:
        self.process, self.times = process, []

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        assert (t == t[0]).all()
        self.times.append(t[0].item())
        a, b, _, _ = (c[:, None].to(x.dtype) for c in self.process.coefficients(t))
        return MEAN + a * SD**2 / (a**2 * SD**2 + b**2) * (x - a * MEAN)


def z() -> Tensor:
    return torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]


def error(sampler, process) -> float:
    *_, x = sampler(Gaussian(process), z(), process, None)
    return (x - (MEAN + SD * z())).abs().max().item()


@pytest.mark.parametrize("process", [Linear(), Cosine()], ids=["linear", "cosine"])
@pytest.mark.parametrize(("sampler", "order"), [(Euler, 1), (Heun, 2)])
def test_order_of_convergence(sampler, order, process):
    errors = [error(sampler(steps=n), process) for n in (32, 64, 128, 256)]
    slopes = [math.log2(a / b) for a, b in pairwise(errors)]
    assert slopes[-1] == pytest.approx(order, abs=0.15), (errors, slopes)
    assert errors[-1] < (0.01 if order == 1 else 1e-4)


@pytest.mark.parametrize("sampler", ODE)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_a_single_datum_is_hit_exactly(sampler, steps):
    """Its linear path has one velocity, so no step size errs."""
    datum = torch.tensor([[0.3, -1.2]], dtype=torch.float64)
    noise = torch.randn(1, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    states = list(sampler(steps=steps)(lambda x, t: datum, noise, Linear(), None))
    torch.testing.assert_close(states[-1], datum, rtol=0, atol=1e-15)
    for i, state in enumerate(states):
        t = 1 - i / steps
        torch.testing.assert_close(state, (1 - t) * datum + t * noise, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("sampler", "calls"),
    [
        (Euler(steps=4), [1.0, 0.75, 0.5, 0.25]),
        (Heun(steps=4), [1.0, 0.75, 0.75, 0.5, 0.5, 0.25, 0.25]),
        (Heun(steps=1), [1.0]),
    ],
    ids=["euler", "heun", "heun-1"],
)
def test_evaluations_and_states(sampler, calls):
    field = Gaussian(Linear())
    states = list(sampler(field, z(), Linear(), None))
    assert field.times == calls
    assert len(states) == sampler.steps + 1
    assert torch.equal(states[0], z())


def test_euler_is_ddim_on_the_same_noise_levels():
    """DDIM: keep the estimates of datum and noise, and mix them as the next time says."""
    field, x = Gaussian(Linear()), z()
    for t, after in pairwise(uniform(6)):
        x0 = field(x, torch.full((len(x),), t, dtype=x.dtype))
        eps = (x - (1 - t) * x0) / t
        x = (1 - after) * x0 + after * eps
    *_, ours = Euler(steps=6)(Gaussian(Linear()), z(), Linear(), None)
    torch.testing.assert_close(ours, x, rtol=0, atol=1e-14)


def test_the_velocity_of_a_node_is_that_of_the_path():
    """u = a' x0 + b' eps for any x0 and eps, with x_t = a x0 + b eps."""
    x0, eps = 0.37, -1.9
    for level in levels(Cosine(), uniform(5)[:-1])[:-1]:
        a, b, da, db = (float(c) for c in Cosine().coefficients(torch.tensor(level.t)))
        p, q = level.velocity
        velocity = p * (a * x0 + b * eps) + q * x0
        assert velocity == pytest.approx(da * x0 + db * eps, abs=1e-6)


@pytest.mark.parametrize("sampler", ODE)
def test_states_are_not_overwritten_and_the_noise_is_left_alone(sampler):
    start, kept, snapshots = z(), [], []
    for state in sampler(steps=5)(Gaussian(Linear()), start, Linear(), None):
        kept.append(state)
        snapshots.append(state.clone())
    assert torch.equal(start, z())
    assert all(torch.equal(a, b) for a, b in zip(kept, snapshots, strict=True))


@pytest.mark.parametrize("sampler", ODE)
def test_half_precision_estimates_do_not_change_the_type_of_the_state(sampler):
    start = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    *_, x = sampler(steps=3)(lambda x, t: x.bfloat16() * 0.5, start, Linear(), None)
    assert x.dtype == torch.float32


def test_one_step_refuses_a_field():
    with pytest.raises(ConfigError, match="euler or sampler=heun"):
        OneStep(temperature=1.0)(lambda x, t: x, z(), Linear(), None)
