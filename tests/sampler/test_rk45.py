"""The adaptive sampler: its tolerances, its count, and what it says without its package."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from genlab.assemble.bound_sampler import PathSampler
from genlab.core.errors import ConfigError, DeviceError
from genlab.core.random import SampleNoise
from genlab.guidance.cfg import ClassifierFree
from genlab.sampler import rk45
from tests.helpers.gaussian_data import MEAN, SD, Gaussian, last, sampler, z
from tests.helpers.paths import PATHS, SPEC, path

FINE = {"rtol": 1e-8, "atol": 1e-8, "state": "float64"}


@pytest.fixture
def ode():
    pytest.importorskip("torchdiffeq")


@pytest.mark.parametrize("process", [*PATHS, "ddpm"])
def test_it_is_the_exact_flow_on_every_path(ode, process):
    """From b z at the end of the path to the estimate at sigma .02, which is the flow's."""
    process = path(process)
    found = last(sampler("rk45", span=[0.02, 40.0], **FINE)(Gaussian(process), z(), process, None))
    t = process.time(torch.tensor([40.0], dtype=torch.float64))
    a, b, _, _ = (c.item() for c in process.coefficients(t))
    kept = (b * z() - a * MEAN) / (a**2 * SD**2 + b**2) ** 0.5
    wanted = MEAN + SD**2 / (SD**2 + 0.02**2) ** 0.5 * kept
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


def test_no_step_runs_past_the_end(ode):
    """A step that did would meet a denoiser that stands still there: 30 times the tolerance."""
    process, keys = path("vp"), {"rtol": 1e-5, "atol": 1e-5, "state": "float64"}
    exact, found = (
        last(sampler("rk45", span=[0.02, 40.0], **k)(Gaussian(process), z(), process, None))
        for k in (FINE, keys)
    )
    assert (found - exact).square().mean().sqrt() < 2e-5


@pytest.mark.parametrize("process", ["linear", "trig"])
def test_the_whole_path_leads_noise_to_data(ode, process):
    process = path(process)
    found = last(sampler("rk45", **FINE)(Gaussian(process), z(), process, None))
    estimate = MEAN + SD**2 / (SD**2 + 0.002**2) ** 0.5 * z()  # of the flow's end, at sigma .002
    torch.testing.assert_close(found, estimate, rtol=0, atol=1e-6)


def test_smaller_tolerances_err_less_and_ask_more(ode):
    process, errors, asked = path("linear"), [], []
    for tolerance in (1e-2, 1e-4, 1e-6):
        denoiser = Gaussian(process)
        ours = sampler("rk45", rtol=tolerance, atol=tolerance, state="float64")
        errors.append(
            (last(ours(denoiser, z(), process, None)) - MEAN - SD * z()).abs().max().item()
        )
        asked.append(len(denoiser.times))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 2e-4
    assert asked[0] < asked[1] < asked[2]


def test_all_paths_are_asked_the_same(ode):
    """The circle is the same ODE whatever the path."""
    found = []
    for name in PATHS:
        denoiser = Gaussian(path(name))
        ours = sampler("rk45", span=[0.02, 30.0], state="float64")
        t = path(name).time(torch.tensor([30.0], dtype=torch.float64))
        b = path(name).coefficients(t)[1]
        scale = path(name).coefficients(t)[0].hypot(b) / b
        start = z() * scale * 30 / (1 + 30**2) ** 0.5  # the same point of the circle
        last(ours(denoiser, start, path(name), None))
        found.append(len(denoiser.times))
    assert len(set(found)) == 1, found


