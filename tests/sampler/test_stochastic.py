"""The stochastic samplers against Bayes' rule and the exact mean and variance of Gaussian data."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from genlab.core.gaussian_path import noise_levels
from genlab.core.random import SampleNoise
from tests.helpers.gaussian_data import MEAN, SD, Gaussian, influences, last, sampler, z
from tests.helpers.paths import PATHS, path

ALL = [*PATHS, "ddpm"]


def variance(sampler, process, rows: int) -> float:
    return influences(sampler, process, rows)[0].square().sum().item()


def excess(name: str, process: str, steps: int, **keys) -> float:
    """Of a sample's variance over what the estimate at the last level has by right, in parts."""
    ours = sampler(name, steps=steps, grid="karras", **keys)
    quietest = ours.noise_levels(path(process))[-2]
    data = (quietest.a * SD**2) ** 2 / ((quietest.a * SD) ** 2 + quietest.b**2)
    return variance(ours, path(process), steps + 2) / data - 1


# --- ancestral and DDIM ----------------------------------------------------------------------


@pytest.mark.parametrize("process", ALL)
@pytest.mark.parametrize(("t", "s", "between"), [(1.0, 0.9, 0), (0.8, 0.3, 3), (0.02, 0.01, 1)])
def test_the_posterior_is_gaussian_conditioning(process, t, s, between):
    """The chain written out: every level adds noise to a multiple of the one below it.

    Its joint covariance, given x0, is conditioned on the noisiest state. How many levels lie
    between the two changes nothing.
    """
    times = [t + (s - t) * i / (between + 1) for i in range(between + 2)]
    chain = noise_levels(path(process), times)[:-1][::-1]  # from the quiet level up
    n = len(chain)
    rows = torch.zeros(n, n, dtype=torch.float64)  # states as sums of independent noises
    rows[0, 0] = chain[0].b
    for i, (low, high) in enumerate(pairwise(chain), start=1):
        alpha = high.a / low.a
        rows[i] = alpha * rows[i - 1]
        rows[i, i] = math.sqrt(high.b**2 - (alpha * low.b) ** 2)
    joint = rows @ rows.T
    assert joint.diag().tolist() == pytest.approx([level.b**2 for level in chain], rel=1e-9)
    gain = (joint[0, -1] / joint[-1, -1]).item()
    left = (joint[0, 0] - joint[0, -1] ** 2 / joint[-1, -1]).item()
    step = chain[-1].back(chain[0])
    assert step.on_here == pytest.approx(gain, rel=1e-9)
    assert step.on_datum == pytest.approx(chain[0].a - gain * chain[-1].a, rel=1e-9)
    assert step.small == pytest.approx(left, rel=1e-7)


def test_ddpms_own_numbers():
    """Eq. 7: mu = (sqrt(abar_(t-1)) beta x0 + sqrt(alpha) (1 - abar_(t-1)) x) / (1 - abar_t)."""
    beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    bar = (1 - beta).cumprod(0)
    for i in (1, 2, 500, 999):  # DDPM's count, from 0
        high, low, _ = noise_levels(path("ddpm"), [(i + 1) / 1000, i / 1000])
        step = high.back(low)
        on_x0 = bar[i - 1].sqrt() * beta[i] / (1 - bar[i])
        on_x = (1 - beta[i]).sqrt() * (1 - bar[i - 1]) / (1 - bar[i])
        tilde = (1 - bar[i - 1]) / (1 - bar[i]) * beta[i]
        assert step.on_here == pytest.approx(on_x.item(), rel=1e-9)
        assert step.on_datum == pytest.approx(on_x0.item(), rel=1e-9)
        assert step.small == pytest.approx(tilde.item(), rel=1e-9)
        assert step.large == pytest.approx(beta[i].item(), rel=1e-9)


@pytest.mark.parametrize("process", ALL)
@pytest.mark.parametrize("kind", ["uniform", "karras"])
def test_ddim_with_all_noise_new_is_ancestral_sampling(process, kind):
    keys = {"steps": 12, "grid": kind}
    ours, mean, _ = influences(sampler("ddim", eta=1, **keys), path(process), 14)
    theirs, same, _ = influences(sampler("ancestral", variance="small", **keys), path(process), 14)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    assert mean == pytest.approx(same, abs=1e-12)


@pytest.mark.parametrize("process", ALL)
@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("ancestral", {"variance": "small"}),
        ("ancestral", {"variance": "large"}),
        ("ddim", {"eta": 0.5}),
    ],
)
def test_many_small_steps_give_the_variance_of_the_data(process, name, keys):
    """To first order in their length."""
    off = [abs(excess(name, process, steps, **keys)) for steps in (100, 200, 400)]
    assert off[-1] < 0.035, off
    assert [math.log2(a / b) for a, b in pairwise(off)] == pytest.approx([1, 1], abs=0.15), off


