"""How well a model predicts held-out data."""

from __future__ import annotations

from genlab.core.metric import Metric, MetricInputs, MetricResult
from genlab.core.registry import register

__all__ = ["BitsPerDimension"]


@register("bpd")
class BitsPerDimension(Metric):
    """Bits per dimension of held-out data, -log2 p of a stored number.

    Models of continuous densities bound it from above by dequantization, and each datum sees one
    draw of that noise. Theis et al. 2015, arXiv 1511.01844, section 3.1.
    """

    needs = ("bits",)
    min_images = 2
    lower_is_better = ("bpd",)

    def __call__(self, inputs: MetricInputs) -> MetricResult:
        """bpd, the mean over images, and bpd_error, the standard error of that mean."""
        bits = inputs.bits()
        error = bits.std() / len(bits) ** 0.5
        return MetricResult({"bpd": float(bits.mean()), "bpd_error": float(error)})
