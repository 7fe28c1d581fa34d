"""The density of a path's model: closed forms, the trace, and bits per dimension of bytes."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal, Normal

from genlab.core.contract import Network, Spec
from genlab.core.errors import DataError, DeviceError
from genlab.core.random import SampleNoise
from genlab.model.likelihood import log_density, ode_solver
from genlab.model.path import PathModel
from genlab.process.linear import Linear
from genlab.process.vp import VariancePreserving
from tests.helpers.evaluations import evaluated, refused, value
from tests.helpers.gaussians import BY_NAME, FIRST, Signs, ends, exact, gaussian
from tests.helpers.runs import trained

COVARIANCE = torch.tensor([[1.0, 0.5, 0.0], [0.5, 0.6, -0.3], [0.0, -0.3, 2.0]]).double()
KEYS = dict(
    density="uniform", location=0.0, scale=1.0, weight="uniform", sd=0.5, label_dropout=0.0, ema=0
)


def density_of(denoiser, process):
    return lambda x, noise: log_density(denoiser, process, x, None, noise, first=FIRST)


def noise(n, seed=0):
    return SampleNoise(seed, range(n), torch.device("cpu"))


@pytest.mark.parametrize("name", BY_NAME)
def test_gaussian_data_on_every_path(name):
    """The flow is linear: it takes N(0, sigma_1^2) back to a normal that is known exactly."""
    process = BY_NAME[name]
    low, high = ends(process)
    one = torch.eye(3, dtype=torch.float64)
    noisy = COVARIANCE + low**2 * one
    model = MultivariateNormal(
        torch.zeros(3).double(), noisy @ torch.linalg.inv(one + COVARIANCE / high**2)
    )
    data = MultivariateNormal(torch.zeros(3).double(), COVARIANCE)
    x = data.sample((7,))
    found = exact(density_of(gaussian(process, COVARIANCE), process), x)
    torch.testing.assert_close(found, model.log_prob(x), rtol=0, atol=3e-4)
    torch.testing.assert_close(found, data.log_prob(x), rtol=0, atol=2e-2)  # of ve, by its ends


def test_a_discrete_path_whose_first_level_is_loud():
    """Betas .2 to .8: the density is of data with the noise of that level, sigma = 1/2."""
    process = VariancePreserving(beta_min=1.0, beta_max=4.0, steps=5)
    one = torch.eye(3, dtype=torch.float64)
    high = 1 / 0.0182 - 1  # sigma^2 at the end: .8 * .65 * .5 * .35 * .2 are left of the variance
    noisy = COVARIANCE + one / 4
    model = MultivariateNormal(
        torch.zeros(3).double(), noisy @ torch.linalg.inv(one + COVARIANCE / high)
    )
    x = model.sample((7,))
    found = exact(density_of(gaussian(process, COVARIANCE), process), x)
    torch.testing.assert_close(found, model.log_prob(x), rtol=0, atol=3e-4)


def test_one_hard_datum_among_easy_ones_is_as_exact_as_alone():
    """Its errors count by themselves: a mean over the batch would hide them."""
    process, sd = BY_NAME["trig"], torch.tensor([1.0, 0.01], dtype=torch.float64)

    def denoiser(x, t, y):
        """Of N(0, 1), where nothing bends, or of N(0, 0.01^2)."""
        a, b, _, _ = (c[:, None] for c in process.coefficients(t))
        square = sd[y][:, None].square()
        return a * square / (a.square() * square + b.square()) * x

    y = torch.zeros(2000, dtype=torch.long)
    y[0] = 1
    x, signs = torch.full((2000, 1), 0.015, dtype=torch.float64), Signs(torch.full((2000, 1), 0.1))
    found = log_density(denoiser, process, x, y, signs, first=FIRST)
    wanted = [Normal(0.0, s).log_prob(x[0]).item() for s in (0.01, 1.0)]
    assert found[:2].tolist() == pytest.approx(wanted, abs=3e-4)


def test_one_probe_is_unbiased_and_its_sign_is_right():
    """One set of signs is off where the Jacobian is not diagonal, and right in the mean."""
    process, x = BY_NAME["trig"], torch.tensor([[0.3, -1.0, 0.7]]).double()
    density = density_of(gaussian(process, COVARIANCE), process)
    wide = density_of(gaussian(process, 2 * COVARIANCE), process)
    right = MultivariateNormal(torch.zeros(3).double(), COVARIANCE).log_prob(x)
    single = density(x.expand(400, 3), noise(400))
    assert single.std() > 0.1
    assert abs(single.mean() - right) < 4 * single.std() / 20
    origin = torch.zeros(1, 3).double()
    # at the mean of wider data less is certain, by ln 2 / 2 a number
    less = exact(density, origin) - exact(wide, origin)
    assert less.item() == pytest.approx(1.5 * math.log(2), abs=1e-3)


class Smooth(Network):
    """A perceptron of x and t, W tanh(V (x, t))."""

    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(3, 16), nn.Linear(16, 2)

    def forward(self, x, t, y):
        return self.outer(torch.tanh(self.inner(torch.cat([x, t[:, None]], 1)))) * 2


def plane(predict="velocity"):
    """A model of the plane with random weights: its density is no known one."""
    torch.manual_seed(3)
    return PathModel(Smooth(), Linear(), Spec((2,)), predict=predict, **KEYS).eval()


@pytest.mark.parametrize("predict", ["velocity", "v"])
def test_a_density_sums_to_one(predict):
    model = plane(predict)
    side = torch.linspace(-6, 6, 81)
    grid = torch.cartesian_prod(side, side)
    log_p = exact(lambda x, signs: model.log_prob(x, None, signs), grid)
    edge = (grid.abs() == 6).any(1)
    assert log_p[edge].exp().max() < 1e-4
    assert (log_p.exp().sum() * (side[1] - side[0]) ** 2).item() == pytest.approx(1, abs=2e-3)
    prior = Normal(0.0, 1.0).log_prob(grid.double()).sum(1).exp()
    apart = (log_p.exp() - prior).abs().sum() * (side[1] - side[0]) ** 2
    assert apart > 0.3, "and it is not the prior"


def test_the_noise_decides_and_others_in_the_batch_do_not():
    model, x = plane(), torch.randn(6, 2)
    whole = model.log_prob(x, None, noise(6))
    assert torch.equal(whole, model.log_prob(x, None, noise(6)))
    assert not torch.allclose(whole, model.log_prob(x, None, noise(6, seed=1)), atol=1e-3)
    for i in range(6):
        alone = model.log_prob(x[i : i + 1], None, SampleNoise(0, [i], torch.device("cpu")))
        torch.testing.assert_close(alone[0], whole[i], rtol=0, atol=1e-3)


def test_weights_and_modes_are_left_as_they_were():
    model, x = plane(), torch.randn(2, 2)
    plain = model.log_prob(x, None, noise(2))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        inside = model.log_prob(x.clone(), None, noise(2))
    assert torch.equal(inside, plain), "neither a mode without autograd nor bf16 changes it"
    assert not inside.requires_grad
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_a_flow_without_a_solution_is_said():
    with pytest.raises(DataError, match="no solution"):
        log_density(
            lambda x, t, y: x * math.nan, Linear(), torch.zeros(1, 2), None, noise(1), first=FIRST
        )


def test_torchdiffeq_is_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchdiffeq", None)
    with pytest.raises(DeviceError, match=r"pip install 'genlab\[ode\]'"):
        ode_solver()


class Wide(Network):
    """The velocity of data N(0, sd^2) on the straight path."""

    def __init__(self, sd):
        super().__init__()
        self.variance = sd**2

    def forward(self, x, t, y):
        t = t.view(-1, 1, 1, 1)
        return (t - (1 - t) * self.variance) / ((1 - t) ** 2 * self.variance + t**2) * x


@pytest.mark.parametrize(("bits", "half"), [(8, 1.0), (8, 0.5), (5, 0.5), (5, 1.0)])
def test_bits_per_dimension_of_normal_data_by_hand(bits, half):
    """-log2 of the density of x at the dequantized bytes, times the width of a grey level."""
    from genlab.assemble.components import Components
    from genlab.codec.dequantize import Dequantize
    from genlab.hardware.hardware import Hardware
    from genlab.sampling.pipeline import Pipeline

    sd, spec = 0.3, Spec((1, 2, 3))
    codec = Dequantize(spec, bits=bits, half=half)
    keys = dict(deterministic=True, attention="auto", channels_last=False, threads=1)
    machine = Hardware(
        device="cpu",
        precision="fp32",
        compile=False,
        micro_batch="auto",
        devices=1,
        on_spike="warn",
        **keys,
    )
    model = PathModel(Wide(sd), Linear(), spec, predict="velocity", **KEYS)
    components = Components({}, machine, None, codec, spec, model, None, None)
    u = torch.tensor([0, 17, 200, 255, 128, 127] * 2, dtype=torch.uint8).view(2, 1, 2, 3)
    u[1] = u[1].flip(2)
    found = Pipeline(components).bits_per_dim(u, None, seed=4, indices=range(7, 9))
    uniform = SampleNoise(4, range(7, 9), torch.device("cpu")).uniform(1, 2, 3).double()
    level = u.div(2 ** (8 - bits), rounding_mode="floor").double()
    x = (level + uniform * (1 - 2**-16)) * (2 * half / 2**bits) - half
    mass = Normal(0.0, sd).log_prob(x) + math.log(2 * half / 2**bits)
    torch.testing.assert_close(
        found, -mass.flatten(1).mean(1) / math.log(2), rtol=0, atol=1e-4, check_dtype=False
    )


SHORT = {"codec": "dequantize", "hardware.precision": "bf16"}


@pytest.fixture(scope="module", params=["unet_small", "dit_small"])
def dense(request, tmp_path_factory):
    return trained(tmp_path_factory, "flow_matching", network=request.param, **SHORT)


def test_bits_of_a_run_beside_those_of_a_flow(dense, glow):
    """The same images and the same protocol, so that they rank; how each is found is told."""
    words = ("metric=bpd", "n=20")
    path, flow = evaluated(dense, *words), evaluated(glow, *words)
    [bpd], [exactly] = ([n for n in r.numbers if n.name == "bpd"] for r in (path, flow))
    assert bpd.protocol == exactly.protocol
    assert bpd.protocol["density"] == "dequantize 8 bits"
    assert path.description["likelihood"] == "probability flow, one probe, tolerance 1e-05"
    assert flow.description["likelihood"] == "exact"
    # this network has hardly learned, so that its density is about that of the noise
    assert 0 < value(path, "bpd") < 12
    in_parts = evaluated(dense, *words, "batch=7")
    assert value(in_parts, "bpd") == pytest.approx(bpd.value, abs=1e-3)


def test_bytes_without_a_density_are_refused(tmp_path_factory, capsys):
    run = trained(tmp_path_factory, "flow_matching")
    error = refused(capsys, 2, f"run={run}", f"outputs={run.parent.parent}", "metric=bpd")
    assert "codec=pixels gives images no density; train with codec=dequantize" in error


def test_a_missing_package_is_refused(dense, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torchdiffeq", None)
    error = refused(capsys, 2, f"run={dense}", f"outputs={dense.parent.parent}", "metric=bpd")
    assert "pip install 'genlab[ode]'" in error


def test_signs_are_of_uniform_numbers():
    """The helper's probe is that of the code: a wrong one would hide a wrong trace."""
    process, x = BY_NAME["trig"], torch.tensor([[0.3, -1.0, 0.7]]).double()
    density = density_of(gaussian(process, COVARIANCE), process)
    own = noise(1)
    given = Signs(noise(1).uniform(3))
    assert torch.equal(density(x, own), density(x, given))