@pytest.mark.parametrize("process", PATHS)
def test_churn_leaves_the_variance_of_the_data_as_it_is(process):
    """To second order, as Heun's method does, although each of 100 steps renews noise."""
    off = [abs(excess("heun", process, steps, churn=10)) for steps in (100, 200, 400)]
    assert off[-1] < 1e-3, off
    assert off[-1] < off[-2] / 3 < off[-3] / 9, off


def test_less_noise_is_new_with_a_smaller_eta():
    process, new = path("linear"), []
    for eta in (0.0, 0.3, 1.0):
        found = influences(sampler("ddim", steps=20, eta=eta), process, 22)[0]
        new.append(found[1:].square().sum().item())
    assert new[0] == 0 < new[1] < new[2]


def test_the_mean_of_the_data_is_met():
    for name in ("ancestral", "ddim", "heun", "langevin"):
        keys = {"churn": 5} if name == "heun" else {}
        keys |= {"repeats": 20, "rate": 0.3} if name == "langevin" else {}
        mean = influences(sampler(name, steps=40, grid="karras", **keys), path("edm"), 830)[1]
        assert mean == pytest.approx(MEAN, abs=0.02), name


# --- churn -----------------------------------------------------------------------------------


@pytest.mark.parametrize("process", ["linear", "trig", "ve", "vp", "ddpm"])
@pytest.mark.parametrize("noise", [1.0, 1.007])
def test_churn_raises_the_noise_by_what_it_says(process, noise):
    """The denoiser's first input: noise of sigma^2 + S^2 (sigma^^2 - sigma^2) around a x0."""
    process, ladder = path(process), [20.0, 5.0, 1.0, 0.1]
    ours = sampler("heun", grid=ladder, churn=0.8, noise=noise)
    gamma = 0.8 / 4
    _, _, denoiser = influences(ours, process, 7)
    a, _, _, _ = process.coefficients(torch.tensor([denoiser.times[0]], dtype=torch.float64))
    assert process.sigma(torch.tensor([denoiser.times[0]])).item() == pytest.approx(
        20 * (1 + gamma), rel=1e-4
    )
    first = denoiser.states[0][:, 0] / a
    found = (first - first[-1]).square().sum().item()
    assert found == pytest.approx(400 + noise**2 * 400 * ((1 + gamma) ** 2 - 1), rel=1e-6)


def test_churn_keeps_to_its_limits():
    process, ladder = path("edm"), [80.0, 40.0, 5.0, 1.0, 0.1]

    def raised(**keys):
        ours = sampler("heun", grid=ladder, **keys)
        found = ours.raised(process, ours.noise_levels(process))
        return [level.sigma / sigma for level, sigma in zip(found, ladder, strict=True)]

    once = 1 + 1 / 5
    assert raised(churn=1) == pytest.approx([1, once, once, once, once]), "80 is the end"
    assert raised(churn=1, churn_min=0.5, churn_max=5) == pytest.approx([1, 1, once, once, 1])
    most = math.sqrt(2)
    assert raised(churn=50) == pytest.approx([1, most, most, most, most])
    assert raised(churn=0) == [1, 1, 1, 1, 1]


@pytest.mark.parametrize("process", ALL)
def test_without_churn_nothing_changes_and_nothing_is_drawn(process):
    process = path(process)
    plain = last(sampler("heun", steps=9)(Gaussian(process), z(), process, None))
    keys = {"churn": 0, "churn_min": 0.1, "churn_max": 9, "noise": 1.1}
    other = last(sampler("heun", steps=9, **keys)(Gaussian(process), z(), process, None))
    assert torch.equal(plain, other)
    none = sampler("heun", steps=9, churn=20, churn_min=1e6)
    assert torch.equal(plain, last(none(Gaussian(process), z(), process, None)))


def test_where_there_is_noise_alone_churn_adds_none():
    ours = sampler("heun", steps=4, churn=1)
    path_ = ours.noise_levels(path("linear"))
    assert ours.raised(path("linear"), path_)[0] is path_[0]


# --- Langevin --------------------------------------------------------------------------------


@pytest.mark.parametrize("process", ALL)
def test_a_langevin_chain_has_the_variance_of_its_recursion(process):
    """x <- (1 - r b^2 / v) x + sqrt(2 r) b z + const, v = a^2 sd^2 + b^2, once for each repeat."""
    process, ladder, rate, repeats = path(process), [9.0, 3.0, 0.5], 0.3, 4
    ours = sampler("langevin", grid=ladder, rate=rate, repeats=repeats)
    chain = ours.noise_levels(process)
    wanted = chain[0].b ** 2
    for here, there in pairwise(chain):
        v = (here.a * SD) ** 2 + here.b**2
        for _ in range(repeats):
            wanted = (1 - rate * here.b**2 / v) ** 2 * wanted + 2 * rate * here.b**2
        estimate = here.a * SD**2 / v
        wanted *= (there.a / here.a) ** 2 if there.b else estimate**2
    assert variance(ours, process, 14) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("process", ["ve", "linear", "vp"])
