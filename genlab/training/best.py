"""Which checkpoint is the best of a run: the one with the best value that keep.best names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from genlab.core.errors import ConfigError
from genlab.core.registry import suggest

__all__ = ["BestCheckpoint"]


class BestCheckpoint:
    """The best value of the journal so far, and the one that was measured since the last save.

    name: of the value, e.g. metric/fid; None where nothing decides. sign: 1 where low is good, -1
    where high is. measure: what the value means; the best of another measure says nothing about
    this one.
    """

    def __init__(self, name: str | None, sign: int, measure: str) -> None:
        self.name, self.sign, self.measure = name, sign, measure
        self.value = self.candidate = math.nan

    def observe(
        self, line: Mapping[str, float], measured: Mapping[str, float], means: bool
    ) -> None:
        """Takes the value from a line of the journal.

        measured: what is in the line from an evaluation; means: whether it has those of every.log.
        Raises ConfigError where the line should have had the value.
        """
        if self.name is None:
            return
        if self.name in line:
            self.candidate = line[self.name]
            return
        kind = self.name.partition("/")[0]
        if kind in ("heldout", "metric"):
            expected = any(name.startswith(f"{kind}/") for name in measured)
        else:
            expected = means
        if expected:
            raise ConfigError(
                f"keep.best={self.name}: the journal has no such value. "
                f"{suggest(self.name, line) or 'It has: ' + ', '.join(line) + '.'}"
            )

    @property
    def improved(self) -> bool:
        """Whether the candidate is better than all before; what is not finite never is."""
        if not math.isfinite(self.candidate):
            return False
        return not math.isfinite(self.value) or self.sign * (self.value - self.candidate) > 0

    def saved(self) -> bool:
        """Whether the checkpoint that is saved now is the best; the next one needs a new value."""
        best = self.improved
        if best:
            self.value = self.candidate
        self.candidate = math.nan
        return best

    def state(self) -> dict[str, Any]:
        """For state.json."""
        return {
            "best": self.value if math.isfinite(self.value) else None,
            "best_of": self.measure,
        }

    def restore(self, state: Mapping[str, Any]) -> bool:
        """Takes up what `state` returned; False where that was measured in another way."""
        if state["best"] is None:
            return True
        if state.get("best_of", self.measure) != self.measure:
            return False
        self.value = float(state["best"])
        return True
