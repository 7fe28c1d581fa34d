"""What holds for every sampler on every path."""

from __future__ import annotations

import pytest
import torch

from genlab.assemble.bound_sampler import PathSampler
from genlab.core.errors import ConfigError
from genlab.core.gaussian_path import TruncatedPath
from genlab.core.random import SampleNoise
from genlab.guidance.cfg import ClassifierFree
from genlab.sampler.one_step import OneStep
from tests.helpers.gaussian_data import CLIPPED, SAMPLERS, Gaussian, last, sampler
from tests.helpers.paths import PATHS, SPEC, path

STEPS = 40


def short(name):
    """A sampler that is quick; skips where its package is missing."""
    if name == "rk45":
        pytest.importorskip("torchdiffeq")
        return sampler(name)
    fast = {"repeats": 4, "rate": 0.5} if name == "langevin" else {}
    return sampler(name, steps=STEPS, **fast)


def draw(name, process, indices, denoiser=None, seed=0):
    noise = SampleNoise(seed, indices, "cpu")
    start = noise.normal(*SPEC.shape)
    return last(short(name)(denoiser or Gaussian(process), start, process, noise))


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("process", [*PATHS, "ddpm", "cut"])
def test_every_sampler_follows_every_path(name, process):
    process = TruncatedPath(path("linear"), 0.98) if process == "cut" else path(process)
    short_one = short(name)
    short_one.check(process, SPEC)
    noise, denoiser = SampleNoise(0, range(3), "cpu"), Gaussian(process)
    start = noise.normal(*SPEC.shape)
    states, copies = [], []
    for state in short_one(denoiser, start, process, noise):
        states.append(state)
        copies.append(state.clone())
    assert all(torch.equal(a, b) for a, b in zip(states, copies, strict=True)), "overwritten"
    assert torch.equal(start, SampleNoise(0, range(3), "cpu").normal(*SPEC.shape))
    assert all(s.shape == start.shape and s.dtype == start.dtype for s in states)
    assert all(s.isfinite().all() for s in states)
    t = torch.tensor(denoiser.times[:1])
    assert torch.allclose(states[0], start * process.coefficients(t)[1].item(), rtol=1e-5)
    assert (states[-1] - 0.7).abs().max() < 5 * 0.4, "far from all data"
    assert len(states) == (17 if name == "rk45" else STEPS + 1)


@pytest.mark.parametrize("name", [n for n in SAMPLERS if n != "rk45"])
def test_a_sample_depends_on_no_other(name):
    process = path("linear")
    whole = draw(name, process, range(6))
    parts = torch.cat([draw(name, process, range(i, i + 2)) for i in range(0, 6, 2)])
    torch.testing.assert_close(whole, parts, rtol=0, atol=1e-6)
    assert not torch.allclose(whole[0], whole[1], atol=1e-2)


@pytest.mark.parametrize("name", SAMPLERS)
def test_half_precision_estimates_do_not_change_the_type_of_the_state(name):
    if name in ("rk45", "predictor_corrector"):
        pytest.skip("sizes of steps follow from the estimates")
    process = path("linear")
    exact = Gaussian(process)
    x = draw(name, process, range(3), lambda x, t: exact(x, t).bfloat16())
    assert x.dtype == torch.float32
    assert (x - draw(name, process, range(3))).abs().max() < 0.05


@pytest.mark.parametrize("name", SAMPLERS)
def test_estimates_are_left_alone(name):
    """A denoiser may return the state it was given, or the same tensor every time."""
    if name == "rk45":
        pytest.skip("torchdiffeq's")
    process, datum = path("linear"), torch.full((2, *SPEC.shape), 0.5)
    kept = datum.clone()
    x = draw(name, process, range(2), lambda x, t: datum)
    assert torch.equal(datum, kept)
    torch.testing.assert_close(x, datum)
    seen = []

    def identity(x, t):
        seen.append((x, x.clone()))
        return x

    draw(name, process, range(2), identity)
    assert all(torch.equal(a, b) for a, b in seen)


@pytest.mark.parametrize(
    ("name", "keys", "evaluations"),
    [
        ("euler", {"steps": 7}, 7),
        ("ddim", {"steps": 7}, 7),
        ("ddim", {"steps": 7, "eta": 1}, 7),
        ("ancestral", {"steps": 7}, 7),
        ("dpmpp_2m", {"steps": 7}, 7),
        ("heun", {"steps": 18}, 35),
        ("heun", {"steps": 18, "churn": 40}, 35),
        ("heun", {"steps": 1}, 1),
        ("heun", {"steps": 50, "grid": [9.0, 3.0, 1.0]}, 5),
        ("predictor_corrector", {"steps": 7}, 14),
        ("predictor_corrector", {"steps": 7, "corrections": 3}, 28),
        ("predictor_corrector", {"steps": 7, "corrections": 0}, 7),
        ("langevin", {"steps": 7, "repeats": 3}, 22),
    ],
)
@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_evaluations_are_counted(name, keys, evaluations, scale):
    """A guided one counts twice; batches of any size count alike."""
    process = path("linear")
    calls = []

    def denoiser(x, t, y):
        calls.append(len(x))
        return Gaussian(process)(x, t)

    bound = PathSampler(sampler(name, **keys), ClassifierFree(scale=scale, interval=None), process)
    for n in (3, 1):
        noise, y = SampleNoise(0, range(n), "cpu"), torch.zeros(n, dtype=torch.long)
        bound(denoiser, noise.normal(2), y, noise)
    twice = 1 if scale == 1 else 2
    assert bound.evaluations == twice * evaluations == sum(calls) / 4
    assert isinstance(bound.evaluations, int)
    bound.recount()
    assert bound.evaluations == 0


def test_clipping_keeps_estimates_in_the_range_of_images():
    process, wild = path("linear"), lambda x, t: x * 100
    for name in CLIPPED:
        clipped = sampler(name, steps=4, clip=True)
        noise = SampleNoise(0, range(2), "cpu")
        x = last(clipped(wild, noise.normal(*SPEC.shape), process, noise))
        assert x.abs().max() <= 1


def test_one_step_refuses_a_field():
    with pytest.raises(ConfigError, match="sampler=heun"):
        OneStep(temperature=1.0)(lambda x, t: x, torch.zeros(1, 2), path("linear"), None)
