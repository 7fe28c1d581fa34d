"""KID and CMMD: the sums of their definition, no bias, and what the interval covers."""

import math

import pytest
import torch

from genlab.core.errors import DataError
from genlab.metric import vectors
from genlab.metric.cmmd import CMMD
from genlab.metric.kid import KID, cubic
from genlab.metric.mmd import mmd
from tests.helpers.given_inputs import Given


def normal(n, d, seed, mean=0.0):
    g = torch.Generator().manual_seed(seed)
    return mean + torch.randn(n, d, generator=g, dtype=torch.float64)


def kid(real, fake, subsets=0, size=1000, seed=0):
    inputs = Given(pooled={"real": real, "fake": fake}, seed=seed)
    return KID(subsets=subsets, size=size)(inputs).values


def by_pairs(x, y, kernel):
    """The estimate pair by pair."""
    m, n = len(x), len(y)
    xx = sum(kernel(x[i] @ x[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    yy = sum(kernel(y[i] @ y[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    xy = sum(kernel(a @ b) for a in x for b in y) / (m * n)
    return float(xx + yy - 2 * xy)


def truth(a, b):
    """MMD^2 with the cubic kernel of N(a, I) and N(b, I), from the moments of s = x.y."""

    def mean(a, b):
        s, a2, b2, d = float(a @ b), float(a @ a), float(b @ b), len(a)
        square = d + a2 + b2 + s**2
        cube = s**3 + 3 * s * (a2 + b2) + (3 * d + 6) * s
        return 1 + 3 * s / d + 3 * square / d**2 + cube / d**3

    return mean(a, a) + mean(b, b) - 2 * mean(a, b)


@pytest.fixture
def blocks_of_seven(monkeypatch):
    monkeypatch.setattr(vectors, "BLOCK", 7)


@pytest.mark.parametrize(("m", "n"), [(20, 17), (14, 30), (3, 4)])
def test_kid_is_the_sum_over_pairs(m, n, blocks_of_seven):
    x, y = normal(m, 5, 0), normal(n, 5, 1, mean=0.4)
    expected = by_pairs(x, y, lambda s: (s / 5 + 1) ** 3)
    assert kid(x, y)["kid"] == pytest.approx(expected, rel=1e-6)
    assert kid(y, x)["kid"] == pytest.approx(expected, rel=1e-6)
    assert kid(x.float(), y.float())["kid"] == pytest.approx(expected, rel=1e-5)


def test_subsets_are_estimates_of_their_own(blocks_of_seven):
    x, y = normal(30, 5, 0), normal(25, 5, 1)
    g = torch.Generator().manual_seed(0)
    rows = [torch.stack([torch.randperm(n, generator=g)[:9] for _ in range(6)]) for n in (30, 25)]
    found = mmd(x, y, cubic(5), tuple(rows)).subsets
    for i, (p, q) in enumerate(zip(*rows, strict=True)):
        assert float(found[i]) == pytest.approx(by_pairs(x[p], y[q], cubic(5)), rel=1e-6)
    whole = mmd(x, y, cubic(5), (torch.arange(25)[None], torch.arange(25)[None])).subsets
    assert float(whole) == pytest.approx(by_pairs(x[:25], y, cubic(5)), rel=1e-6)


def test_the_error_is_the_jackknife(blocks_of_seven):
    x, y = normal(12, 3, 0), normal(16, 3, 1, mean=0.3)
    total = 0.0
    for side, rows in enumerate((x, y)):
        without = []
        for i in range(len(rows)):
            sets = [x, y]
            sets[side] = torch.cat([rows[:i], rows[i + 1 :]])
            without.append(mmd(*sets, cubic(3)).value)
        without = torch.tensor(without, dtype=torch.float64)
        n = len(rows)
        total += (n - 1) / n * float((without - without.mean()).square().sum())
    assert mmd(x, y, cubic(3)).error == pytest.approx(math.sqrt(total), rel=1e-5)


@pytest.mark.parametrize("shift", [0.0, 0.3, 1.0])
def test_kid_has_no_bias_and_its_interval_covers_the_truth(shift):
    d, draws = 16, 400
    a = torch.full((d,), 0.5, dtype=torch.float64)
    expected = truth(a, a + shift)
    found = [
        kid(normal(200, d, 2 * i, mean=a), normal(150, d, 2 * i + 1, mean=a + shift), 4, 50)
        for i in range(draws)
    ]
    for name in ("kid", "kid_subsets"):
        values = torch.tensor([v[name] for v in found], dtype=torch.float64)
        assert abs(values.mean() - expected) < 4 * values.std() / draws**0.5
    covered = sum(v["kid_low"] <= expected <= v["kid_high"] for v in found) / draws
    assert covered > 0.95 - 3 * (0.95 * 0.05 / draws) ** 0.5
    spread = torch.tensor([v["kid"] for v in found]).std()
    width = sum((v["kid_high"] - v["kid_low"]) / 2 / 1.96 for v in found) / draws
    wider = 2**0.5 if shift == 0 else 1  # where the estimate is degenerate
    assert width == pytest.approx(wider * float(spread), rel=0.12)  # 3 / (2 draws)^(1/2)
    if shift == 0:
        assert expected == 0
        assert any(v["kid"] < 0 for v in found)


def test_no_digits_are_lost_where_the_sets_are_alike():
    """Float32 products against float64 ones: of one distribution, far from the origin."""
    x, y = normal(1500, 300, 0, mean=3.0).float(), normal(1400, 300, 1, mean=3.0).float()
    found = mmd(x, y, cubic(300))
    wide = [z.double() for z in (x, y)]
    k = [(a @ b.T / 300 + 1) ** 3 for a, b in ((wide[0],) * 2, (wide[1],) * 2, tuple(wide))]
    within = [(float(q.sum() - q.trace())) / (len(q) * (len(q) - 1)) for q in k[:2]]
    expected = sum(within) - 2 * float(k[2].mean())
    assert abs(expected) < 1e-3 * float(k[2].mean()), "most of the sums cancels"
    assert found.value == pytest.approx(expected, rel=1e-6)


def test_kid_says_how_large_its_subsets_were():
    x, y = normal(40, 3, 0), normal(30, 3, 1)
    values = kid(x, y, subsets=5, size=100)
    assert values["kid_size"] == 30
    assert kid(x, y, subsets=5, size=20)["kid_size"] == 20
    assert set(kid(x, y, subsets=0)) == {"kid", "kid_low", "kid_high"}
    assert kid(x, y, 5, 20) == kid(x, y, 5, 20)
    other = kid(x, y, 5, 20, seed=1)
    assert other["kid"] == kid(x, y, 5, 20)["kid"], "all pairs need no seed"
    assert other["kid_subsets"] != kid(x, y, 5, 20)["kid_subsets"]


def test_constant_features_have_a_distance():
    x = torch.full((10, 4), 2.0)
    assert kid(x, x)["kid"] == 0
    k = [(p * 1.0 + 1) ** 3 for p in (4.0, 9.0, 6.0)]  # x.x / 4, y.y / 4, x.y / 4
    assert kid(x, x + 1)["kid"] == pytest.approx(k[0] + k[1] - 2 * k[2])


def cmmd(real, fake):
    return CMMD()(Given(pooled={"real": real, "fake": fake})).values


def test_cmmd_is_the_sum_over_pairs(blocks_of_seven):
    x, y = normal(16, 6, 0), normal(11, 6, 1, mean=0.5)
    unit = [z / z.norm(dim=1, keepdim=True) for z in (x, y)]
    expected = 1000 * by_pairs(*unit, lambda s: torch.exp(-(2 - 2 * s) / 200))
    values = cmmd(x, y)
    assert values["cmmd"] == pytest.approx(expected, rel=1e-6)
    assert cmmd(3 * x, y / 7)["cmmd"] == pytest.approx(expected, rel=1e-6), "only directions count"
    assert values["cmmd_low"] < values["cmmd"] < values["cmmd_high"]


def test_cmmd_wants_clip():
    assert CMMD.features == "clip"


def test_what_cannot_be_computed():
    x = normal(5, 4, 0)
    with pytest.raises(DataError, match="kid needs at least 3, but the samples are 2"):
        kid(x, x[:2])
    with pytest.raises(DataError, match="embedding is zero"):
        cmmd(x, x * 0)
    with pytest.raises(ValueError, match="2 images"):
        KID(subsets=1, size=1)