def test_states_lie_on_the_path(ode):
    """The datum and the noise of a single datum are those it began with, at every state."""
    process, datum, denoiser = path("ve"), torch.full_like(z(), 0.3), Gaussian(path("ve"))
    ours = sampler("rk45", span=[0.01, 40.0], **FINE)
    *states, sample = ours(lambda x, t: (denoiser(x, t), datum)[1], z(), process, None)
    torch.testing.assert_close(sample, datum)
    sigma = (
        torch.linspace(torch.tensor(40.0).double().atan(), torch.tensor(0.01).double().atan(), 16)
        .double()
        .tan()
    )
    start = states[0]
    eps = (start - datum) / 40
    for state, level in zip(states, sigma, strict=True):
        torch.testing.assert_close(state, datum + level * eps, rtol=1e-4, atol=1e-4)


def test_evaluations_are_counted_also_where_batches_differ(ode):
    """Rows that the network saw by samples drawn, twice as many with guidance."""
    process, rows = path("linear"), []

    def denoiser(x, t, y):
        rows.append(len(x))
        return Gaussian(process)(x, t)

    bound = PathSampler(sampler("rk45"), ClassifierFree(scale=2.0, interval=None), process)
    for n in (3, 1):
        noise = SampleNoise(0, range(n), "cpu")
        bound(denoiser, noise.normal(2), torch.zeros(n, dtype=torch.long), noise)
    assert bound.evaluations == pytest.approx(sum(rows) / 4, abs=0.005)
    assert bound.evaluations / 2 % 1 in (0, 0.25, 0.5, 0.75)


@pytest.mark.parametrize(("name", "dtype"), [("rk45", torch.float32), ("heun", torch.bfloat16)])
def test_networks_compute_in_full_precision_where_errors_are_estimated(ode, name, dtype):
    """Rounding to 8 bits would be an error of every step that no shorter step has less of."""
    net, seen = torch.nn.Linear(2, 2), set()

    def denoiser(x, t, y):
        out = net(x)
        seen.add(out.dtype)
        return out.to(x.dtype)

    noise = SampleNoise(0, range(3), "cpu")
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        PathSampler(sampler(name), None, path("linear"))(denoiser, noise.normal(2), None, noise)
        assert net(noise.normal(2)).dtype == torch.bfloat16, "what comes after is as it was"
    assert seen == {dtype}


@pytest.mark.parametrize("state", ["float32", "float64"])
def test_it_draws_in_inference_mode(ode, state):
    process = path("linear")
    with torch.inference_mode():
        x = last(sampler("rk45", state=state)(Gaussian(process), z().float(), process, None))
    assert x.dtype == torch.float32
    torch.testing.assert_close(x, (MEAN + SD * z()).float(), rtol=0, atol=1e-3)


def test_a_batch_changes_a_sample_within_the_tolerance_alone(ode):
    process = path("linear")
    whole = last(sampler("rk45")(Gaussian(process), z(), process, None))
    one = last(sampler("rk45")(Gaussian(process), z()[:1], process, None))
    assert (whole[:1] - one).abs().max() < 1e-3


def test_a_field_without_a_flow_is_refused_in_words(ode):
    with pytest.raises(ConfigError, match=r"sampler\.rtol"):
        last(sampler("rk45")(lambda x, t: x * float("nan"), z(), path("linear"), None))
    with pytest.raises(ConfigError, match=r"sigma=90.*sampler\.span"):
        sampler("rk45", span=[0.1, 90.0]).check(path("edm"), SPEC)


def test_tolerances_that_no_step_meets_end_in_words(ode):
    """A denoiser of noise is smooth at no scale; every step is refused."""
    g = torch.Generator().manual_seed(0)
    rough = lambda x, t: torch.randn(x.shape, generator=g, dtype=x.dtype)  # noqa: E731
    ours = sampler("rk45", state="float64")
    with pytest.raises(ConfigError, match=r"came to no end .*sampler\.rtol"):
        last(ours(rough, z(), path("linear"), None))


def test_without_the_package_the_error_has_the_fix(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DeviceError, match=r"pip install 'genlab\[ode\]'"):
        rk45.RungeKutta45(rtol=1e-5, atol=1e-5, span=None, state="float32")
