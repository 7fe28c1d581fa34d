"""Peak signal-to-noise ratio of reconstructions."""

from __future__ import annotations

import math

from genlab.core.metric import Metric, MetricInputs, MetricResult
from genlab.core.registry import register
from genlab.metric.pairwise import each
from genlab.nn.similarity import psnr

__all__ = ["PSNR"]


@register
class PSNR(Metric):
    """Mean over images of 10 log10(255^2 / mean squared error), in dB.

    The mean is over decibels of single images, not of the error of all. An image that is copied
    to the last bit has endless decibels; it counts as one with a single number off by one, the
    best that another image can be, and psnr_exact is the share of such images.
    """

    needs = ("pairs",)
    higher_is_better = ("psnr", "psnr_exact")

    def __call__(self, inputs: MetricInputs) -> MetricResult:
        """psnr, psnr_exact."""
        found = each(inputs, psnr)
        best = 10 * math.log10(255**2 * inputs.pairs().originals[0].numel())
        exact = found.isinf().double().mean()
        return MetricResult(
            {"psnr": float(found.clamp(max=best).mean()), "psnr_exact": float(exact)}
        )
