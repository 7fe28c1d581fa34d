"""Frechet distance between Gaussians fitted to features."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from genlab.core.metric import Metric, MetricInputs, MetricResult
from genlab.core.random import hash64
from genlab.core.registry import register
from genlab.metric.vectors import feature_sets

__all__ = ["FID", "Moments", "frechet"]

SUBSETS = 10  # sizes between a fifth and all samples, for the extrapolation
STRIP = 256  # columns of a product, of which only what is right of the diagonal is computed
HALVES = 7  # keeps the choice of subsets apart from other random numbers of a seed


@register
class FID(Metric):
    """Frechet inception distance, and how much of it is small samples.

    fid = |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), m and C the mean and unbiased covariance of
    the features. Heusel et al. 2017, arXiv 1706.08500, eq. 6.

    A finite sample makes it too high, by about c / N (Chong and Forsyth 2020, arXiv 1911.07023).
    fid_bias estimates by how much: the mean over two disjoint halves of both sets of their fid,
    less that of all.

    infinity: also fid_infinity, the value at 1 / n = 0 of a line through fid over 1 / n for ten
    numbers n of samples; the reference stays whole.
    """

    needs = ("features",)
    min_images = 2
    lower_is_better: tuple[str, ...] = ("fid",)
    ignored_keys = ("infinity",)

    def __init__(self, *, infinity: bool) -> None:
        self.infinity = infinity
        if infinity:
            self.min_images = SUBSETS
            self.lower_is_better = ("fid", "fid_infinity")

    def __call__(self, inputs: MetricInputs) -> MetricResult:
        """fid, fid_bias from four images a set on, fid_infinity."""
        real, fake = feature_sets(inputs, "fid", self.min_images)
        reference = Moments(real)
        values = {"fid": frechet(reference, Moments(fake))}
        g = torch.Generator().manual_seed(hash64(inputs.seed, HALVES))
        real_order = torch.randperm(len(real), generator=g)
        order = torch.randperm(len(fake), generator=g)
        if min(len(real), len(fake)) >= 4:
            halves = zip(real_order.chunk(2), order.chunk(2), strict=True)
            parts = [frechet(Moments(real[i]), Moments(fake[j])) for i, j in halves]
            values["fid_bias"] = sum(parts) / len(parts) - values["fid"]
        if self.infinity:
            sizes = torch.linspace(len(fake) / 5, len(fake), SUBSETS).long()
            found = [frechet(reference, Moments(fake[order[:n]])) for n in sizes.tolist()]
            line = torch.stack([torch.ones(SUBSETS), 1 / sizes], 1).double()
            fit = torch.linalg.lstsq(line, torch.tensor(found, dtype=torch.float64)).solution
            values["fid_infinity"] = float(fit[0])
        return MetricResult(values)


class Moments:
    """Mean and covariance of features, the latter as the factor that is cheaper.

    x [n, D], any float type; computed in float64. The covariance is A A' with A the centred
    features [D, n] where n < D, else a Cholesky factor [D, D]; where that does not exist (a
    constant or dependent feature) one from eigenvalues.
    """

    def __init__(self, x: Tensor) -> None:
        n, d = x.shape
        wide = x.double()
        self.mean = wide.mean(0)
        centred = wide.sub_(self.mean) if wide is not x else wide - self.mean
        centred /= max(n - 1, 1) ** 0.5
        self.trace = float(centred.square().sum())
        self.few = n < d
        if self.few:
            self.factor = centred.T
            return
        self.covariance = _gram(centred)
        factor, failed = torch.linalg.cholesky_ex(self.covariance)
        if failed:
            values, vectors = torch.linalg.eigh(self.covariance)
            factor = vectors * values.clamp(min=0).sqrt()
        self.factor = factor


def _gram(x: Tensor) -> Tensor:
    """x' x of x [n, D], from the half above the diagonal."""
    product = x.new_empty(x.shape[1], x.shape[1])
    for i in range(0, x.shape[1], STRIP):
        product[i : i + STRIP, i:] = x[:, i : i + STRIP].T @ x[:, i:]
    return product.triu() + product.triu(1).T


def frechet(a: Moments, b: Moments) -> float:
    """Frechet distance of two Gaussians, at least 0.

    With C1 = A A' and C2 = B B', tr (C1 C2)^(1/2) is the sum of the singular values of A' B, or
    of the square roots of the eigenvalues of A' C2 A, which is symmetric.
    """
    if a.few or b.few:
        cross = torch.linalg.svdvals(a.factor.T @ b.factor).sum()
    else:
        inner = a.factor.T @ b.covariance @ a.factor
        cross = torch.linalg.eigvalsh(inner).clamp(min=0).sqrt().sum()
    apart = (a.mean - b.mean).square().sum()
    found = float(apart) + a.trace + b.trace - 2 * float(cross)
    return found if found > 0 or math.isnan(found) else 0.0
