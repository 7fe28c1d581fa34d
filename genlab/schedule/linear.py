"""A learning rate that falls along a straight line."""

from __future__ import annotations

from genlab.core.contract import Schedule
from genlab.core.registry import register
from genlab.core.schema import Count, Fraction, Natural

__all__ = ["Linear"]


@register
class Linear(Schedule):
    """Linear warm-up, then a straight line.

    factor = 1 + (floor - 1) p, p the share of the run done after the warm-up.
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
        return 1 + (self.floor - 1) * done
