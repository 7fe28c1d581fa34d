"""Kernel distance of CLIP embeddings."""

from __future__ import annotations

import torch
from torch import Tensor

from genlab.core.errors import DataError
from genlab.core.metric import Metric, MetricInputs, MetricResult
from genlab.core.registry import register
from genlab.metric.mmd import mmd
from genlab.metric.vectors import feature_sets

__all__ = ["CMMD"]

SIGMA = 10.0
SCALE = 1000.0


@register
class CMMD(Metric):
    """CLIP maximum mean discrepancy.

    cmmd = 1000 MMD^2 with the kernel exp(-|x - y|^2 / (2 sigma^2)), sigma = 10, of CLIP embeddings
    of length 1. Estimated without bias, as the paper says; its code keeps the diagonals, which
    adds about 4 / n for each set of n. cmmd_low and cmmd_high are as kid_low and kid_high.

    Reference: Jayasumana et al. 2024, arXiv 2401.09603, section 4.
    """

    needs = ("features",)
    features = "clip"
    min_images = 3
    lower_is_better = ("cmmd",)

    def __call__(self, inputs: MetricInputs) -> MetricResult:
        """cmmd, cmmd_low, cmmd_high."""
        real, fake = (_directions(x) for x in feature_sets(inputs, "cmmd", self.min_images))
        found = mmd(fake, real, _gaussian, device=inputs.device)
        value, error = SCALE * found.value, SCALE * found.error
        return MetricResult(
            {"cmmd": value, "cmmd_low": value - 1.96 * error, "cmmd_high": value + 1.96 * error}
        )


def _directions(x: Tensor) -> Tensor:
    length = x.double().norm(dim=1, keepdim=True)
    if not length.all():
        raise DataError("cmmd: an embedding is zero and has no direction; check the features file")
    return x / length


def _gaussian(products: Tensor) -> Tensor:
    """k - 1, whose MMD is that of k: all k are within 0.04 of 1, and digits would be lost."""
    return torch.expm1((products - 1) / SIGMA**2)
