"""Metrics of originals and copies against hand computations and other packages."""

import math

import numpy as np
import pytest
import torch

from genlab.core.errors import DataError
from genlab.core.metric import Pairs
from genlab.metric.codebook import Codebook
from genlab.metric.psnr import PSNR
from genlab.metric.ssim import SSIM
from genlab.nn.quantize import codebook_usage
from genlab.nn.similarity import psnr, ssim
from tests.helpers.given_inputs import Given


def images(n=4, c=3, h=24, w=17, seed=0):
    """Smooth images and noisy copies of them, uint8."""
    g = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, c, 5, 5, generator=g)
    smooth = torch.nn.functional.interpolate(coarse, (h, w), mode="bicubic").clamp(0, 1) * 255
    noise = torch.randn(n, c, h, w, generator=g) * torch.linspace(2, 40, n)[:, None, None, None]
    return smooth.round().byte(), (smooth + noise).clamp(0, 255).round().byte()


def pairs(a, b, codes=None):
    return Given(both=Pairs(a, b, torch.zeros(len(a), 1) if codes is None else codes))


def test_psnr_is_that_of_the_formula():
    a = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    b = a.clone()
    b[1] += 5
    assert psnr(a, b).tolist() == [math.inf, pytest.approx(20 * math.log10(51))]


def test_mean_psnr_counts_an_exact_copy_as_the_best_other_copy():
    a, b = images(8)
    b[2] = a[2]
    b[5] = a[5]
    b[5, 0, 0, 0] ^= 1
    one_off = 10 * math.log10(255**2 * a[0].numel())
    errors = (a.double() - b.double()).square().flatten(1).mean(1)
    wanted = [10 * math.log10(255**2 / e) if e else one_off for e in errors.tolist()]
    assert wanted[5] == pytest.approx(one_off)
    values = PSNR()(pairs(a, b)).values
    assert list(values) == ["psnr", "psnr_exact"]
    assert values["psnr"] == pytest.approx(np.mean(wanted), rel=1e-6)
    assert values["psnr_exact"] == 1 / 8


def test_ssim_of_every_window_written_out():
    a, b = images(2, 2, 13, 12)
    offsets = np.arange(-5, 6)
    weight = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    weight /= weight.sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    for x, y, found in zip(
        a.numpy().astype(float), b.numpy().astype(float), ssim(a, b), strict=True
    ):
        places = []
        for c in range(2):
            for i in range(3):
                for j in range(2):
                    p, q = (v[c, i : i + 11, j : j + 11] for v in (x, y))
                    mp, mq = (weight * p).sum(), (weight * q).sum()
                    vp, vq = (weight * (p - mp) ** 2).sum(), (weight * (q - mq) ** 2).sum()
                    cov = (weight * (p - mp) * (q - mq)).sum()
                    places.append(
                        (2 * mp * mq + c1)
                        * (2 * cov + c2)
                        / ((mp**2 + mq**2 + c1) * (vp + vq + c2))
                    )
        assert float(found) == pytest.approx(np.mean(places), rel=1e-10)


def test_ssim_of_equal_images_is_one_and_falls_with_noise():
    a, b = images()
    assert ssim(a, a).tolist() == pytest.approx([1] * len(a), abs=1e-12)
    found = ssim(a, b)
    assert (found.diff() < 0).all(), "the noise of the copies grows"
    torch.testing.assert_close(found, ssim(b, a))
    assert SSIM()(pairs(a, b)).values["ssim"] == pytest.approx(float(found.mean()), rel=1e-12)


def test_ssim_says_when_images_are_smaller_than_its_window():
    a, b = images(1, 1, 10, 20)
    with pytest.raises(DataError, match="at least 11 pixels, not 10 x 20"):
        SSIM()(pairs(a, b))


@pytest.mark.parametrize("metric", [PSNR(), SSIM()])
def test_parts_of_the_pairs_do_not_matter(metric, monkeypatch):
    given = pairs(*images(9))
    whole = metric(given).values
    monkeypatch.setattr("genlab.metric.pairwise.PIXELS", 2 * images(1)[0].numel())
    assert metric(given).values == pytest.approx(whole, rel=1e-6)


def test_use_of_a_codebook_by_hand():
    usage, perplexity = codebook_usage(torch.tensor([5, 0, 5, 0]))
    assert (usage.item(), perplexity.item()) == pytest.approx((0.5, 2))
    codes = torch.tensor([[[0, 1], [1, 1]], [[1, 1], [1, 6]]])  # 1, 6 and 1 times of eight
    a, b = images(2)
    given = pairs(a, b, codes)
    given.codes = 16
    values = Codebook()(given).values
    nats = 2 / 8 * math.log(8) + 6 / 8 * math.log(8 / 6)
    wanted = {"codebook": 3 / 16, "codebook_perplexity": math.exp(nats)}
    assert values == pytest.approx(wanted, rel=1e-6)
    given.codes = None
    with pytest.raises(DataError, match="codebook"):
        Codebook()(given)


@pytest.mark.peer
@pytest.mark.parametrize("c", [1, 3])
def test_psnr_and_ssim_are_those_of_scikit_image(c):
    metrics = pytest.importorskip("skimage.metrics")
    a, b = images(4, c, 40, 29, seed=c)
    for x, y, ours, decibels in zip(a.numpy(), b.numpy(), ssim(a, b), psnr(a, b), strict=True):
        theirs = metrics.structural_similarity(
            x,
            y,
            channel_axis=0,
            data_range=255,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        assert float(ours) == pytest.approx(theirs, rel=1e-6)
        theirs = metrics.peak_signal_noise_ratio(x, y, data_range=255)
        assert float(decibels) == pytest.approx(theirs, rel=1e-6)
