"""Whether samples lie among real images, and real images among samples."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from genlab.core.errors import DataError
from genlab.core.metric import Metric, MetricInputs, MetricResult
from genlab.core.registry import register
from genlab.core.schema import Count
from genlab.metric.neighbours import nearest, together, within
from genlab.metric.vectors import blocks, feature_sets

__all__ = ["PR", "PRDC", "Overlap", "prdc"]


class Overlap(NamedTuple):
    """precision, recall and coverage in [0, 1]; density >= 0, about 1 for equal distributions."""

    precision: float
    recall: float
    density: float
    coverage: float


class NearestNeighbours(Metric):
    """A metric whose images stand for balls that reach to their k-th nearest neighbour."""

    def __init__(self, *, k: Count) -> None:
        self.k, self.min_images = k, k + 1


@register("pr")
class PR(NearestNeighbours):
    """Improved precision and recall.

    Each image stands for a ball that reaches to its k-th nearest neighbour among its own kind.
    pr_precision is the share of samples that lie in a ball of a real image, pr_recall the share of
    real images that lie in a ball of a sample. Both depend on how many images there are.

    Reference: Kynkaanniemi et al. 2019, arXiv 1904.06991, eq. 1 and 2 (there k = 3).
    """

    needs = ("features",)
    higher_is_better = ("pr_precision", "pr_recall")

    def __call__(self, inputs: MetricInputs) -> MetricResult:
        """pr_precision, pr_recall."""
        found = _overlap(inputs, "pr", self.k)
        return MetricResult({"pr_precision": found.precision, "pr_recall": found.recall})


@register("prdc")
class PRDC(NearestNeighbours):
    """Precision, recall, density and coverage.

    Precision and recall as of `pr`. prdc_density counts in how many balls of real images a sample
    lies, over k: unlike precision it is not misled by one far real image with a wide ball.
    prdc_coverage is the share of real images whose ball holds a sample.

    Reference: Naeem et al. 2020, arXiv 2002.09797, section 3 (there k = 5).
    """

    needs = ("features",)
    higher_is_better = tuple(f"prdc_{name}" for name in Overlap._fields)

    def __call__(self, inputs: MetricInputs) -> MetricResult:
        """prdc_precision, prdc_recall, prdc_density, prdc_coverage."""
        found = _overlap(inputs, "prdc", self.k)
        return MetricResult({f"prdc_{name}": value for name, value in found._asdict().items()})


def _overlap(inputs: MetricInputs, metric: str, k: int) -> Overlap:
    real, fake = feature_sets(inputs, metric, k + 1)
    if (real == real[0]).all():
        raise DataError(
            f"{metric}: all features of the reference are equal, so nothing is near or far; "
            "look at the reference images or take other features"
        )
    return prdc(real, fake, k, inputs.device)


def prdc(real: Tensor, fake: Tensor, k: int, device: torch.device | None = None) -> Overlap:
    """real [N, D] and fake [n, D] float; k below N and n.

    Balls are closed, so that a copy of an image that is there more than k times counts.
    """
    x, y = together(real, fake, device=device)
    x_radius, y_radius = (nearest(rows, rows, k)[0][:, -1] for rows in (x, y))
    balls = torch.zeros_like(y_radius)  # of real images that a sample is in
    reached, recalled = (torch.zeros_like(x_radius, dtype=torch.bool) for _ in range(2))
    for i in blocks(len(x)):
        for j in blocks(len(y)):
            in_real, in_fake = within(x, y, i, j, x_radius[i, None], y_radius[j])
            balls[j] += in_real.sum(0)
            reached[i] |= in_real.any(1)
            recalled[i] |= in_fake.any(1)
    shares = ((balls > 0), recalled, balls / k, reached)
    return Overlap(*(float(share.double().mean()) for share in shares))
