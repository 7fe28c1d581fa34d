"""Nearest neighbours as float64 finds them, and precision, recall, density, coverage."""

import pytest
import torch

from genlab.core.errors import DataError
from genlab.metric import neighbours, vectors
from genlab.metric.neighbours import nearest, together
from genlab.metric.prdc import PR, PRDC, prdc
from tests.helpers.given_inputs import Given

K = 3


def normal(n, d, seed, mean=0.0, scale=1.0):
    g = torch.Generator().manual_seed(seed)
    return mean + scale * torch.randn(n, d, generator=g)


def squares(x, y):
    """All squared distances by differences in float64."""
    return (x.double()[:, None] - y.double()).square().sum(-1)


def others(x):
    return squares(x, x).fill_diagonal_(torch.inf)


def by_definition(real, fake, k):
    """(precision, recall, density, coverage) from whole matrices."""
    across = squares(real, fake)
    in_real = across <= others(real).kthvalue(k).values[:, None]
    in_fake = across <= others(fake).kthvalue(k).values
    shares = in_real.any(0), in_fake.any(1), in_real.sum(0).double() / k, in_real.any(1)
    return tuple(float(s.double().mean()) for s in shares)


def copies(seed):
    """Rows that are there once, twice, and more than K times, and in both sets."""
    x, y = normal(60, 20, seed), normal(50, 20, seed + 1)
    x[10:12], x[20:26], y[5:8], y[30:40], y[40:45] = x[0], x[1], x[2], x[1], y[0]
    return x, y


def collapsed(seed):
    """Samples within a hair's breadth of each other, far from nearly all real images."""
    return normal(70, 30, seed), normal(60, 30, seed + 1, mean=0.3, scale=1e-5)


def clusters(seed):
    """Ten tight heaps shared by both sets: float32 products cannot tell neighbours within one."""
    heaps = normal(10, 30, seed, scale=5)
    return tuple(heaps.repeat(6, 1) + normal(60, 30, seed + i, scale=1e-4) for i in (1, 2))


CASES = {
    "apart": lambda seed: (normal(61, 40, seed), normal(45, 40, seed + 1, mean=0.1)),
    "plane": lambda seed: (normal(61, 2, seed), normal(45, 2, seed + 1)),
    "far from the origin": lambda seed: (normal(61, 9, seed, 1e3), normal(45, 9, seed + 1, 1e3)),
    "tiny": lambda seed: (normal(61, 9, seed, scale=1e-30), normal(45, 9, seed + 1, scale=1e-30)),
    "huge": lambda seed: (normal(61, 9, seed, scale=1e30), normal(45, 9, seed + 1, scale=1e30)),
    "grid": lambda seed: tuple(normal(n, 4, seed + n).round() for n in (61, 45)),
    "one outlier": lambda seed: (
        torch.cat([normal(60, 9, seed), torch.full((1, 9), 1e5)]),
        normal(45, 9, seed + 1),
    ),
    "copies": copies,
    "collapsed": collapsed,
    "clusters": clusters,
    "the same": lambda seed: (normal(61, 9, seed),) * 2,
}


@pytest.fixture(params=[16, 1024], ids=["blocks of 16", "one block"])
def block(request, monkeypatch):
    monkeypatch.setattr(vectors, "BLOCK", request.param)


