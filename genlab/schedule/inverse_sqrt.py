"""A learning rate that falls with the root of the images seen."""

from __future__ import annotations

import math

from genlab.core.registry import register
from genlab.core.schema import Count
from genlab.schedule.warmup import Warmup

__all__ = ["InverseSqrt"]


@register
class InverseSqrt(Warmup):
    """Warm-up, then the inverse root of the images from `reference` on.

    factor = min(n / warmup, 1) / sqrt(max(n / reference, 1)), n images

    For weights of fixed length (network=unet_mp), which do not slow down by growing. The length
    of the run is no part of it, so that a run can be made longer at any time.

    Reference: Karras et al. 2024, arXiv 2312.02696, section 2.5 and eq. 67; Kingma and Ba 2015,
    arXiv 1412.6980, section 4 (1 / sqrt(t)).
    """

    def __init__(self, *, reference: Count, **length: int) -> None:
        """reference: images from which on the rate falls."""
        super().__init__(**length)
        self.reference = reference

    def __call__(self, images: int) -> float:
        """Multiplier of the base learning rate when `images` images have been drawn."""
        return self.rise(images) / math.sqrt(max(images / self.reference, 1.0))
