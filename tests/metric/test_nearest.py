"""Memorisation: what copies, new data and the training images themselves look like."""

import math

import pytest
import torch

from genlab.core.errors import DataError
from genlab.metric import vectors
from genlab.metric.nearest import Nearest
from tests.helpers.given_inputs import Given


def images(n, seed, size=6):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(256, (n, 1, size, size), generator=g, dtype=torch.uint8)


def evaluate(fake, training, real, pairs=0, seed=0):
    streams = {"fake": fake, "training": training, "real": real}
    return Nearest(pairs=pairs)(Given(streams, seed=seed))


def rms(a, b):
    """[n, m] root mean squared differences of pixels in [0, 1]; equal sums give equal roots."""
    a, b = (x.flatten(1).long() for x in (a, b))
    return ((a[:, None] - b).square().sum(-1).double() / a.shape[1]).sqrt() / 255


def test_values_by_brute_force(monkeypatch):
    monkeypatch.setattr(vectors, "BLOCK", 13)
    fake, training, real = images(41, 0), images(60, 1), images(33, 2)
    values = evaluate(fake, training, real).values
    samples, held_out = (rms(x, training).min(1).values for x in (fake, real))
    assert values["nearest"] == pytest.approx(float(samples.median()), rel=1e-9)
    ratio = float(samples.median() / held_out.median())
    assert values["nearest_ratio"] == pytest.approx(ratio, rel=1e-9)
    closer = (samples[:, None] < held_out).double() + (samples[:, None] == held_out) / 2
    assert values["nearest_closer"] == pytest.approx(float(closer.mean()), rel=1e-9)


def test_copies_and_new_data():
    training, real = images(300, 0), images(200, 1)
    copies = evaluate(training[:100], training, real).values
    assert copies == {"nearest": 0, "nearest_ratio": 0, "nearest_closer": 1}
    new = evaluate(images(200, 2), training, real).values
    assert new["nearest_ratio"] == pytest.approx(1, abs=0.03)
    deviation = math.sqrt((200 + 200 + 1) / (12 * 200 * 200))  # of U / (n m)
    assert abs(new["nearest_closer"] - 0.5) < 4 * deviation
    half = torch.cat([training[:100], images(100, 2)])
    assert evaluate(half, training, real).values["nearest_closer"] == pytest.approx(0.75, abs=0.06)


def test_a_reference_among_the_training_images_is_left_out_of_them():
    training = images(150, 0)
    values = evaluate(images(200, 1), training, training).values
    assert abs(values["nearest_closer"] - 0.5) < 4 * math.sqrt(351 / (12 * 200 * 150))
    distances = rms(training, training).fill_diagonal_(torch.inf).min(1).values
    expected = values["nearest"] / float(distances.median())
    assert values["nearest_ratio"] == pytest.approx(expected, rel=1e-9)


def test_the_closest_pairs():
    training = images(50, 0)
    fake = images(30, 1)
    fake[7], fake[12] = training[31], training[4]
    fake[12, 0, 0, 0] ^= 1
    left, right, captions = evaluate(fake, training, images(20, 2), pairs=5).pairs
    assert (left.shape, right.shape, len(captions)) == ((5, 1, 6, 6), (5, 1, 6, 6), 5)
    assert left.dtype == right.dtype == torch.uint8
    assert torch.equal(left[0], right[0])
    assert captions[0] == "sample 7, training image 31, difference 0.0000"
    assert captions[1] == f"sample 12, training image 4, difference {1 / 255 / 6:.4f}"
    seen = rms(left, right).diagonal()
    assert torch.equal(seen, seen.sort().values)
    assert evaluate(fake, training, fake, pairs=0).pairs is None
    assert len(evaluate(fake[:3], training, fake, pairs=24).pairs[2]) == 3


def test_as_many_reference_images_as_samples():
    fake, training, real = images(10, 0), images(40, 1), images(500, 2)
    first, again = (evaluate(fake, training, real).values for _ in range(2))
    assert first == again
    others = {evaluate(fake, training, real, seed=s).values["nearest_ratio"] for s in range(4)}
    assert len(others) > 1
    assert {evaluate(fake, training, real, seed=s).values["nearest"] for s in range(4)} == {
        first["nearest"]
    }


def test_points_have_no_pictures():
    x = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    result = evaluate(x[:20] + 0.001, x, x[20:], pairs=24)
    assert result.pairs is None
    assert result.values["nearest"] == pytest.approx(0.001, rel=1e-3)


def test_what_cannot_be_computed():
    x = images(5, 0)
    with pytest.raises(DataError, match="nearest needs at least 2, but the samples are 1"):
        evaluate(x[:1], x, x)
    with pytest.raises(DataError, match="samples are uint8 1x4x4, the training images uint8 1x6"):
        evaluate(images(5, 0, size=4), x, x)
    assert math.isnan(
        evaluate(x, x[:1].expand(5, 1, 6, 6), x[:1].expand(3, 1, 6, 6)).values["nearest_ratio"]
    )
