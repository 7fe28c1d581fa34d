"""Distance of data themselves along random lines."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from genlab.core.errors import DataError
from genlab.core.metric import Metric, MetricInputs, MetricResult
from genlab.core.random import hash64
from genlab.core.registry import register
from genlab.core.schema import Count
from genlab.metric.vectors import blocks, check
from genlab.nn.full_precision import full_precision

__all__ = ["SWD", "sliced_wasserstein", "wasserstein"]

DIRECTIONS = 11  # keeps the directions apart from other random numbers of a seed
TOGETHER = 128  # directions at a time


@register
class SWD(Metric):
    """Sliced Wasserstein distance of pixels in [0, 1], or of plane points.

    swd = (E_v W2(v.x, v.y)^2)^(1/2) over directions v uniform on the sphere; W2 of numbers on a
    line is exact for any two numbers of images. Two sets of one distribution are apart too, by
    about n^(-1/2). Whole images are projected, not the patches of Laplacian pyramids that some
    papers call by this name.

    Reference: Bonneel et al. 2015, J. Math. Imaging Vis. 51.
    """

    needs = ("fake", "real")
    min_images = 2
    lower_is_better = ("swd",)

    def __init__(self, *, projections: Count) -> None:
        self.projections = projections

    def __call__(self, inputs: MetricInputs) -> MetricResult:
        """swd."""
        real, fake = inputs.real(), inputs.fake()
        check(real, "swd", self.min_images, "the reference")
        check(fake, "swd", self.min_images, "the samples")
        if real.shape[1:] != fake.shape[1:]:
            raise DataError(
                f"swd: samples have the shape {tuple(fake.shape[1:])}, the reference "
                f"{tuple(real.shape[1:])}; take images of one size"
            )
        g = torch.Generator().manual_seed(hash64(inputs.seed, DIRECTIONS))
        directions = torch.randn(self.projections, real[0].numel(), generator=g)
        directions /= directions.norm(dim=1, keepdim=True)
        scale = 1 if real.is_floating_point() else 255
        found = sliced_wasserstein(fake, real, directions.to(inputs.device))
        return MetricResult({"swd": found / scale})


def sliced_wasserstein(x: Tensor, y: Tensor, directions: Tensor) -> float:
    """x [n, *S], y [m, *S] -> root of the mean of W2^2 along directions [P, prod(S)]."""
    total = 0.0
    with full_precision(directions.device):
        for some in directions.split(TOGETHER):
            total += float(wasserstein(_along(x, some), _along(y, some)).sum())
    return math.sqrt(total / len(directions))


def _along(x: Tensor, directions: Tensor) -> Tensor:
    """x [n, *S] -> [P, n] float32, its components."""
    parts = (x[i].flatten(1).to(directions.device).float() for i in blocks(len(x)))
    return torch.cat([directions @ part.T for part in parts], 1)


def wasserstein(a: Tensor, b: Tensor) -> Tensor:
    """W2^2 of numbers on a line, a [P, n] and b [P, m] -> [P] float64.

    The integral over [0, 1] of the squared difference of the quantile functions, which are steps:
    of a at multiples of 1 / n, of b at multiples of 1 / m (Peyre and Cuturi 2019,
    arXiv 1803.00567, section 2.6).
    """
    n, m = a.shape[1], b.shape[1]
    at = torch.cat([torch.arange(n) * m, torch.arange(m) * n]).unique()  # in units of 1 / (n m)
    width = torch.diff(at, append=at.new_tensor([n * m])).double() / (n * m)
    at, width = at.to(a.device), width.to(a.device)
    a, b = a.sort(1).values, b.sort(1).values
    apart = a[:, at // m].double() - b[:, at // n].double()
    return apart.square() @ width
