"""The losses of the models of Gaussian paths, against the formulas of their papers.

Each is written here from the paper alone, in float64, in terms of alpha, beta and sigma.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from genlab.core.contract import Batch
from genlab.core.errors import ConfigError
from tests.helpers.path_models import Given, batch, model, process

N = 64


def data(*shape: int) -> tuple[Tensor, Tensor, Tensor]:
    """u [N] on (0, 1), x [N, *S] and eps [N, *S]."""
    g = torch.Generator().manual_seed(1)
    x, eps = (torch.randn(N, *shape, generator=g) for _ in range(2))
    return (torch.arange(N) + 0.5) / N, 0.5 * x, eps


def column(values: Tensor, like: Tensor) -> Tensor:
    return values.double().view(-1, *[1] * (like.dim() - 1))


def ddpm_table() -> tuple[Tensor, Tensor]:
    """beta and alpha-bar of DDPM's 1,000 steps."""
    beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    return beta, (1 - beta).cumprod(0)


def test_ddpm_is_the_simple_loss():
    """Ho et al., algorithm 1: steps 0 .. 999, and the network is told the step."""
    ours = model("ddpm", process("vp"))
    u, x, eps = data(2)
    loss = ours.loss(batch(u, x, eps))
    step = (u.double() * 1000).floor().long()
    alpha = column(ddpm_table()[1][step], x)
    noisy, told, _ = ours.net.asked
    torch.testing.assert_close(noisy, (alpha.sqrt() * x + (1 - alpha).sqrt() * eps).float())
    torch.testing.assert_close(told * 1000, step.float(), rtol=0, atol=1e-3)
    torch.testing.assert_close(loss, (ours.net.said - eps).square().mean())