def test_annealed_langevin_is_near_the_variance_of_the_data(process):
    """It lags behind the falling levels: with NCSNv2's numbers by what its own recursion says.

    Of noise alone, w of sigma^2 is kept from level to level when
    w = (1 - r)^2T (g^2 w - s) + s,  s = 1 / (1 - r / 2),  g the ratio of levels.
    """
    rate, repeats, keys = 0.062, 5, {"span": [0.01, 50.0]}
    ours = sampler("langevin", **keys)
    g2, s, left = (50 / 0.01) ** (2 / 231), 1 / (1 - rate / 2), (1 - rate) ** (2 * repeats)
    lag = s * (1 - left) / (1 - left * g2) - 1
    found = variance(ours, path(process), 232 * repeats + 2) / SD**2 - 1
    assert found == pytest.approx(lag, abs=0.02)
    twice = variance(sampler("langevin", repeats=10, **keys), path(process), 2322) / SD**2 - 1
    assert 0 < twice < 0.6 * found


def test_a_chain_of_noise_alone_stays_noise():
    """At a = 0 the stationary variance is b^2 / (1 - rate / 2), and then eps goes on."""
    process = path("linear")
    ours = sampler("langevin", steps=2, grid="uniform", rate=0.25, repeats=60)
    _, _, denoiser = influences(ours, process, 122)
    after = denoiser.states[60][:, 0]  # the first that the second level is asked
    found = (after - after[-1]).square().sum().item()
    assert found == pytest.approx(0.25 / (1 - 0.125), rel=1e-6)


# --- predictor-corrector ---------------------------------------------------------------------

MANY = 2**16
"""Numbers in a sample: a variance over them is known to 0.55 %."""


def normal(n: int, seed: int = 0) -> torch.Tensor:
    return SampleNoise(seed, range(n), "cpu").normal(MANY)


@pytest.mark.parametrize(("process", "t"), [("ve", 0.5), ("linear", 0.4), ("vp", 0.3)])
def test_corrections_keep_the_distribution_of_their_level(process, t):
    """w <- (1 - e / v)^2 w + 2 e,  e = 2 alpha snr^2 v^2 / w: w of the state, v of the level.

    For |z|^2 / |s|^2 is v^2 / w for many numbers. From w = 4 v the chain comes down to
    v (1 + alpha snr^2), which is v but for the length of a step.
    """
    process, alpha, snr = path(process), 0.9, 0.3
    ours = sampler("predictor_corrector", snr=snr)
    level, _ = noise_levels(process, [t])
    v = (level.a * SD) ** 2 + level.b**2
    w, noise, denoiser = 4 * v, SampleNoise(1, range(1), "cpu"), Gaussian(process, mean=0.0)
    x, time = normal(1) * math.sqrt(w), torch.tensor([t])
    for _ in range(60):
        e = 2 * alpha * snr**2 * v**2 / w
        w = (1 - e / v) ** 2 * w + 2 * e
        x = ours.corrected(x, denoiser(x, time), level, alpha, noise)
        assert x.square().mean().item() == pytest.approx(w, rel=0.025)
    assert w == pytest.approx(v * (1 + alpha * snr**2), rel=1e-4)


@pytest.mark.parametrize("process", ["ve", "linear", "vp", "edm"])
@pytest.mark.parametrize("kind", ["small", "large"])
def test_predictor_corrector_meets_mean_and_variance(process, kind):
    process = path(process)
    ours = sampler("predictor_corrector", steps=200, variance=kind, grid="karras")
    x = last(ours(Gaussian(process), normal(1), process, SampleNoise(2, range(1), "cpu")))
    assert x.mean().item() == pytest.approx(MEAN, abs=0.02)
    assert x.var().item() / SD**2 == pytest.approx(1, abs=0.1)


def test_no_corrections_are_ancestral_sampling():
    process, draws = path("linear"), []
    for ours in (
        sampler("predictor_corrector", steps=6, corrections=0, variance="small"),
        sampler("ancestral", steps=6, variance="small"),
    ):
        noise = SampleNoise(0, range(2), "cpu")
        draws.append(last(ours(Gaussian(process), noise.normal(5), process, noise)))
    assert torch.equal(*draws)


def test_where_there_is_noise_alone_it_is_not_corrected():
    process = path("linear")
    denoiser = Gaussian(process)
    noise = SampleNoise(0, range(2), "cpu")
    start = noise.normal(50)
    list(sampler("predictor_corrector", steps=3)(denoiser, start, process, noise))
    assert denoiser.times[:2] == [1.0, 1.0]
    assert torch.equal(denoiser.states[0], denoiser.states[1])
