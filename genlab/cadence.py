"""When the events of a run come: a function of its clock alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from genlab.contract import Clock

__all__ = ["Cadence"]


class Cadence:
    """Images between two of each event, `auto` resolved by the length of the run.

    total: images of the run, after which every event comes once more.
    """

    def __init__(self, every: Mapping[str, Any], total: int, batch: int) -> None:
        shares = {"log": 100, "sample": 10, "checkpoint": 10, "eval": 10}
        self.total = total
        self.every = {
            what: max(batch, total // share) if every[what] == "auto" else int(every[what])
            for what, share in shares.items()
        }

    def soonest(self, clock: Clock) -> int:
        """The image count at which something is due next."""
        return min((clock.images // e + 1) * e for e in self.every.values())

    def due(self, clock: Clock, *events: str) -> bool:
        """Whether the last step has brought one of these events."""
        began = clock.images - clock.drawn
        crossed = any(clock.images // self.every[e] > began // self.every[e] for e in events)
        return crossed or clock.images >= self.total
