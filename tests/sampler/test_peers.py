"""Samplers against the schedulers of diffusers: same noise, same toy network, float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from genlab.sampler.noise_levels import grid
from tests.helpers.gaussian_data import last, sampler
from tests.helpers.paths import path

pytestmark = pytest.mark.peer
SHAPE = (4, 3, 5, 5)


@pytest.fixture
def diffusers():
    return pytest.importorskip("diffusers")


def normal(seed: int) -> Tensor:
    return torch.randn(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class Draws:
    """Noise of one generator, call after call."""

    def __init__(self, seed: int = 7) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn((SHAPE[0], *shape), dtype=torch.float64, generator=self.generator)


def network(x: Tensor, index: Tensor | float) -> Tensor:
    """A smooth nonlinear toy of the noise in x, and of DDPM's count of steps from 0."""
    level = torch.as_tensor(index, dtype=torch.float64) / 1000
    return (x * (1.3 - 0.5 * level) + x.flip(-1) * 0.2 + 0.1).tanh() * (0.5 + level)


DDPM = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
DDPM |= {"num_train_timesteps": 1000, "timestep_spacing": "trailing"}


def ours(name: str, **keys) -> Tensor:
    """Our sampler on DDPM's path with the toy predicting the noise."""
    process = path("ddpm")

    def denoiser(x: Tensor, t: Tensor) -> Tensor:
        a, b, _, _ = (c.view(-1, 1, 1, 1) for c in process.coefficients(t))
        eps = network(x, (process.c_noise(t) * 1000).round().view(-1, 1, 1, 1))
        return (x - b * eps) / a

    start = normal(0) / process.coefficients(torch.ones(1))[1]  # theirs start with variance 1
    return last(sampler(name, **keys)(denoiser, start, process, Draws()))


def theirs(scheduler, steps: int, **keys) -> Tensor:
    scheduler.set_timesteps(steps)
    x = normal(0)
    for index in scheduler.timesteps:
        out = scheduler.step(network(x, index), index, x, **keys)
        x = out.prev_sample
    # in a last step from above its lowest level, DDPMScheduler draws noise, which is left out
    return out.get("pred_original_sample", x)


def doubled(scheduler):
    """Their tables in float64, made as they make them."""
    beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    scheduler.alphas_cumprod = (1 - beta).cumprod(0)
    for name in ("one", "final_alpha_cumprod"):
        if hasattr(scheduler, name):
            setattr(scheduler, name, torch.ones((), dtype=torch.float64))
    return scheduler


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("steps", [1, 10, 50])
def test_ddim(diffusers, steps, eta, clip):
    scheduler = doubled(diffusers.DDIMScheduler(**DDPM, clip_sample=clip))
    draws = Draws()
    wanted = theirs(
        scheduler,
        steps,
        eta=eta,
        use_clipped_model_output=clip,
        generator=draws.generator if eta else None,
    )
    found = ours("ddim", steps=steps, eta=eta, clip=clip)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("variance", ["small", "large"])
@pytest.mark.parametrize("steps", [1, 20, 1000])
def test_ddpm(diffusers, steps, variance, clip):
    scheduler = doubled(
        diffusers.DDPMScheduler(**DDPM, variance_type=f"fixed_{variance}", clip_sample=clip)
    )
    wanted = theirs(scheduler, steps, generator=Draws().generator)
    found = ours("ancestral", steps=steps, variance=variance, clip=clip)
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("steps", [1, 2, 5, 20])
def test_dpmpp_2m(diffusers, steps):
    scheduler = diffusers.DPMSolverMultistepScheduler(
        **DDPM, algorithm_type="dpmsolver++", solver_order=2, final_sigmas_type="zero"
    )
    wanted = theirs(scheduler, steps)  # its sigmas are float32
    torch.testing.assert_close(ours("dpmpp_2m", steps=steps), wanted, rtol=1e-4, atol=1e-4)


def preconditioned(x: Tensor, sigma: Tensor) -> Tensor:
    """EDM's network F of the scaled input and ln(sigma) / 4."""
    return (x * 1.1 + 0.3 * (sigma.log() / 4) + 0.2 * x.roll(1, -1)).tanh()


def edm_field(process):
    def denoiser(x: Tensor, t: Tensor) -> Tensor:
        sigma, sd = process.sigma(t).view(-1, 1, 1, 1), 0.5
        root = (sigma**2 + sd**2).sqrt()
        f = preconditioned(x / root, sigma)
        return x * sd**2 / root**2 + f * sigma * sd / root

    return denoiser


@pytest.mark.parametrize("steps", [2, 18])
def test_edms_euler_and_its_grid(diffusers, steps):
    scheduler = diffusers.EDMEulerScheduler(sigma_min=0.002, sigma_max=80, sigma_data=0.5, rho=7)
    scheduler.set_timesteps(steps)
    process, x = path("edm"), normal(0) * 80
    levels = grid(process, steps, "karras", None, 7.0)
    assert [v.sigma for v in levels] == pytest.approx(scheduler.sigmas.tolist(), rel=1e-5)
    for i, index in enumerate(scheduler.timesteps):
        seen = scheduler.scale_model_input(x, index)
        x = scheduler.step(preconditioned(seen, scheduler.sigmas[i].double()), index, x)[0]
    found = last(
        sampler("euler", steps=steps, grid="karras")(edm_field(process), normal(0), process, None)
    )
    torch.testing.assert_close(found, x.double(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("steps", [2, 10])
def test_heun_in_sigma(diffusers, steps):
    """Theirs on the sigmas of DDPM; ours on EDM's path at the same ones."""
    scheduler = diffusers.HeunDiscreteScheduler(**DDPM, use_karras_sigmas=True)
    scheduler.set_timesteps(steps)
    ladder = scheduler.sigmas[:-1].double().tolist()[::2]
    process = path("edm", sigma_max=200.0)

    def eps(x: Tensor, sigma: Tensor) -> Tensor:
        return (x / (1 + sigma**2).sqrt() * 1.2 + 0.1).tanh() + 0.05 * sigma.log()

    x = normal(0) * ladder[0]
    for i, index in enumerate(scheduler.timesteps):
        x = scheduler.step(eps(x, scheduler.sigmas[i].double()), index, x).prev_sample

    def denoiser(x: Tensor, t: Tensor) -> Tensor:
        sigma = process.sigma(t).view(-1, 1, 1, 1)
        return x - sigma * eps(x, sigma)

    found = last(sampler("heun", grid=ladder)(denoiser, normal(0), process, None))
    torch.testing.assert_close(found, x, rtol=1e-5, atol=1e-5)
