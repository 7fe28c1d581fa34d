"""Frechet distance: formulas, known distances, and how much of it is small samples."""

import pytest
import torch

from genlab.core.errors import DataError
from genlab.metric.fid import FID, Moments, frechet
from tests.helpers.given_inputs import Given


def gaussian(n, d, seed, mean=0.0, scale=1.0):
    g = torch.Generator().manual_seed(seed)
    return mean + scale * torch.randn(n, d, generator=g, dtype=torch.float64)


def exactly(n, mean, deviation, seed=0):
    """n rows whose sample mean and unbiased covariance are exactly these, axis by axis."""
    x = gaussian(n, len(mean), seed)
    q, _ = torch.linalg.qr(x - x.mean(0))
    return torch.tensor(mean) + q * torch.tensor(deviation) * (n - 1) ** 0.5


def fid(real, fake, infinity=False, seed=0):
    return FID(infinity=infinity)(Given(pooled={"real": real, "fake": fake}, seed=seed)).values


def by_roots(x, y):
    """The formula of the paper with a symmetric root by eigenvalues of C1."""
    c1, c2 = (torch.atleast_2d(torch.cov(z.T)) for z in (x, y))
    values, vectors = torch.linalg.eigh(c1)
    root = vectors @ torch.diag(values.clamp(min=0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ c2 @ root).clamp(min=0).sqrt().sum()
    apart = (x.mean(0) - y.mean(0)).square().sum()
    return float(apart + c1.trace() + c2.trace() - 2 * cross)


def test_gaussians_of_known_distance():
    a = exactly(50, [0.0, 1.0, -2.0], [1.0, 2.0, 0.5], seed=1)
    b = exactly(40, [3.0, 1.0, 0.0], [2.0, 2.0, 1.5], seed=2)
    # independent axes: squared differences of means and of standard deviations
    expected = (9 + 0 + 4) + (1 + 0 + 1)
    assert fid(a, b)["fid"] == pytest.approx(expected, rel=1e-12)
    few_a, few_b = (torch.nn.functional.pad(z, (0, 60)) for z in (a, b))
    assert fid(few_a, few_b)["fid"] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("n", "m", "d"), [(300, 200, 12), (9, 7, 12), (9, 200, 12), (200, 9, 12)])
def test_equals_the_formula_in_every_form(n, m, d):
    x, y = gaussian(n, d, 1), gaussian(m, d, 2, mean=0.3, scale=1.7)
    assert fid(x, y)["fid"] == pytest.approx(by_roots(x, y), rel=1e-6)
    assert fid(y, x)["fid"] == pytest.approx(fid(x, y)["fid"], rel=1e-6)
    assert fid(x.float(), y.float())["fid"] == pytest.approx(by_roots(x, y), rel=1e-5)
    assert [Moments(z).few for z in (x, y)] == [n <= d, m <= d]


def test_constant_and_dependent_features_are_finite():
    x, y = gaussian(60, 4, 5), gaussian(50, 4, 6, scale=2)
    plain = fid(x, y)["fid"]
    constant = [torch.nn.functional.pad(z, (0, 1), value=3.0) for z in (x, y)]
    assert fid(*constant)["fid"] == pytest.approx(plain, rel=1e-6)
    twice = [torch.cat([z, z], 1) for z in (x, y)]  # all axes of length 2^(1/2) more
    assert fid(*twice)["fid"] == pytest.approx(2 * plain, rel=1e-6)
    same = torch.full((60, 4), 2.0)
    assert fid(same, same)["fid"] == 0
    assert fid(same, same + 1)["fid"] == pytest.approx(4)
    moments = Moments(x)
    expected = float((moments.mean - 2).square().sum()) + moments.trace
    assert fid(same, x)["fid"] == pytest.approx(expected)
    black = torch.zeros(3, 50)
    assert fid(black, black + 1)["fid"] == pytest.approx(50)


def test_a_set_is_at_no_distance_from_itself():
    x = gaussian(200, 10, 7)
    assert fid(x, x)["fid"] == pytest.approx(0, abs=1e-9)
    assert fid(x, x[torch.randperm(200)])["fid"] == pytest.approx(0, abs=1e-9)


def test_halves_of_one_set_are_apart_by_the_bias():
    """For n images a side of N(0, I) in D dimensions to first order (2 D + D (D + 1) / 2) / n.

    |m1 - m2|^2 is 2 D / n, the rest |C1 - C2|^2 / 4 of two Wishart matrices. fid_bias is to say so
    for the sets it is given.
    """
    n, d, draws = 1500, 8, 400
    found = [fid(gaussian(n, d, 2 * i), gaussian(n, d, 2 * i + 1)) for i in range(draws)]
    expected = (2 * d + d * (d + 1) / 2) / n
    values = torch.tensor([v["fid"] for v in found])
    estimates = torch.tensor([v["fid_bias"] for v in found])
    for seen in (values, estimates):
        assert abs(seen.mean() - expected) < 4 * seen.std() / draws**0.5 + 0.01 * expected


@pytest.mark.parametrize("scale", [1.0, 1.1])
def test_infinity_is_below_and_near_the_truth(scale):
    """The reference has many images, so that the bias is that of the samples."""
    n, d, draws = 300, 12, 60
    reference = gaussian(30_000, d, 0)
    found = [
        fid(reference, gaussian(n, d, i, scale=scale), infinity=True) for i in range(1, draws + 1)
    ]
    truth = d * (scale - 1) ** 2
    plain = torch.tensor([v["fid"] for v in found])
    infinite = torch.tensor([v["fid_infinity"] for v in found])
    error = infinite.std() / draws**0.5
    assert abs(infinite.mean() - truth) < 4 * error < (plain.mean() - truth) / 2


def test_what_cannot_be_computed():
    x = gaussian(10, 4, 0)
    with pytest.raises(DataError, match="fid needs at least 2, but the samples are 1"):
        fid(x, x[:1])
    with pytest.raises(DataError, match="some numbers of the reference are not finite"):
        fid(x.clone().fill_(torch.nan), x)
    with pytest.raises(DataError, match="have 4 numbers, those of the samples 3"):
        fid(x, x[:, :3])
    assert set(fid(x[:2], x[:3])) == {"fid"}, "too few to halve"


@pytest.mark.parametrize("d", [1, 255, 256, 600])
def test_moments_are_mean_and_covariance(d):
    x = gaussian(700, d, 0, mean=2)
    moments = Moments(x)
    covariance = torch.cov(x.T).reshape(d, d)
    assert torch.allclose(moments.mean, x.mean(0), rtol=1e-12)
    assert torch.allclose(moments.covariance, covariance, rtol=1e-9, atol=1e-12)
    assert torch.allclose(moments.factor @ moments.factor.T, covariance, rtol=1e-9, atol=1e-12)
    assert moments.trace == pytest.approx(float(covariance.trace()), rel=1e-12)


def test_moments_leave_the_features_as_they_are():
    x = gaussian(20, 3, 0)
    before = x.clone()
    frechet(Moments(x), Moments(x))
    assert torch.equal(x, before)
