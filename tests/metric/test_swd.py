"""Sliced Wasserstein distance: exact on a line, known in space."""

import math

import pytest
import torch

from genlab.core.errors import DataError
from genlab.metric import vectors
from genlab.metric.swd import SWD, sliced_wasserstein, wasserstein
from tests.helpers.given_inputs import Given


def swd(real, fake, projections=200, seed=0):
    inputs = Given({"real": real, "fake": fake}, seed=seed)
    return SWD(projections=projections)(inputs).values["swd"]


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("n", "m"), [(12, 12), (12, 18), (7, 5), (1, 6), (40, 8)])
def test_numbers_on_a_line_are_matched_exactly(n, m):
    """Against both sets repeated to the same number and matched in order."""
    a, b = normal(3, n), normal(3, m, seed=1)
    size = math.lcm(n, m)
    repeated = [x.sort(1).values.repeat_interleave(size // x.shape[1], 1) for x in (a, b)]
    expected = (repeated[0].double() - repeated[1]).square().mean(1)
    assert torch.allclose(wasserstein(a, b), expected, rtol=1e-12)
    assert torch.allclose(wasserstein(b, a), expected, rtol=1e-12)


def test_w2_is_the_cheapest_matching():
    a, b = normal(1, 6), normal(1, 6, seed=1)
    optimize = pytest.importorskip("scipy.optimize")
    cost = (a.T - b).square().double()
    rows, columns = optimize.linear_sum_assignment(cost.numpy())
    assert float(wasserstein(a, b)) == pytest.approx(float(cost[rows, columns].mean()), rel=1e-6)


def test_a_shift_costs_its_component_along_each_direction():
    x = normal(50, 2)
    shift = torch.tensor([3.0, 4.0])
    directions = torch.eye(2)
    # |3|^2 and |4|^2, the mean of both
    assert sliced_wasserstein(x, x + shift, directions) == pytest.approx(12.5**0.5, rel=1e-5)
    # over the whole circle |shift|^2 / 2
    assert swd(x, x + shift, 20_000) == pytest.approx((25 / 2) ** 0.5, rel=0.01)


def test_gaussians_of_different_width_and_number():
    x, y = normal(20_000, 5), 3 * normal(15_000, 5, seed=1)
    assert swd(x, y, 100) == pytest.approx(2, rel=0.02)
    assert swd(x, normal(15_000, 5, seed=2), 100) < 0.03


def test_pixels_count_in_units_of_one():
    g = torch.Generator().manual_seed(0)
    a, b = (torch.randint(256, (n, 3, 4, 4), generator=g, dtype=torch.uint8) for n in (20, 30))
    expected = swd(a.flatten(1).float() / 255, b.flatten(1).float() / 255)
    assert swd(a, b) == pytest.approx(expected, rel=1e-5)
    white, black = torch.full((5, 1, 4, 4), 255, dtype=torch.uint8), torch.zeros(3, 1, 4, 4)
    assert swd(white, black.byte(), 5000) == pytest.approx(1, rel=0.05), "16 of D = 16 pixels"


def test_seed_and_blocks(monkeypatch):
    x, y = normal(50, 6), normal(40, 6, seed=1)
    whole = swd(x, y, 10)
    assert whole == swd(x, y, 10) != swd(x, y, 10, seed=1)
    monkeypatch.setattr(vectors, "BLOCK", 7)
    assert swd(x, y, 10) == pytest.approx(whole, rel=1e-6)
    assert swd(x, x) == pytest.approx(0, abs=1e-6)


def test_what_cannot_be_computed():
    x = normal(5, 2)
    with pytest.raises(DataError, match="swd needs at least 2, but the samples are 1"):
        swd(x, x[:1])
    with pytest.raises(DataError, match="take images of one size"):
        swd(torch.zeros(4, 1, 8, 8).byte(), torch.zeros(4, 1, 4, 4).byte())
    with pytest.raises(DataError, match="not finite"):
        swd(x, x * torch.nan)
