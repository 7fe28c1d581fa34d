"""The numbers of other packages on the same features; those that are installed take part."""

import pytest
import torch

from genlab.metric.fid import FID
from genlab.metric.inception_score import inception_scores
from genlab.metric.kid import KID, cubic
from genlab.metric.mmd import mmd
from genlab.metric.prdc import PR, PRDC
from tests.helpers.given_inputs import Given

pytestmark = pytest.mark.peer

QUIET = {"verbose": False}


def features(n, seed, shift=0.0, d=96):
    """Like those of a network: correlated, rectified, off the origin. float64 [n, d]."""
    mix = torch.randn(16, d, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(n, 16, generator=g, dtype=torch.float64)
    noise = torch.randn(n, d, generator=g, dtype=torch.float64)
    return (z @ mix / 4 + 0.3 * noise + 0.5 + shift).relu()


REAL, FAKE = features(700, 0), features(500, 1, shift=0.1)


def ours(metric, real=REAL, fake=FAKE):
    return metric(Given(pooled={"real": real, "fake": fake})).values


def same(value):
    return pytest.approx(float(value), rel=1e-6)


@pytest.mark.parametrize("n", [500, 60], ids=["many", "fewer than numbers"])
def test_fid_against_torch_fidelity(n):
    fidelity = pytest.importorskip("torch_fidelity.metric_fid")
    moments = [fidelity.fid_features_to_statistics(x) for x in (FAKE[:n], REAL)]
    found = fidelity.fid_statistics_to_metric(*moments, verbose=False)
    value = ours(FID(infinity=False), fake=FAKE[:n])["fid"]
    assert value == same(found["frechet_inception_distance"])


def test_kid_on_the_same_subsets():
    kid = pytest.importorskip("torch_fidelity.metric_kid")
    numpy = pytest.importorskip("numpy")
    keys = {"kid_subsets": 30, "kid_subset_size": 200, "rng_seed": 5, **QUIET}
    found = kid.kid_features_to_metric(FAKE, REAL, **keys)
    rng = numpy.random.RandomState(5)
    drawn = [[rng.choice(len(x), 200, replace=False) for x in (FAKE, REAL)] for _ in range(30)]
    rows = tuple(torch.tensor(numpy.stack(side)) for side in zip(*drawn, strict=True))
    subsets = mmd(FAKE, REAL, cubic(FAKE.shape[1]), rows).subsets
    assert float(subsets.mean()) == same(found["kernel_inception_distance_mean"])
    assert float(subsets.std(correction=0)) == same(found["kernel_inception_distance_std"])


def test_kid_of_all_images():
    """A subset that is everything."""
    kid = pytest.importorskip("torch_fidelity.metric_kid")
    keys = {"kid_subsets": 1, "kid_subset_size": 500, **QUIET}
    for fake in (FAKE, features(500, 2)):
        found = kid.kid_features_to_metric(fake, REAL[:500], **keys)
        value = ours(KID(subsets=0, size=2), REAL[:500], fake)["kid"]
        assert value == same(found["kernel_inception_distance_mean"])


def test_precision_and_recall():
    prc = pytest.importorskip("torch_fidelity.metric_prc")
    found = prc.prc_features_to_metric(FAKE, REAL, prc_neighborhood=3, **QUIET)
    assert ours(PR(k=3)) == {
        "pr_precision": same(found["precision"]),
        "pr_recall": same(found["recall"]),
    }
    assert 0 < found["precision"] != found["recall"] < 1


@pytest.mark.parametrize("k", [1, 5])
def test_precision_recall_density_coverage(k):
    prdc = pytest.importorskip("prdc")
    found = prdc.compute_prdc(REAL.numpy(), FAKE.numpy(), nearest_k=k)
    assert ours(PRDC(k=k)) == {f"prdc_{name}": same(value) for name, value in found.items()}


def test_inception_score():
    isc = pytest.importorskip("torch_fidelity.metric_isc")
    logits = 4 * FAKE
    found = isc.isc_features_to_metric(logits, splits=10, shuffle=False)
    scores = inception_scores(logits, 10)
    assert float(scores.mean()) == same(found["inception_score_mean"])
    assert float(scores.std(correction=0)) == same(found["inception_score_std"])
