"""Frechet and kernel distance, precision and recall, density and coverage of given features."""

import importlib
from functools import partial

import torch

from genlab.core.metric import MetricResult
from peers.compare import Side, Target, Work

__all__ = ["TARGETS"]

IMAGES, WIDTH, SUBSETS, SIZE = 10_000, 2048, 100, 1000


class Given:
    """MetricInputs of two sets of features alone."""

    device, seed = torch.device("cpu"), 0

    def __init__(self, real: torch.Tensor, fake: torch.Tensor) -> None:
        self.sets = {"real": real, "fake": fake}

    def features(self, of: str, output: str = "pool") -> torch.Tensor:
        return self.sets[of]


def features() -> tuple[torch.Tensor, torch.Tensor]:
    """Like a network's: correlated, rectified, float32; the second a little off the first."""
    g = torch.Generator().manual_seed(0)
    mix = torch.randn(64, WIDTH, generator=g) / 8

    def made(shift: float) -> torch.Tensor:
        z = torch.randn(IMAGES, 64, generator=g)
        noise = torch.randn(IMAGES, WIDTH, generator=g)
        return (z @ mix + 0.3 * noise + shift).relu()

    return made(0.0), made(0.02)


def work(compute, note: str = "") -> Work:
    """One figure; that of a first call stands in the note, to see that all mean the same."""
    return Work(compute, 1, f"{note} {compute():.9g}".strip())


def genlab_metric(file: str, cls: str, value: str, **keys) -> Work:
    """A metric of genlab from inputs to result."""
    metric = getattr(importlib.import_module(f"genlab.metric.{file}"), cls)(**keys)
    inputs = Given(*features())

    def compute() -> float:
        result: MetricResult = metric(inputs)
        return result.values[value]

    return work(compute, value)


# --- mean and covariance of one set --------------------------------------------------------------


def genlab_moments() -> Work:
    """With the factor of the covariance, which the distance needs."""
    from genlab.metric.fid import Moments

    x, _ = features()
    return work(lambda: Moments(x).trace, "trace")


def numpy_moments() -> Work:
    """numpy.mean and numpy.cov, as torch-fidelity and clean-fid call them."""
    from torch_fidelity.metric_fid import fid_features_to_statistics

    x, _ = features()
    return work(lambda: fid_features_to_statistics(x)["sigma"].trace(), "trace")


def torchmetrics_moments() -> Work:
    """Its sums of features and of their products, then the covariance as its compute() has it."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=identity())
    x, _ = features()

    def compute() -> float:
        metric.reset()
        metric.update(x, real=True)
        mean = (metric.real_features_sum / IMAGES)[None]
        return ((metric.real_features_cov_sum - IMAGES * mean.T @ mean) / (IMAGES - 1)).trace()

    return work(compute, "trace")


def identity() -> torch.nn.Module:
    """What torchmetrics takes for a feature network."""
    network = torch.nn.Identity()
    network.num_features = WIDTH
    return network


# --- Frechet distance of given moments -----------------------------------------------------------


def genlab_distance() -> Work:
    """From two sets of Moments."""
    from genlab.metric.fid import Moments, frechet

    a, b = (Moments(x) for x in features())
    return work(lambda: frechet(a, b))


def moments() -> list:
    """(mean, covariance) of both sets, float64."""
    return [(x.double().mean(0), torch.cov(x.double().T)) for x in features()]


def torchmetrics_distance() -> Work:
    """Its _compute_fid: eigenvalues of the product."""
    from torchmetrics.image.fid import _compute_fid

    (m1, c1), (m2, c2) = moments()
    return work(lambda: float(_compute_fid(m1, c1, m2, c2)))


def fidelity_distance() -> Work:
    """Its fid_statistics_to_metric: eigenvalues of the product."""
    from torch_fidelity.metric_fid import fid_statistics_to_metric

    sides = [{"mu": m.numpy(), "sigma": c.numpy()} for m, c in moments()]
    key = "frechet_inception_distance"
    return work(lambda: fid_statistics_to_metric(*sides, verbose=False)[key])


def cleanfid_distance() -> Work:
    """Its frechet_distance: scipy's sqrtm."""
    from cleanfid.fid import frechet_distance

    (m1, c1), (m2, c2) = ((m.numpy(), c.numpy()) for m, c in moments())
    return work(lambda: frechet_distance(m1, c1, m2, c2))


