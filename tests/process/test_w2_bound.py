"""W2 of the samples of a wrong score and its bound, on data where both are known."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch.distributions import MultivariateNormal

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from score_errors import CENTERS, denoised, draw, error, train
from show_w2_bound import carried, compare, data_score, distance, perturbed, root, scaled

from genlab.model.path import PathModel

ONE = torch.tensor([0.7], dtype=torch.float64)
THREE = torch.tensor([0.3, 0.7, 1.5], dtype=torch.float64)


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.1, 2.0])
def test_one_number_reaches_the_bound(factor):
    """Samples have deviation s_T (s / s_T)^factor, s_T^2 = s^2 + 25: by hand."""
    w2, sided, loose = compare(scaled(factor, ONE), ONE, 5.0)
    end = (0.49 + 25) ** 0.5
    assert w2 == pytest.approx(abs(end * (0.7 / end) ** factor - 0.7), abs=1e-9)
    assert sided == pytest.approx(w2, abs=1e-5)
    assert loose > 2 * sided


def test_the_numbers_of_a_score_a_tenth_too_long():
    w2, sided, loose = compare(scaled(1.1, ONE), ONE, 5.0)
    assert (round(w2, 4), round(sided, 4), round(loose, 2)) == (0.1255, 0.1255, 2.08)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("size", [0.01, 0.1, 0.4])
def test_no_wrong_score_passes_the_bound(size, seed):
    w2, sided, loose = compare(perturbed(size, THREE, seed), THREE, 5.0)
    assert 0 < w2 <= sided <= loose


def test_the_true_score_gives_the_data_back():
    start = torch.diag(THREE.square() + 25)
    there = carried(data_score(THREE), start, 5.0)
    torch.testing.assert_close(there, torch.diag(THREE.square()), rtol=1e-7, atol=1e-9)
    w2, sided, _ = compare(scaled(1.0, THREE), THREE, 5.0)
    assert (w2, sided) == pytest.approx((0, 0), abs=1e-6)


def test_distance_of_normals():
    """Where they commute, that of the deviations; else no less than 0 and alike both ways."""
    a, b = torch.diag(THREE), torch.diag(THREE.flip(0))
    apart = (THREE.sqrt() - THREE.flip(0).sqrt()).norm().item()
    assert distance(a, b) == pytest.approx(apart, abs=1e-9)
    c, d = (m @ m.T for m in torch.randn(2, 3, 3, dtype=torch.float64))
    assert distance(c, d) == pytest.approx(distance(d, c), abs=1e-7)
    # the linear map that carries one to the other is what the distance is the cost of
    inner = torch.linalg.inv(root(c))
    carry = inner @ root(root(c) @ d @ root(c)) @ inner
    torch.testing.assert_close(carry @ c @ carry.T, d)
    off = carry - torch.eye(3).double()
    assert distance(c, d) ** 2 == pytest.approx((off @ c @ off.T).trace().item(), abs=1e-7)


def test_the_score_of_eight_gaussians():
    """Tweedie: x + sigma^2 grad log p(x), by autograd of the mixture's density."""
    sigma, x = 0.4, torch.randn(50, 2, dtype=torch.float64, requires_grad=True)
    parts = MultivariateNormal(CENTERS, (0.01 + sigma**2) * torch.eye(2).double())
    parts.log_prob(x[:, None]).logsumexp(1).sum().backward()
    torch.testing.assert_close(denoised(x.detach(), sigma), x.detach() + sigma**2 * x.grad)


def test_training_nears_the_exact_score():
    """Nearer than the datum guessed to be x, whose error is E |x0(x) - x|^2 at sigma = 1."""
    x = draw(4000, torch.Generator().manual_seed(3)) + torch.randn(4000, 2).double()
    blind = (denoised(x, 1.0) - x).square().sum(1).mean().item()
    assert error(train(PathModel, "F", "uniform", 20_000), 1.0) < blind / 2
