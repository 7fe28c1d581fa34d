"""How well a model predicts held-out data."""

from __future__ import annotations

from typing import Literal

from genlab.core.metric import Evidence, Verdict
from genlab.core.registry import register

__all__ = ["BitsPerDimension"]


@register("bpd")
class BitsPerDimension:
    """Bits per dimension of held-out data, -log2 p of a stored number.

    Models of continuous densities bound it from above by dequantization, and each datum sees one
    draw of that noise. Theis et al. 2015, arXiv 1511.01844, section 3.1.
    """

    needs = ("bits",)
    least = 2
    better: dict[str, Literal["low", "high"]] = {"bpd": "low"}  # noqa: RUF012 - read alone

    def __call__(self, evidence: Evidence) -> Verdict:
        """bpd, the mean over images, and bpd_error, the standard error of that mean."""
        bits = evidence.bits()
        error = bits.std() / len(bits) ** 0.5
        return Verdict({"bpd": float(bits.mean()), "bpd_error": float(error)})