@pytest.mark.parametrize("case", CASES)
def test_everything_is_decided_as_by_float64(case, block):
    for seed in (0, 10):
        real, fake = CASES[case](seed)
        for k in (1, K):
            assert prdc(real, fake, k) == pytest.approx(by_definition(real, fake, k), abs=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_the_nearest_rows_are_found(case, block):
    x, y = CASES[case](3)
    for a, b, distances in ((x, y, squares(x, y)), (x, None, others(x))):
        first, *second = together(a, y if b is not None else a)
        rows = second[0] if b is not None else first
        found, index = nearest(first, rows, K)
        expected = distances.sort(1).values[:, :K]
        assert torch.allclose(found * first.unit**2, expected, rtol=1e-12, atol=0)
        assert torch.equal(distances.gather(1, index), found * first.unit**2)
        assert all(len(set(row)) == K for row in index.tolist()), "a row is counted once"


@pytest.mark.parametrize("case", ["clusters", "copies", "grid", "the same"])
def test_many_open_pairs_are_decided_by_a_second_product(case, monkeypatch):
    real, fake = CASES[case](0)
    plain = prdc(real, fake, K)
    seen = []
    bounds = neighbours._bounds
    monkeypatch.setattr(neighbours, "_bounds", lambda *a: seen.append(a[-1]) or bounds(*a))
    for few in (1, 0):
        monkeypatch.setattr(neighbours, "OPEN", few)
        assert prdc(real, fake, K) == plain == by_definition(real, fake, K)
    assert {torch.float32, torch.float64} == set(seen)


def test_rounding_stays_within_the_bounds():
    for d, scale in ((2, 1.0), (2048, 1.0), (12_288, 1.0), (2048, 100.0)):
        x = normal(64, d, 0, mean=0.5, scale=scale).relu()
        y = normal(64, d, 1, mean=0.5, scale=scale).relu()
        a, b = together(x, y)
        whole = slice(0, 64)
        lower, upper = neighbours._bounds(a, b, whole, whole, torch.float32)
        true = torch.cdist(x.double(), y.double(), compute_mode="donot_use_mm_for_euclid_dist")
        true = true.square() / a.unit**2
        assert (lower.double() <= true).all()
        assert (true <= upper.double()).all()
        room = (upper - lower).double() / 2
        assert ((lower.double() + room - true).abs() < room / 2).all(), "far beyond what is seen"


def test_images_are_compared_as_they_are_stored():
    g = torch.Generator().manual_seed(0)
    x, y = (torch.randint(256, (n, 3, 4, 4), generator=g, dtype=torch.uint8) for n in (30, 40))
    y[7] = x[3]
    a, b = together(x, y)
    found, index = nearest(a, b, 2)
    flat = [z.flatten(1) for z in (x, y)]
    expected, rows = squares(*flat).topk(2, largest=False)
    assert torch.equal(found * a.unit**2, expected)
    assert torch.equal(index, rows)
    assert found[3, 0] == 0


def values(metric, real, fake):
    return metric(Given(pooled={"real": real, "fake": fake})).values


def test_a_collapsed_generator_is_precise_and_recalls_nothing():
    real = normal(400, 8, 0)
    fake = normal(300, 8, 1, scale=0.05)  # all in the middle of the real ones
    for metric, name in ((PR(k=3), "pr"), (PRDC(k=5), "prdc")):
        found = values(metric, real, fake)
        assert found[f"{name}_precision"] > 0.99
        assert found[f"{name}_recall"] < 0.05
        swapped = values(metric, fake, real)
        assert swapped[f"{name}_precision"] < 0.05 < 0.99 < swapped[f"{name}_recall"]
    assert found["prdc_coverage"] < 0.2
    assert found["prdc_density"] > 1


def test_equal_distributions():
    """Density is 1 and coverage 1 - prod (n - i) / (2 n - i) in expectation (Naeem, section 3)."""
    n, k = 600, 5
    found = torch.tensor([prdc(normal(n, 6, 2 * i), normal(n, 6, 2 * i + 1), k) for i in range(8)])
    missed = 1.0
    for i in range(k):  # a real image's k nearest of all others are real ones
        missed *= (n - 1 - i) / (2 * n - 1 - i)
    mean, error = found.double().mean(0), found.double().std(0) / 8**0.5
    assert abs(mean[2] - 1) < 4 * error[2]
    assert abs(mean[3] - (1 - missed)) < 4 * error[3]


def test_names_and_what_is_better():
    real, fake = normal(20, 4, 0), normal(20, 4, 1)
    for metric, count in ((PR(k=3), 2), (PRDC(k=5), 4)):
        assert set(values(metric, real, fake)) == set(metric.better)
        assert set(metric.better.values()) == {"high"}
        assert len(metric.better) == count
        assert metric.min_images == metric.k + 1


def test_what_cannot_be_computed():
    x = normal(10, 4, 0)
    with pytest.raises(DataError, match="pr needs at least 11, but the reference are 10"):
        values(PR(k=10), x, x)
    with pytest.raises(DataError, match="reference are equal"):
        values(PRDC(k=3), x * 0 + 1, x)
    assert values(PRDC(k=3), x, x * 0 + 50)["prdc_recall"] == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_as_on_a_cpu():
    for case in CASES.values():
        real, fake = case(0)
        assert prdc(real, fake, K, torch.device("cuda")) == prdc(real, fake, K)
