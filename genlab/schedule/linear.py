"""A learning rate that falls along a straight line."""

from __future__ import annotations

from genlab.core.registry import register
from genlab.schedule.warmup import Decay

__all__ = ["Linear"]


@register
class Linear(Decay):
    """Linear warm-up, then a straight line.

    factor = 1 + (floor - 1) p, p the share of the run done after the warm-up.
    """

    def fall(self, done: float) -> float:
        """The factor at a share `done` of the run after the warm-up."""
        return 1 + (self.floor - 1) * done
