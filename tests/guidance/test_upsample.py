"""Upsample guidance against the paper's rule for the noise, and drawn by a run."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import genlab
from genlab.assemble.components import build
from genlab.cli.main import main
from genlab.core.errors import ConfigError
from genlab.core.random import SampleNoise
from genlab.guidance.upsample import Upsample
from genlab.process.edm import EDM
from genlab.process.linear import Linear
from genlab.process.trig import Trigonometric
from genlab.process.ve import VarianceExploding
from genlab.process.vp import VariancePreserving
from tests.helpers.runs import small, trained

VP = VariancePreserving(beta_min=0.1, beta_max=20.0, steps=None)
PATHS = [Linear(), Trigonometric(), VP, EDM(sigma_max=80.0)]
LEVELS = torch.tensor([0.07, 0.9, 2.5, 40.0], dtype=torch.float64)


def upsample(factor: int, theta: float, **keys: object) -> Upsample:
    return Upsample(**{"factor": factor, "theta": theta, "scale": 1.0, "interval": None} | keys)


def images(m: int) -> Tensor:
    g = torch.Generator().manual_seed(m)
    return torch.randn(4, 2, 3 * m, 3 * m, generator=g, dtype=torch.float64)


def mean(x: Tensor, m: int) -> Tensor:
    """Over m x m pixels, as the sum it is."""
    return sum(x[..., i::m, j::m] for i in range(m) for j in range(m)) / m**2


def repeated(x: Tensor, m: int) -> Tensor:
    return torch.kron(x, torch.ones(m, m, dtype=x.dtype))


def column(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


def denoised(xb: Tensor, sigma: Tensor) -> Tensor:
    """Some function of the datum with noise added, and of how much; it knows the size too."""
    s = column(sigma)
    return (xb.roll(1, 3) * 0.7 + xb.sin() / (1 + s)).tanh() + xb.shape[-1] / 10 * s / (1 + s)


@pytest.mark.parametrize("m", [2, 3])
@pytest.mark.parametrize("theta", [0.5, 1.0, 1.2])
def test_it_is_the_rule_for_the_noise_of_ddpm(m, theta):
    """eps + theta U[eps(D x / rho, tau) / m - D eps], rho^2 = abar + (1 - abar) / m^2."""

    def eps(x: Tensor, t: Tensor) -> Tensor:
        return (x.roll(1, 2) * 0.9 - x.cos() * column(t)).tanh() * x.shape[-1] / 5

    def denoiser(x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        a, b = map(column, VP.coefficients(t)[:2])
        return (x - b * eps(x, t)) / a

    t, x = torch.tensor([0.05, 0.3, 0.6, 0.95], dtype=torch.float64), images(m)
    abar = torch.exp(-0.1 * t - 19.9 / 2 * t**2)
    rho = (abar + (1 - abar) / m**2).sqrt()
    lower = (1 / abar - 1).sqrt() / m  # SNR(tau) = m^2 SNR(t)
    tau = ((0.1**2 + 2 * 19.9 * torch.log1p(lower**2)).sqrt() - 0.1) / 19.9
    own = eps(x, t)
    pull = eps(mean(x, m) / column(rho), tau) / m - mean(own, m)
    wanted = own + theta * repeated(pull, m)

    x0 = upsample(m, theta)(denoiser, None, VP)(x, t)
    got = (x - column(abar.sqrt()) * x0) / column((1 - abar).sqrt())
    torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("m", [2, 3])
def test_on_every_path_it_is_one_rule_for_the_datum(path, m):
    def denoiser(x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        return denoised(x / column(path.coefficients(t)[0]), path.sigma(t))

    xb = images(m)
    t = path.time(LEVELS)
    x = column(path.coefficients(t)[0]) * xb
    own = denoised(xb, LEVELS)
    low = denoised(mean(xb, m), LEVELS / m)
    wanted = own + 1.2 * repeated(low - mean(own, m), m)
    got = upsample(m, 1.2)(denoiser, None, path)(x, t)
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)
    got = upsample(m, 1.0)(denoiser, None, path)(x, t)
    torch.testing.assert_close(mean(got, m), low, rtol=1e-9, atol=1e-9)


def asked(path, t: float, m: int) -> tuple[Tensor, Tensor]:
    """(x, time) the small denoiser is given for images(m) at the time t."""
    calls = []

    def denoiser(x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        calls.append((x, t))
        return x

    upsample(m, 1.0)(denoiser, None, path)(images(m), torch.full((4,), t, dtype=torch.float64))
    return calls[1]


def test_where_the_datum_is_lost_the_small_noise_is_standard_too():
    for path in (Linear(), Trigonometric()):
        x, t = asked(path, 1.0, 2)
        assert (t == 1).all()
        torch.testing.assert_close(x, 2 * mean(images(2), 2))
        near, _ = asked(path, 1 - 1e-7, 2)
        torch.testing.assert_close(near, x, rtol=1e-5, atol=1e-5)


def test_below_the_least_noise_of_a_path_it_is_the_least():
    path = VarianceExploding(sigma_min=0.01, sigma_max=50.0, raw=False)
    x, t = asked(path, path.time(torch.tensor([0.015])).item(), 4)
    assert (t == 0).all()
    torch.testing.assert_close(x, mean(images(4), 4))


def test_what_it_does_not_take():
    with pytest.raises(ValueError, match="enlarges nothing"):
        upsample(1, 1.0)
    with pytest.raises(ConfigError, match=r"DiT takes no other; use network=unet"):
        build(small("flow_matching", "digits", guidance="upsample", network="dit_small"))
    with pytest.raises(ConfigError, match=r"MLP takes no other"):
        build(small("flow_matching", "toy", guidance="upsample"))


# --- drawn by a run -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory, "flow_matching", **{"network.net.mults": [1, 2, 2]})


@pytest.fixture
def drawn(run) -> Callable[..., genlab.sampling.pipeline.Pipeline]:
    def load(*words: str) -> genlab.sampling.pipeline.Pipeline:
        return genlab.load(run, overrides=["sampler=euler", "sampler.steps=3", *words])

    return load


@pytest.mark.parametrize(
    ("words", "evaluations"),
    [
        ([], 6),
        (["guidance.theta=0"], 3),
        (["guidance.scale=2"], 12),
        (["guidance.interval=[1.5,null]"], 5),  # sigma is inf, 2 and 1 / 2
        (["sampler.through=vp"], 6),
    ],
)
def test_images_are_larger_and_evaluations_counted(drawn, words, evaluations):
    pipeline = drawn("guidance=upsample", *words)
    assert pipeline.sample(2).shape == (2, 1, 16, 16)
    assert pipeline.sampler.evaluations == evaluations


def test_theta_zero_is_the_network_at_the_larger_size(drawn):
    native = drawn("guidance=none")
    with torch.no_grad(), native.using("ema"):
        z = SampleNoise(7, range(3), "cpu").normal(1, 16, 16)
        x = native.model.transport(z, torch.tensor([0, 1, 2]), None, native.sampler)
    wanted = native.codec.decode(x).numpy()
    assert np.array_equal(drawn("guidance=upsample", "guidance.theta=0").sample(3, seed=7), wanted)
    assert not np.array_equal(drawn("guidance=upsample").sample(3, seed=7), wanted)


def test_pictures_of_every_kind_are_larger(run):
    words = ["guidance=upsample", "guidance.factor=3", "n=4", "interpolate=true", "animate=true"]
    assert main(["sample", f"run={run}", "name=large", *words]) == 0
    folder = run / "samples" / "large"
    assert Image.open(folder / "images/000000.png").size == (24, 24)
    tile = 24 * math.ceil(56 / 24)
    assert Image.open(folder / "grid.png").size == (2 * (tile + 3) + 3,) * 2
    assert Image.open(folder / "interpolation.png").size[0] == 9 * (tile + 3) + 3
    assert Image.open(folder / "trajectory.png").n_frames > 1


def test_metrics_compare_images_of_one_size(run, tmp_path, capsys):
    words = ["eval", f"run={run}", f"outputs={tmp_path}", "guidance=upsample", "n=8"]
    words += ["metric=fid", "features=raw"]
    assert main(words) == 3
    said = " ".join(capsys.readouterr().err.split())
    assert "guidance draws 16x16x1 and the data are 8x8x1" in said
    assert "real=<images> size=16" in said
    for i in range(4):
        pixels = np.random.default_rng(i).integers(0, 256, (16, 16), dtype=np.uint8)
        (tmp_path / "real").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "real" / f"{i}.png")
    assert main([*words, f"real={tmp_path / 'real'}", "size=16"]) == 0


def test_no_training_measures_what_it_cannot_compare(tmp_path, capsys):
    words = ["train", "guidance=upsample", "metric=fid", f"outputs={tmp_path}"]
    assert main(words) == 2
    assert "no metric compares" in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.glob("*/*"))