@pytest.mark.parametrize("bytes_", [True, False], ids=["bytes", "density"])
def test_iddpm_learns_the_variance_by_the_bound_alone(bytes_):
    """Nichol and Dhariwal, eq. 14 to 16: every term of the bound by torch.distributions."""
    ours = model("ddpm", process("vp"), (1, 2, 2), bytes_=bytes_, variance="learned")
    u, x, eps = data(1, 2, 2)
    u[:8] = torch.linspace(0, 0.004, 8)  # the first steps, where the decoder and the clip are
    if bytes_:
        x = (x * 127.5).round().clamp(-127, 128) / 127.5 - 1 / 255
        x[0] = torch.tensor([-1.0, 1.0, 0.2, -0.6]).view(1, 2, 2).mul(127.5).round() / 127.5
    loss, log = ours.loss(batch(u, x, eps))

    step = (u.double() * 1000).floor().long()
    beta, total = ddpm_table()
    before = torch.cat([torch.ones(1, dtype=torch.float64), total])[:-1]
    tilde = beta * (1 - before) / (1 - total)
    tilde[0] = tilde[1]
    b, a, p, small = (column(v[step], x) for v in (beta, total, before, tilde))
    noisy = a.sqrt() * x + (1 - a).sqrt() * eps
    said = ours.net.said.double()
    guess = (noisy - (1 - a).sqrt() * said[:, :1]) / a.sqrt()
    v = (said[:, 1:] + 1) / 2
    deviation = (0.5 * (v * b.log() + (1 - v) * small.log())).exp()
    on_x0, on_x = p.sqrt() * b / (1 - a), (1 - b).sqrt() * (1 - p) / (1 - a)
    model_step = Normal(on_x0 * guess + on_x * noisy, deviation)
    terms = kl_divergence(Normal(on_x0 * x + on_x * noisy, small.sqrt()), model_step)
    first = -model_step.log_prob(x.double())
    if bytes_:
        high, low = model_step.cdf(x + 1 / 255), model_step.cdf(x - 1 / 255)
        mass = torch.where(x > 0.999, 1 - low, torch.where(x < -0.999, high, high - low))
        first = -mass.clamp(min=1e-12).log()
    terms = torch.where(column(step, x) == 0, first, terms) / math.log(2)
    assert (step == 0).sum() >= 2
    torch.testing.assert_close(log["bound"].double(), 1000 * terms.mean(), rtol=2e-3, atol=1e-3)
    simple = (said[:, :1] - eps).square().mean()
    torch.testing.assert_close(log["simple"].double(), simple, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(loss, log["simple"] + 0.001 * log["bound"])


def test_the_bound_teaches_the_variance_alone():
    ours = model("ddpm", process("vp"), variance="learned")
    out = {}
    ours.net.forward = lambda x, t, y: out.setdefault("o", torch.zeros(N, 4, requires_grad=True))
    u, x, eps = data(2)
    loss, _ = ours.loss(batch(u, x, eps))
    loss.backward()
    mean, variance = out["o"].grad.chunk(2, dim=1)
    torch.testing.assert_close(mean, 2 * (0 - eps) / (2 * N))
    assert variance.any(dim=1).all()


def test_the_variance_is_predicted_beside_the_datum():
    ours = model("ddpm", process("vp"), variance="learned")
    ours.net.forward = lambda x, t, y: torch.tensor([[1.0, 2.0, -1.0, 0.5]])
    alpha = ddpm_table()[1][499].item()
    x, t = torch.ones(1, 2), torch.full((1,), 0.5)
    x0 = (x - math.sqrt(1 - alpha) * torch.tensor([[1.0, 2.0]])) / alpha**0.5
    estimate, v = ours.predict_variance(x, t, None)
    torch.testing.assert_close(estimate, x0)
    torch.testing.assert_close(ours.denoise(x, t, None), x0)
    assert v.tolist() == [[0.0, 0.75]]


SDES = {
    # t -> mean's factor, deviation, g^2
    "ve": lambda t: (1.0 + 0 * t, 0.01 * 5000**t, (0.01 * 5000**t) ** 2 * 2 * math.log(5000)),
    "vp": lambda t: (
        (-0.25 * t**2 * 19.9 - 0.05 * t).exp(),
        (1 - (-0.5 * t**2 * 19.9 - 0.1 * t).exp()).sqrt(),
        0.1 + 19.9 * t,
    ),
}


@pytest.mark.parametrize("weight", ["uniform", "likelihood"])
@pytest.mark.parametrize("name", SDES)
def test_score_matching(name, weight):
    """Song et al., eq. 7: lambda |s + eps / deviation|^2, lambda = deviation^2 or g^2 / 2."""
    path = process(name, **({"steps": None} if name == "vp" else {}))
    ours = model("score_sde", path, weight=weight, density="uniform")
    u, x, eps = data(2)
    loss = ours.loss(batch(u, x, eps))
    mean, deviation, g2 = (column(v, x) for v in SDES[name](u.double()))
    score = ours.net.said.double() / deviation
    squares = (score + eps / deviation).square()
    factor = deviation.square() if weight == "uniform" else g2 / 2
    torch.testing.assert_close(loss.double(), (factor * squares).mean(), rtol=1e-5, atol=1e-6)
    c_in = 1 / (0.5**2 + deviation.square()).sqrt() if name == "ve" else 1.0
    noisy = c_in * (mean * x + deviation * eps)
    torch.testing.assert_close(ours.net.asked[0].double(), noisy, rtol=1e-5, atol=1e-6)


def sigma_of(u: Tensor) -> Tensor:
    return (-1.2 + 1.2 * Normal(0.0, 1.0).icdf(u).double()).exp()


EDM = {"predict": "F", "density": "lognormal", "location": -1.2, "scale": 1.2, "weight": "edm"}


@pytest.mark.parametrize(
    ("name", "keys", "sd"),
    [("edm", {}, 0.5), ("edm", {"sd": 0.8}, 0.8), ("flow_matching", {**EDM, "sd": 0.8}, 0.8)],
)
def test_edm_is_its_denoiser(name, keys, sd):
    """Karras et al., eq. 7 and 8 and table 1, through D and not through F."""
    ours = model(name, process("edm"), **keys)
    u, x, eps = data(2)
    loss = ours.loss(batch(Normal(0.0, 1.0).icdf(u), x, eps))
    s = column(sigma_of(u), x)
    noisy, told, _ = ours.net.asked
    total = s**2 + sd**2
    torch.testing.assert_close(noisy.double(), (x + s * eps) / total.sqrt(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(1000 * told.double(), sigma_of(u).log() / 4, rtol=1e-5, atol=1e-6)
    denoised = sd**2 / total * (x + s * eps) + s * sd / total.sqrt() * ours.net.said
    weight = total / (s * sd) ** 2
    expected = (weight * (denoised - x).square()).mean()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-4, atol=1e-5)
    at = (sigma_of(u) / 80).float()
    torch.testing.assert_close(
        ours.denoise((x + s * eps).float(), at, None).double(), denoised, rtol=1e-4, atol=1e-5
    )


def test_uncertainty_weighs_the_error_and_is_best_at_its_logarithm():
    """Karras et al. 2023, eq. 16; u that is the logarithm of the loss makes the minimum."""
    ours = model("edm", process("edm"), uncertainty=True)
    plain = model("edm", process("edm"))
    u, x, eps = data(2)
    draws = (Normal(0.0, 1.0).icdf(u), x, eps)
    at_zero, log = ours.loss(batch(*draws))
    torch.testing.assert_close(at_zero, plain.loss(batch(*draws)))
    torch.testing.assert_close(log["error"], at_zero)
    mean = at_zero.item()
    with torch.no_grad():
        ours.uncertainty.linear.bias += math.log(mean)
    best, log = ours.loss(batch(*draws))
    assert best.item() == pytest.approx(1 + math.log(mean), rel=1e-5)
    assert log["error"].item() == pytest.approx(mean, rel=1e-5)
    ours.loss(batch(*draws))[0].backward()
    assert ours.uncertainty.linear.bias.grad.item() == pytest.approx(0, abs=1e-5)
    assert ours.uncertainty.linear.weight.grad.any()


@pytest.mark.parametrize(
    ("name", "keys", "path", "said"),
    [
        ("ddpm", {"variance": "learned"}, {"name": "vp", "steps": None}, "process.steps"),
        ("ddpm", {"variance": "learned", "density": "lognormal"}, {"name": "vp"}, "uniform"),
        ("score_sde", {"density": "ladder", "predict": "x0"}, {"name": "linear"}, "geometric"),
        ("score_sde", {"density": "ladder", "levels": 1}, {"name": "ve"}, "2 levels"),
        ("score_sde", {"density": "likelihood"}, {"name": "ve"}, "model.weight=likelihood"),
        ("ddpm", {"variance": "learned", "weight": "likelihood"}, {"name": "vp"}, "uniform"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(name, keys, path, said):
    path = dict(path)
    with pytest.raises(ConfigError, match=said):
        model(name, process(path.pop("name"), **path), **keys)


@pytest.mark.parametrize(("variance", "outputs"), [("learned", 1), ("fixed", 2)])
def test_a_network_of_other_outputs_is_refused_with_the_key(variance, outputs):
    from genlab.assemble.components import build
    from genlab.config.compose import compose

    words = ["model=ddpm", f"model.variance={variance}", f"network.net.outputs={outputs}"]
    with pytest.raises(ConfigError, match=rf"network\.net\.outputs={3 - outputs}"):
        build(compose([*words, "hardware=cpu"]), meta=True)


@pytest.mark.parametrize("name", ["ddpm", "score_sde", "edm", "flow_matching"])
def test_labels_are_hidden_as_often_as_is_said(name):
    """Of uniform numbers, those below label_dropout hide theirs; the others keep it."""
    ours = model(
        name, process({"score_sde": "ve", "edm": "edm"}.get(name, "vp")), label_dropout=0.3
    )
    x, eps = torch.randn(2, 5, 2)
    hidden = torch.tensor([0.0, 0.29, 0.3, 0.5, 0.99])
    ours.loss(Batch(x, torch.arange(5), Given(torch.full((5,), 0.5), eps, hidden)))
    assert ours.net.asked[2].tolist() == [-1, -1, 2, 3, 4]
