"""Kernel distance of features."""

from __future__ import annotations

import torch
from torch import Tensor

from genlab.core.metric import Metric, MetricInputs, MetricResult
from genlab.core.random import hash64
from genlab.core.registry import register
from genlab.core.schema import Count, Natural
from genlab.metric.mmd import Kernel, mmd
from genlab.metric.vectors import feature_sets

__all__ = ["KID", "cubic"]

SUBSETS = 8  # keeps the choice of subsets apart from other random numbers of a seed


@register
class KID(Metric):
    """Kernel inception distance: unbiased at any number of images.

    kid is the unbiased MMD^2 with the kernel (x.y / D + 1)^3 over all pairs of images; near zero
    it may be negative. kid_low and kid_high are kid -+ 1.96 standard errors of the jackknife: an
    interval of about 95% for what endless images of both kinds would give, wider where they are
    the same. The spread over subsets, which is often printed, is not that: it depends on their
    size rather than on the number of images.

    kid_subsets is the mean over pairs of subsets, the form of the paper: the same in expectation,
    but with more noise. subsets: how many pairs, 0 for none of this; size: images of each, as many
    as the smaller set has if that is less; kid_size is the number it was.

    Reference: Binkowski et al. 2018, arXiv 1801.01401, Kernel Inception Distance.
    """

    needs = ("features",)
    min_images = 3
    lower_is_better = ("kid",)
    ignored_keys = ("subsets", "size")

    def __init__(self, *, subsets: Natural, size: Count) -> None:
        if size < 2:
            raise ValueError("size: a subset has 2 images or more")
        self.subsets, self.size = subsets, size

    def __call__(self, inputs: MetricInputs) -> MetricResult:
        """kid, kid_low, kid_high; with subsets kid_subsets, kid_size."""
        real, fake = feature_sets(inputs, "kid", self.min_images)
        size = min(self.size, len(real), len(fake))
        g = torch.Generator().manual_seed(hash64(inputs.seed, SUBSETS))

        def drawn(n: int) -> Tensor:
            parts = [torch.randperm(n, generator=g)[:size] for _ in range(self.subsets)]
            return torch.stack(parts)

        rows = (drawn(len(fake)), drawn(len(real))) if self.subsets else None
        found = mmd(fake, real, cubic(real.shape[1]), rows, inputs.device)
        values = {
            "kid": found.value,
            "kid_low": found.value - 1.96 * found.error,
            "kid_high": found.value + 1.96 * found.error,
        }
        if self.subsets:
            values |= {"kid_subsets": float(found.subsets.mean()), "kid_size": float(size)}
        return MetricResult(values)


def cubic(d: int) -> Kernel:
    """The kernel (x.y / d + 1)^3 as a function of x.y."""

    def kernel(products: Tensor) -> Tensor:
        return (products / d).add_(1).pow_(3)

    return kernel
