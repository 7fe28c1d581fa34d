"""Spikes: losses and gradient norms far above those of the steps before.

A value x is a spike if it is above the limit of its name. Limits stand for a block of steps, so
that they can lie on the device before the values do; they are of the last WINDOW values before it:

    ln x > ln m + max(DEVIATIONS s, ln TIMES),   where all these values are positive,
       x > m + max(DEVIATIONS_OF_ANY s, (TIMES - 1) |m|),   else,

with their median m and deviation s = 1.4826 median |x - m| (of ln x above), which of normal
numbers is the standard deviation and which a few spikes do not move. Losses and norms are
positive, as a rule, and heavy-tailed: their logarithm is far nearer to normal. Nor is a value a
spike below twice the largest median that the run has had (of a discriminator that has won, a loss
of 1e-4 tells nothing of the next); and whatever the window says, a loss is one above RISE times
its first value (or 1), which finds a loss that rises slowly and one that does so at the start.
"""

from __future__ import annotations

import ctypes
import math
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["AFTER", "BLOCK", "PATIENCE", "OnSpike", "Spike", "Spikes"]

OnSpike = Literal["warn", "skip", "stop"]

WINDOW = 256
"""Values that a limit is of: long enough that a hundred odd ones do not move the median, short
enough to follow a loss as it falls."""

WARM_UP = 64
"""Values before the first window counts: a loss falls fastest in its first steps."""

BLOCK = 16
"""Steps with one limit, and steps below the limit after which a row of spikes is over."""

DEVIATIONS = 8.0
"""Of ln x: 1 in 10^15 of normal numbers. Losses and gradient norms of models of a path were seen
up to 6 above, batches of 2 included; losses of GANs up to 12 where their curve is calm, for which
there is TIMES. Of 49 small runs no value was above half of its limit."""

DEVIATIONS_OF_ANY = 30.0
"""Of x, where some values are not positive: no logarithm takes the tails away; seen were 6."""

TIMES = 5.0
"""Times the median that a spike is at least: less is no accident, however calm the curve is."""

RISE = 1000.0
"""Times its first value that a loss which is still learned from does not get to."""

AFTER = 8
"""Values after a spike, of other batches and the same weights, that tell whether these are bad."""

PATIENCE = 64
"""Steps left out in a row after which leaving out has not helped, and the run ends."""


class Spike(NamedTuple):
    """A value far above those before it, the first of a row of such.

    name: as in the journal: loss/net, grad_norm/d. step: from 0. images: drawn after that step.
    before: median of the steps before; the first value of all, for a loss that is that far above
    it. limit: that the value is above.
    """

    name: str
    step: int
    images: int
    value: float
    before: float
    limit: float


