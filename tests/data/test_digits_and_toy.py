"""Embedded digits and toy distributions against independent sources and brute force."""

import gzip
import math

import numpy as np
import pytest
import torch

from genlab.core.errors import DataError
from genlab.data.digits import Digits
from genlab.data.toy import KINDS, Toy


def test_digits_are_those_of_scikit_learn_split_in_two():
    from sklearn.datasets import load_digits
    from sklearn.svm import SVC

    data = Digits(size=None, flip=False, shift=0.0)
    (u, y, _), (v, z, _) = data.load("train"), data.load("test")
    assert u.shape == (data.count, *data.spec.shape) == (1500, 1, 8, 8)
    assert v.shape == (297, 1, 8, 8)
    assert y.dtype == z.dtype == torch.int64
    assert u.dtype == v.dtype == torch.uint8
    ours = np.concatenate([u, v]).reshape(-1, 64)
    known = load_digits()
    theirs = np.floor(known.data * 255 / 16 + 0.5)
    rows = sorted(map(tuple, np.column_stack([ours, np.concatenate([y, z])]).tolist()))
    assert rows == sorted(map(tuple, np.column_stack([theirs, known.target]).astype(int).tolist()))
    share = torch.bincount(z) / (torch.bincount(y) + torch.bincount(z))
    assert (share - 1 / 6).abs().max() < 0.005
    classifier = SVC(gamma=0.001 * (16 / 255) ** 2).fit(u.flatten(1), y)
    assert classifier.score(v.flatten(1), z) >= 0.95
    assert Digits(size=16, flip=True, shift=0.0).load("test").x.shape == (297, 1, 16, 16)


def test_digits_damaged_or_absent(tmp_path, monkeypatch):
    data = Digits(size=None, flip=False, shift=0.0)
    good = data.path.read_bytes()
    data.path = tmp_path / "digits.csv.gz"
    lines = gzip.decompress(good).splitlines(keepends=True)
    for bad in (b"", good[:-2000], gzip.compress(b"".join(lines[:-1])), gzip.compress(b"a,b\n")):
        data.path.write_bytes(bad)
        with pytest.raises(DataError, match="reinstall scikit-learn"):
            data.load("train")
    monkeypatch.setattr("genlab.data.digits.find_spec", lambda name: None)
    with pytest.raises(DataError, match="pip install scikit-learn"):
        Digits(size=None, flip=False, shift=0.0)


# --- toy distributions ---------------------------------------------------------------------------


def toy(kind, count=20_000, draw_seed=0):
    return Toy(kind=kind, count=count, draw_seed=draw_seed)


def draw(kind):
    x, y, _ = toy(kind).load("train")
    return x.double().numpy(), None if y is None else y.numpy()


@pytest.mark.parametrize("kind", KINDS)
def test_toy_contract(kind):
    data = toy(kind, 1000)
    x, y, _ = data.load("train")
    assert data.spec.shape == (2,)
    assert x.shape == (1000, 2)
    assert x.dtype == torch.float32
    again = toy(kind, 1000).load("train").x
    assert torch.equal(x, again)
    test = data.load("test").x
    other = toy(kind, 1000, draw_seed=1).load("train").x
    for different in (test, other):
        assert not torch.isclose(x, different).all(1).any()
    assert 0.4 < x.std(0).min() <= x.std(0).max() < 1.3
    assert x.mean(0).abs().max() < 0.35
    if data.spec.classes is None:
        assert y is None
    else:
        assert y.dtype == torch.int64
        share = torch.bincount(y, minlength=data.spec.classes) / 1000
        assert len(share) == data.spec.classes
        spread = math.sqrt(1 / data.spec.classes / 1000)
        assert (share - 1 / data.spec.classes).abs().max() < 4.5 * spread


def nearest(x, curve):
    """Distance of each point to the nearest of a curve's points, and its index."""
    d = np.linalg.norm(x[:, None] - curve[None], axis=2)
    return d.min(1), d.argmin(1)


