"""Structural similarity of reconstructions."""

from __future__ import annotations

from genlab.core.metric import Metric, MetricInputs, MetricResult
from genlab.core.registry import register
from genlab.metric.pairwise import check_size, each
from genlab.nn.similarity import WINDOW, ssim

__all__ = ["SSIM"]


@register
class SSIM(Metric):
    """Mean structural similarity of originals and copies, 1 when equal.

    Of one scale, at the stored size, the mean over channels; `ssim` in nn/similarity.py has the
    formula and the window.

    Reference: Wang, Bovik, Sheikh, Simoncelli 2004, IEEE TIP 13(4).
    """

    needs = ("pairs",)
    higher_is_better = ("ssim",)

    def __call__(self, inputs: MetricInputs) -> MetricResult:
        """ssim. Raises DataError for images of less than 11 pixels."""
        check_size(inputs.pairs().originals, WINDOW, "ssim", "use metric=psnr")
        return MetricResult({"ssim": float(each(inputs, ssim).mean())})
