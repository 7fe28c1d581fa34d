"""A learning rate that is warmed up and then kept."""

from __future__ import annotations

from genlab.core.contract import Schedule
from genlab.core.registry import register
from genlab.core.schema import Count, Natural

__all__ = ["Constant"]


@register
class Constant(Schedule):
    """Linear warm-up over the first images, then 1."""

    def __init__(self, *, images: Count, batch: Count, warmup: Natural) -> None:
        if batch > images:
            raise ValueError(
                f"a run of images={images} is shorter than one batch={batch}; "
                "raise schedule.images or lower schedule.batch"
            )
        self.images, self.batch, self.warmup = images, batch, warmup

    def __call__(self, images: int) -> float:
        """Multiplier of the base learning rate when `images` images have been drawn."""
        return min(1.0, (images + self.batch) / self.warmup) if self.warmup else 1.0