class Spikes:
    """What is above its limit in the losses and gradient norms of a run.

    Fed with every value in the order of steps, it is a function of them alone: neither how often
    they are read nor where the run was stopped changes what it finds.

    found: since it was last emptied. stopped: the spike at which the run is to end, or None, known
    AFTER values later. weights_bad: whether most of these, of the same weights, are above the
    limit too: then the steps before have done it, else the batch.
    """

    def __init__(self, on_spike: OnSpike = "warn") -> None:
        self.on_spike = on_spike
        self.found: list[Spike] = []
        self.stopped: Spike | None = None
        self.weights_bad = False
        self._halted: Spike | None = None
        self._after: list[bool] = []  # whether values after the spike are above the limit
        self._names: dict[str, _Values] = {}

    def observe(self, rows: Iterable[tuple[int, int, str, float]]) -> None:
        """Takes (step, images after it, name, value), steps rising."""
        for step, images, name, value in rows:
            if (values := self._names.get(name)) is None:
                values = self._names[name] = _Values(name)
            values.begin(step)
            if not math.isfinite(value):  # an overflow of fp16, for which there is a loss scale
                continue
            begins = values.add(value)
            spike = Spike(name, step, images, value, values.before, values.limit)
            if self._halted:
                self._look(spike)
            elif begins:
                self.found.append(spike)
                self._halted = spike if self.on_spike == "stop" else None
            if self.on_spike == "skip" and values.row >= PATIENCE:
                self.stopped, self.weights_bad = self.stopped or spike, True

    def _look(self, value: Spike) -> None:
        """At a value after the spike from which no step is taken."""
        assert self._halted is not None
        if value.name == self._halted.name and value.step > self._halted.step:
            self._after.append(value.value > self._halted.limit)
        if len(self._after) >= AFTER and not self.stopped:
            self.stopped, self.weights_bad = self._halted, 2 * sum(self._after) > len(self._after)

    @property
    def undecided(self) -> bool:
        """Whether there was a spike to stop at, and not yet the values that tell its cause."""
        return self._halted is not None and self.stopped is None

    def limits(self, step: int) -> dict[str, float]:
        """Name -> limit at a step, once all values before it were observed."""
        for values in self._names.values():
            values.begin(step)
        return {name: values.limit for name, values in self._names.items()}

    def state(self) -> dict[str, Any]:
        """For state.json."""
        return {
            "found": [spike._asdict() for spike in self.found],
            "names": {name: values.state() for name, values in self._names.items()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes up what `state` returned; nothing of {}, which is that of an older checkpoint."""
        self.found = [Spike(**spike) for spike in state.get("found", [])]
        for name, saved in state.get("names", {}).items():
            self._names[name] = values = _Values(name)
            values.restore(saved)
            if self.on_spike == "stop":  # a step is taken again, and the next spike begins a row
                values.row = values.calm = 0


class _Values:
    """The last values of one name and the limit they give.

    before: what the limit is so many times of: the median, or the first value.
    row: values above the limit in the row of spikes that is on, 0 where none is. calm: values
    below it since the last of these. block: that the limit is of.
    """

    def __init__(self, name: str) -> None:
        self.loss = name.startswith("loss/")
        self.last: deque[float] = deque(maxlen=WINDOW)
        self.first = self.before = math.nan
        self.limit = math.inf
        self.level = 0.0  # largest median so far, without its sign
        self.row = self.calm = 0
        self.block = -1

    def begin(self, step: int) -> None:
        """Sets the limit of the block of `step`, from the values before it."""
        if step // BLOCK == self.block:
            return
        self.block = step // BLOCK
        if not self.last:
            return
        last = np.fromiter(self.last, float)
        self.before, limit = _median(last), math.inf
        if len(self.last) >= WARM_UP:
            self.level = max(self.level, abs(self.before))
            limit = max(_limit(last, self.before), 2 * self.level)
        if self.loss and (rise := RISE * max(1.0, abs(self.first))) < limit:
            self.before, limit = self.first, rise
        self.limit = ctypes.c_float(limit).value  # as the device compares

    def add(self, value: float) -> bool:
        """Takes the next value; whether a row of spikes begins with it."""
        begins = False
        if value > self.limit:
            begins = not self.row
            self.row, self.calm = self.row + 1, 0
        elif self.row:
            self.calm += 1
            if self.calm >= BLOCK:
                self.row = 0
        if not self.last:
            self.first = value
        self.last.append(value)
        return begins

    def state(self) -> dict[str, Any]:
        """For state.json, which holds no inf and no NaN."""
        return {
            "last": list(self.last),
            "first": _none(self.first),
            "before": _none(self.before),
            "limit": _none(self.limit),
            "level": self.level,
            "row": self.row,
            "calm": self.calm,
            "block": self.block,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self.last.extend(state["last"])
        self.first = _or(state["first"], math.nan)
        self.before = _or(state["before"], math.nan)
        self.limit = _or(state["limit"], math.inf)
        self.level = float(state["level"])
        self.row, self.calm, self.block = state["row"], state["calm"], state["block"]


def _limit(last: NDArray[np.float64], m: float) -> float:
    """Of the values of the window, whose median is m."""
    if last.min() > 0:
        s = 1.4826 * _median(np.abs(np.log(last / m)))
        return m * math.exp(min(max(DEVIATIONS * s, math.log(TIMES)), 80.0))
    s = 1.4826 * _median(np.abs(last - m))
    above = max(DEVIATIONS_OF_ANY * s, (TIMES - 1) * abs(m))
    return m + above if above else math.inf  # zeros alone: there is nothing to compare with


def _median(x: NDArray[np.float64]) -> float:
    """As np.median, whose checks cost more than so short a sort."""
    x = np.sort(x)
    return float(x[(len(x) - 1) // 2] + x[len(x) // 2]) / 2


def _none(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _or(value: float | None, other: float) -> float:
    return other if value is None else float(value)
