"""A learning rate that falls along half a cosine."""

from __future__ import annotations

import math

from genlab.core.contract import Schedule
from genlab.core.registry import register
from genlab.core.schema import Count, Fraction, Natural

__all__ = ["Cosine"]


@register
class Cosine(Schedule):
    """Linear warm-up, then half a cosine.

    factor = floor + (1 - floor) (1 + cos(pi p)) / 2, p the share of the run done.

    Reference: Loshchilov and Hutter 2016, arXiv 1608.03983, eq. 5, without restarts.
    """

    def __init__(self, *, images: Count, batch: Count, warmup: Natural, floor: Fraction) -> None:
        if batch > images:
            raise ValueError(
                f"a run of images={images} is shorter than one batch={batch}; "
                "raise schedule.images or lower schedule.batch"
            )
        if warmup >= images:
            raise ValueError(
                f"warmup={warmup} images leave nothing of a run of {images}; lower schedule.warmup"
            )
        self.images, self.batch, self.warmup, self.floor = images, batch, warmup, floor

    def __call__(self, images: int) -> float:
        """Multiplier of the base learning rate when `images` images have been drawn."""
        if images + self.batch <= self.warmup:
            return (images + self.batch) / self.warmup
        done = min(1.0, max(0.0, (images - self.warmup) / (self.images - self.warmup)))
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * done))
