"""A learning rate that is warmed up and then kept."""

from __future__ import annotations

from genlab.core.registry import register
from genlab.schedule.warmup import Warmup

__all__ = ["Constant"]


@register
class Constant(Warmup):
    """Linear warm-up over the first images, then 1."""

    def __call__(self, images: int) -> float:
        """Multiplier of the base learning rate when `images` images have been drawn."""
        return self.rise(images)