EIGHT = [(math.sqrt(2) * math.cos(math.radians(a)), math.sqrt(2) * math.sin(math.radians(a)))
         for a in range(0, 360, 45)]  # fmt: skip
GRID = [(i / math.sqrt(2), j / math.sqrt(2)) for i in range(-2, 3) for j in range(-2, 3)]


@pytest.mark.parametrize(("kind", "means", "std"), [
    ("eight_gaussians", EIGHT, 0.1), ("grid25", GRID, 0.05),
])  # fmt: skip
def test_gaussians_have_their_means_deviations_and_labels(kind, means, std):
    x, y = draw(kind)
    assert np.array_equal(nearest(x, np.array(means))[1], y)
    for k, mean in enumerate(means):
        of_mode = x[y == k]
        n = len(of_mode)
        assert np.abs(of_mode.mean(0) - mean).max() < 5 * std / math.sqrt(n)
        assert np.abs(of_mode.std(0) / std - 1).max() < 5 / math.sqrt(2 * n)


def test_two_moons_lie_on_their_arcs():
    from sklearn.datasets import make_moons

    curve, label = make_moons(800, shuffle=False)
    x, y = draw("two_moons")
    x, y = x[:4000], y[:4000]
    distance, index = nearest(x, curve - [0.5, 0.25])
    assert np.array_equal(label[index], y)
    assert math.sqrt((distance**2).mean()) == pytest.approx(0.05, rel=0.06)
    back, _ = nearest(curve - [0.5, 0.25], x)
    assert back.max() < 0.15  # all of both arcs is covered


def test_checkerboard_fills_its_cells():
    x, y = draw("checkerboard")
    cell = np.floor(x + 2).astype(int)
    assert cell.min() == 0
    assert cell.max() == 3
    filled = [(c, r) for r in range(4) for c in range(4) if (c + r) % 2 == 0]
    assert np.array_equal([filled.index((c, r)) for c, r in cell.tolist()], y)
    inside = x + 2 - cell
    for k in range(8):
        n = (y == k).sum()
        assert np.abs(inside[y == k].mean(0) - 0.5).max() < 5 / math.sqrt(12 * n)
        assert inside[y == k].std(0) == pytest.approx(np.full(2, 1 / math.sqrt(12)), rel=0.05)


def test_pinwheel_has_five_arms():
    x, y = draw("pinwheel")
    x, y = x[:3000], y[:3000]
    n = np.linspace(-4, 4, 400)
    arms = []
    for k in range(5):
        a = math.tau * k / 5 + np.exp(0.3 * n) / 4
        arms.append(
            math.sqrt(2) * (1 + 0.3 * n)[:, None] * np.column_stack([np.cos(a), np.sin(a)])
        )
    distance, index = nearest(x, np.concatenate(arms))
    outside = np.linalg.norm(x, axis=1) > 0.7  # the arms meet in the middle
    assert np.mean((index // 400 == y)[outside]) > 0.995
    assert math.sqrt((distance[outside] ** 2).mean()) == pytest.approx(0.1 * math.sqrt(2), rel=0.1)
    radius = np.linalg.norm(x, axis=1) / math.sqrt(2)
    assert radius.mean() == pytest.approx(1, abs=0.03)
    assert radius.std() == pytest.approx(0.3, abs=0.03)


def test_swiss_roll_lies_on_its_spiral():
    from sklearn.datasets import make_swiss_roll

    curve = make_swiss_roll(1500, random_state=0)[0][:, [0, 2]] / 7
    x, _ = draw("swiss_roll")
    distance, _ = nearest(x[:4000], curve)
    assert math.sqrt((distance**2).mean()) == pytest.approx(0.05, rel=0.06)
    back, _ = nearest(curve, x[:4000])
    assert back.max() < 0.15


def test_toy_refuses_bad_values():
    for bad in ({"kind": "moon"}, {"count": 0}, {"count": 10**9}, {"draw_seed": -1}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            Toy(**{"kind": "grid25", "count": 5, "draw_seed": 0, **bad})
    with pytest.raises(KeyError, match="valid"):
        toy("grid25").load("valid")