# --- kernel distance -----------------------------------------------------------------------------


def torchmetrics_kid() -> Work:
    """KernelInceptionDistance.compute on stored features."""
    from torchmetrics.image.kid import KernelInceptionDistance

    metric = KernelInceptionDistance(feature=identity(), subsets=SUBSETS, subset_size=SIZE)
    for x, real in zip(features(), (True, False), strict=True):
        metric.update(x, real=real)

    def compute() -> float:
        metric._computed = None
        return float(metric.compute()[0])

    return work(compute, "subsets")


def fidelity_kid() -> Work:
    """Its kid_features_to_metric."""
    from torch_fidelity.metric_kid import kid_features_to_metric

    real, fake = features()
    keys = {"kid_subsets": SUBSETS, "kid_subset_size": SIZE, "verbose": False}
    key = "kernel_inception_distance_mean"
    return work(lambda: kid_features_to_metric(fake, real, **keys)[key], "subsets")


def cleanfid_kid() -> Work:
    """Its kernel_distance."""
    from cleanfid.fid import kernel_distance

    sets = [x.numpy() for x in features()]
    keys = {"num_subsets": SUBSETS, "max_subset_size": SIZE}
    return work(lambda: kernel_distance(*sets, **keys), "subsets")


# --- precision and recall, density and coverage --------------------------------------------------


def fidelity_pr() -> Work:
    """Its prc_features_to_metric, k = 3."""
    from torch_fidelity.metric_prc import prc_features_to_metric

    real, fake = features()
    keys = {"prc_neighborhood": 3, "verbose": False}
    return work(lambda: prc_features_to_metric(fake, real, **keys)["recall"], "recall")


def prdc_prdc() -> Work:
    """Its compute_prdc, k = 5; it has scikit-learn take 8 threads whatever the number."""
    import contextlib
    import io

    from prdc import compute_prdc

    real, fake = (x.numpy() for x in features())

    def compute() -> float:
        with contextlib.redirect_stdout(io.StringIO()):
            return compute_prdc(real, fake, nearest_k=5)["density"]

    return work(compute, "density, 8 jobs")


BOTH = f"two sets of {IMAGES:,} x {WIDTH} float32 features"


def peer(name: str, make, module: str) -> Side:
    return Side(name, make, module, name)


TARGETS = (
    Target(
        "fid-moments",
        "s",
        f"mean and covariance of one set of {IMAGES:,} x {WIDTH}, in float64",
        Side("genlab", genlab_moments),
        (
            peer("torchmetrics", torchmetrics_moments, "torchmetrics"),
            peer("torch-fidelity", numpy_moments, "torch_fidelity"),
        ),
    ),
    Target(
        "fid-distance",
        "s",
        f"Frechet distance of two given Gaussians in {WIDTH} dimensions",
        Side("genlab", genlab_distance),
        (
            peer("torchmetrics", torchmetrics_distance, "torchmetrics"),
            peer("torch-fidelity", fidelity_distance, "torch_fidelity"),
            peer("clean-fid", cleanfid_distance, "cleanfid"),
        ),
        floor=1 / 1.7,
    ),
    Target(
        "kid",
        "s",
        f"{BOTH}; peers: {SUBSETS} subsets of {SIZE:,}; genlab: the same and all pairs, with "
        "an interval",
        Side(
            "genlab",
            partial(genlab_metric, "kid", "KID", "kid_subsets", subsets=SUBSETS, size=SIZE),
        ),
        (
            peer("torchmetrics", torchmetrics_kid, "torchmetrics"),
            peer("torch-fidelity", fidelity_kid, "torch_fidelity"),
            peer("clean-fid", cleanfid_kid, "cleanfid"),
        ),
    ),
    Target(
        "pr",
        "s",
        f"{BOTH}; improved precision and recall, k = 3",
        Side("genlab", partial(genlab_metric, "prdc", "PR", "pr_recall", k=3)),
        (peer("torch-fidelity", fidelity_pr, "torch_fidelity"),),
    ),
    Target(
        "prdc",
        "s",
        f"{BOTH}; precision, recall, density and coverage, k = 5",
        Side("genlab", partial(genlab_metric, "prdc", "PRDC", "prdc_density", k=5)),
        (peer("prdc", prdc_prdc, "prdc"),),
        floor=1 / 15,
    ),
)
