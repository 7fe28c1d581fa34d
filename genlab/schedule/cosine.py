"""A learning rate that falls along half a cosine."""

from __future__ import annotations

import math

from genlab.core.registry import register
from genlab.schedule.warmup import Decay

__all__ = ["Cosine"]


@register
class Cosine(Decay):
    """Linear warm-up, then half a cosine.

    factor = floor + (1 - floor) (1 + cos(pi p)) / 2, p the share of the run done.

    Reference: Loshchilov and Hutter 2016, arXiv 1608.03983, eq. 5, without restarts.
    """

    def fall(self, done: float) -> float:
        """The factor at a share `done` of the run after the warm-up."""
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * done))
