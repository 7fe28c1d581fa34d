"""Classifier two-sample test on sets whose best classifier is known."""

import math

import pytest
import torch

from genlab.core.errors import DataError
from genlab.metric.c2st import C2ST
from tests.helpers.given_inputs import Given


def c2st(real, fake, seed=0):
    return C2ST()(Given({"real": real, "fake": fake}, seed=seed)).values


def points(n, seed, shift=0.0):
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(seed)) + shift


def test_equal_distributions_are_not_told_apart():
    """The number of right answers is binomial: mean 1/2 over draws, one in twenty above chance."""
    draws, n = 60, 200
    found = [c2st(points(n, 2 * i), points(n, 2 * i + 1)) for i in range(draws)]
    mean = sum(v["c2st"] for v in found) / draws
    assert abs(mean - 0.5) < 4 * 0.5 / math.sqrt(n * draws)
    assert found[0]["c2st_chance"] == pytest.approx(0.5 + 1.645 * 0.5 / math.sqrt(n))
    above = sum(v["c2st"] > v["c2st_chance"] for v in found)
    assert above <= 9  # 99.9% of binomial draws


@pytest.mark.parametrize("shift", [1.0, 2.0])
def test_as_good_as_the_best_classifier(shift):
    """Two normal distributions at distance d are told apart with accuracy Phi(d / 2)."""
    n = 4000
    best = 0.5 * (1 + math.erf(shift / 2 / math.sqrt(2)))
    found = c2st(points(n, 0), points(n, 1, torch.tensor([shift, 0.0])))["c2st"]
    error = math.sqrt(best * (1 - best) / n)
    assert best - 0.01 - 4 * error < found < best + 4 * error


def test_sets_apart_are_told_apart():
    assert c2st(points(50, 0), points(40, 1, shift=20))["c2st"] == 1


def test_a_copy_of_half_of_the_modes_is_told_from_the_whole():
    g = torch.Generator().manual_seed(0)
    real = points(2000, 0) * 0.1 + torch.randint(2, (2000, 1), generator=g) * 4
    found = c2st(real, points(2000, 1) * 0.1)["c2st"]
    # at the lost mode all is real; at the other, two thirds are samples: 3/4 at best
    assert found == pytest.approx(0.75, abs=0.04)


def test_seed():
    real, fake = points(100, 0), points(90, 1, shift=0.5)
    assert c2st(real, fake) == c2st(real, fake)
    assert len({c2st(real, fake, seed)["c2st"] for seed in range(5)}) > 1


def test_what_cannot_be_computed():
    x = points(20, 0)
    with pytest.raises(DataError, match="c2st needs at least 8, but the samples are 7"):
        c2st(x, x[:7])
    with pytest.raises(DataError, match="points of the plane"):
        c2st(torch.zeros(9, 1, 2, 2).byte(), torch.zeros(9, 1, 2, 2).byte())
    with pytest.raises(DataError, match="not finite"):
        c2st(x, x * torch.inf)
