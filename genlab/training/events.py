"""When the events of a run come, a function of its clock alone, and which checkpoint is best."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from genlab.core.contract import Clock

__all__ = ["BestCheckpoint", "EventSchedule"]


class EventSchedule:
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


class BestCheckpoint:
    """The best value so far of the one in the journal that keep.best names.

    wanted: its name, None where nothing decides. sign: 1 where low is good, -1 where high is.
    measure: what the value means; the best of another measure says nothing about this one.
    """

    def __init__(self, wanted: str | None, sign: int, measure: str) -> None:
        self.wanted, self.sign, self.measure = wanted, sign, measure
        self.value = math.nan

    def recall(self, state: Mapping[str, Any]) -> bool:
        """Takes up what a checkpoint says; False where it measured in another way."""
        if state["best"] is None:
            return True
        if state.get("best_of", self.measure) != self.measure:
            return False
        self.value = float(state["best"])
        return True

    def beaten_by(self, value: float) -> bool:
        """Whether a value is better than all before; what is not finite never is."""
        if not math.isfinite(value):
            return False
        return not math.isfinite(self.value) or self.sign * (self.value - value) > 0

    def due(self, line: Mapping[str, float], means: bool) -> bool:
        """Whether a journal line should have had the value. means: the line is of every.log."""
        kind = str(self.wanted).partition("/")[0]
        if kind in ("heldout", "metric"):
            return any(name.startswith(f"{kind}/") for name in line)
        return means

    def state(self) -> dict[str, Any]:
        """For state.json."""
        return {
            "best": self.value if math.isfinite(self.value) else None,
            "best_of": self.measure,
        }
