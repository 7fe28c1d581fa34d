"""Losses of GANs against their formulas, and the penalty on a slope that is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from genlab.core.contract import Spec
from genlab.core.random import DrawNoise
from genlab.network.dcgan import DCGANCritic
from genlab.network.resnet_gan import ResNetDiscriminator
from genlab.nn.adversarial import LOSSES, gradient_penalty

REAL = torch.tensor([1.5, -0.5, 0.25, 4.0], dtype=torch.float64)
FAKE = torch.tensor([-2.0, 0.75, 1.25, -0.1], dtype=torch.float64)


def log_s(score: Tensor) -> Tensor:
    """The logarithm of the logistic function."""
    return torch.log(1 / (1 + torch.exp(-score)))


FORMULAS = {
    "non_saturating": (
        -log_s(REAL).mean() - torch.log(1 - log_s(FAKE).exp()).mean(),
        -log_s(FAKE).mean(),
    ),
    "minimax": (
        -log_s(REAL).mean() - torch.log(1 - log_s(FAKE).exp()).mean(),
        torch.log(1 - log_s(FAKE).exp()).mean(),
    ),
    "wasserstein": (-(REAL.mean() - FAKE.mean()), -FAKE.mean()),
    "hinge": (
        -torch.minimum(REAL - 1, torch.tensor(0)).mean()
        - torch.minimum(-FAKE - 1, torch.tensor(0)).mean(),
        -FAKE.mean(),
    ),
    "least_squares": (
        0.5 * ((REAL - 1) ** 2).mean() + 0.5 * (FAKE**2).mean(),
        0.5 * ((FAKE - 1) ** 2).mean(),
    ),
    "relativistic": (-log_s(REAL - FAKE).mean(), -log_s(FAKE - REAL).mean()),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_of_the_papers(name):
    for player, wanted in zip(LOSSES[name][:2], FORMULAS[name], strict=True):
        torch.testing.assert_close(player(REAL, FAKE), wanted)


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_that_is_not_relative_needs_no_scores_of_data(name):
    if not LOSSES[name].relative:
        torch.testing.assert_close(LOSSES[name].generator(None, FAKE), FORMULAS[name][1])


class Quadratic(nn.Module):
    """score = sum of w x^2 / 2, whose slope is w x; keeps its points."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(7)
        self.weight = nn.Parameter(torch.randn(*shape, generator=g, dtype=torch.float64))

    def forward(self, x: Tensor, y: Tensor | None) -> Tensor:
        self.points = x.detach()
        return (self.weight * x.square() / 2).flatten(1).sum(1)


SHAPE = (2, 3, 3)
G = torch.Generator().manual_seed(0)
X, FAKES = (torch.randn(64, *SHAPE, generator=G, dtype=torch.float64) for _ in range(2))


def noise() -> DrawNoise:
    return DrawNoise(0, 0, 64, slice(0, 64), torch.Generator(), None)


@pytest.mark.parametrize("power", [2.0, 3.0, 6.0])
@pytest.mark.parametrize(("center", "one_sided"), [(0.0, False), (4.0, False), (4.0, True)])
@pytest.mark.parametrize("at", ["real", "fake", "between"])
def test_the_penalty_of_a_slope_that_is_known(at, center, one_sided, power):
    d = Quadratic(*SHAPE)
    keys = {"at": at, "center": center, "power": power, "one_sided": one_sided}
    scores, penalty, slope = gradient_penalty(d, X, FAKES, None, noise(), **keys)
    x, w = d.points, d.weight.detach()
    a = noise().uniform(1, 1, 1)
    between = X + a * (FAKES - X)
    torch.testing.assert_close(x, {"real": X, "fake": FAKES, "between": between}[at])
    torch.testing.assert_close(scores, (w * x**2 / 2).sum((1, 2, 3)))
    norm = ((w * x) ** 2).sum((1, 2, 3)) ** 0.5
    excess = norm - center
    if one_sided:
        excess = torch.where(excess > 0, excess, 0)
    assert center == 0 or ((norm < center).any() and (norm > center).any())
    torch.testing.assert_close(penalty, (excess.abs() ** power).mean())
    torch.testing.assert_close(slope, norm.mean())
    penalty.backward()  # d/dw |excess|^p = p |excess|^(p - 1) sign(excess) w x^2 / norm
    by_norm = power * excess.abs() ** (power - 1) * excess.sign() / norm
    wanted = (by_norm.view(-1, 1, 1, 1) * w * x**2).mean(0)
    torch.testing.assert_close(d.weight.grad, wanted)


def test_coefficients_between_data_and_samples_are_one_for_each_sample():
    d = Quadratic(*SHAPE)
    keys = {"at": "between", "center": 1.0, "power": 2.0, "one_sided": False}
    gradient_penalty(d, X, FAKES, None, noise(), **keys)
    a = ((d.points - X) / (FAKES - X)).flatten(1)
    torch.testing.assert_close(a, a[:, :1].expand_as(a))
    assert 0 <= a.min() < 0.15 < 0.85 < a.max() <= 1
    assert a[:, 0].std().item() == pytest.approx(12**-0.5, abs=0.06)


@pytest.mark.parametrize("center", [0.0, 1.0])
def test_a_flat_discriminator_has_a_finite_gradient(center):
    d = Quadratic(*SHAPE)
    with torch.no_grad():
        d.weight.zero_()
    keys = {"at": "real", "center": center, "power": 2.0, "one_sided": False}
    _, penalty, _ = gradient_penalty(d, X, FAKES, None, noise(), **keys)
    penalty.backward()
    assert penalty.item() == center
    assert d.weight.grad.isfinite().all()


@pytest.mark.parametrize("labels", [None, 3])
@pytest.mark.parametrize("network", [DCGANCritic, ResNetDiscriminator])
def test_the_penalty_does_not_run_back_through_the_forward_pass(network, labels):
    """Between the kinks a slope is a product of weights: the biases get no gradient, not zeros."""
    critic = network(Spec((3, 32, 32), labels), width=2)
    y = None if labels is None else torch.arange(4) % 3
    x, fakes = torch.randn(2, 4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    draws = DrawNoise(0, 0, 4, slice(0, 4), torch.Generator(), None)
    keys = {"at": "between", "center": 1.0, "power": 2.0, "one_sided": False}
    _, penalty, _ = gradient_penalty(critic, x, fakes, y, draws, **keys)
    penalty.backward()
    for name, p in critic.named_parameters():
        assert (p.grad is None) == name.endswith("bias"), name


def test_it_is_float32_under_autocast():
    d = nn.Conv2d(1, 1, 4)
    d.forward = lambda x, y: nn.Conv2d.forward(d, x).flatten()
    x = torch.randn(6, 1, 4, 4)
    keys = {"at": "real", "center": 0.0, "power": 2.0, "one_sided": False}
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        scores, penalty, slope = gradient_penalty(d, x, x, None, None, **keys)
    assert scores.dtype == penalty.dtype == slope.dtype == torch.float32
    assert slope.item() == pytest.approx(d.weight.norm().item(), rel=1e-6)
    assert penalty.item() == pytest.approx(d.weight.square().sum().item(), rel=1e-6)
