"""How often a run does what `every.*=auto` leaves open, and how long all of it takes.

Grids, held-out losses and checkpoints come ten times in a run, or 5, 2 or 1 times where they would
take more than a tenth of it. What they cost is measured once, when a few steps have been timed,
and what then is decided is kept in cadence.json: a run that goes on does not decide again. None of
it changes a weight or a loss. At the end of a run they come in any case, and until it is decided
only there.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from genlab.config.auto_values import held_out
from genlab.core import dist
from genlab.core.console import log
from genlab.core.contract import Model, Split
from genlab.core.ema import EMA
from genlab.core.files import read_json, write_text
from genlab.training.costs import event_costs
from genlab.training.events import Event, Moment
from genlab.training.setup import Training

__all__ = [
    "ROWS",
    "WORDS",
    "Cadence",
    "event_seconds",
    "intervals",
    "thinned",
    "times",
    "times_within",
]

TIMES = (10, 5, 2, 1)
"""How often in a run, the most first."""

SHARE, LITTLE = 0.1, 0.01
"""Of the time of a run, for all that is left open; of that of its steps, for what comes before the
end where that alone takes more."""

WARM, TIMED = 2, 4  # steps that are not timed (they allocate and compile), and the least that are
ROWS = 64  # images that what an event costs is measured on, at most
FILE = "cadence.json"
WORDS = {"eval": "held-out losses", "sample": "grids", "checkpoint": "checkpoints"}


def intervals(every: Mapping[str, Any], total: int, batch: int) -> dict[str, int]:
    """Images between two events of each kind; `auto` is the least there may be.

    every: the node of a config; total: images of the run.
    """
    shares = {**dict.fromkeys(WORDS, TIMES[0]), "log": 100}
    return {
        kind: max(batch, total // share) if every[kind] == "auto" else int(every[kind])
        for kind, share in shares.items()
    }


def times_within(
    seconds: float, costs: Mapping[str, float], fixed: Mapping[str, float]
) -> dict[str, int]:
    """Kind of event -> how often in a run, so that all of them take a tenth of it at most.

    seconds: of all steps. costs: seconds of one event of each kind that is left open; fixed: of
    all of each other kind, which nothing is taken from. The dearest is made rarer first.
    """
    often = dict.fromkeys(costs, TIMES[0])
    while True:
        spent = {kind: often[kind] * cost for kind, cost in costs.items()}
        rarer = {kind: all_ for kind, all_ in spent.items() if often[kind] > TIMES[-1]}
        whole = seconds + sum(spent.values()) + sum(fixed.values())
        before = sum(spent.values()) - sum(costs.values())
        if not rarer or sum(spent.values()) <= SHARE * whole or before <= LITTLE * seconds:
            return often
        dearest = max(rarer, key=lambda kind: rarer[kind])
        often[dearest] = TIMES[TIMES.index(often[dearest]) + 1]


def open_kinds(every: Mapping[str, Any], model: Model) -> list[str]:
    """The kinds of events whose cadence is left open by the node `every` of a config."""
    averages = [average for average in model.modules() if isinstance(average, EMA)]
    kept = any(average.stds for average in averages)  # of which those of other lengths are made
    return [k for k in WORDS if every[k] == "auto" and not (kept and k == "checkpoint")]


def thinned(
    every: Mapping[str, Any],
    total: int,
    batch: int,
    seconds: float,
    costs: Mapping[str, float],
    model: Model,
) -> dict[str, int]:
    """Images between two events of each kind of a run whose steps take so many seconds.

    every: the node of its config; total: its images; costs: seconds of one event of each kind.
    """
    found, left_open = intervals(every, total, batch), open_kinds(every, model)
    fixed = {k: costs[k] * times(0, total, found[k]) for k in WORDS if k not in left_open}
    often = times_within(seconds, {k: costs[k] for k in left_open}, fixed)
    rarer = {k: -(-total // n) for k, n in often.items() if n < TIMES[0]}
    return {k: max(found[k], rarer.get(k, 1)) for k in WORDS}


def times(images: int, total: int, every: int) -> int:
    """How often an event comes after `images`, at the end too."""
    return (total - 1) // every - images // every + 1 if images < total else 0


def event_seconds(
    steps: float, often: Mapping[str, int], costs: Mapping[str, float], every: Mapping[str, Any]
) -> float:
    """Seconds of all events beside steps that take so long, with checkpoints of every.seconds."""
    often = {**often, "checkpoint": max(often["checkpoint"], int(steps / every["seconds"]))}
    return sum(n * costs.get(kind, 0.0) for kind, n in often.items())


class Cadence(Event):
    """Decides how often the other events come, and knows how long they take.

    costs: kind -> seconds of one event, as last measured, or before it came as estimated.
    stepping: seconds that the steps of this process have taken.
    """

    def __init__(self, training: Training, events: Mapping[str, Event]) -> None:
        """events: by their key under `every`, of those that take time."""
        asked = training.config["every"]
        every = intervals(asked, training.total, training.trainer.stream.batch)
        super().__init__(training, every["log"])
        self.events, self.costs, self.stepping = events, dict[str, float](), 0.0
        self.open = open_kinds(asked, training.model)
        self.least = {kind: every[kind] for kind in self.open}
        for kind in self.open:
            events[kind].every = training.total
        self._key = {"images": training.total, "every": {kind: asked[kind] for kind in events}}
        self._first = training.clock.step
        self._began: tuple[int, float] | None = None  # (images, stepping) when it was warm
        self.decided = self._read() or training.clock.images >= training.total

    def _read(self) -> bool:
        """Takes what was decided before, on all ranks alike; False where nothing was for this."""
        try:
            kept = read_json(self.training.run.path / FILE)
            if kept["for"] != self._key:
                return False
            self._set({kind: int(kept["every"][kind]) for kind in self.open})
            self.costs = {kind: float(kept["costs"][kind]) for kind in self.events}
        except (OSError, ValueError, LookupError, TypeError):
            return False
        return True

    def _set(self, every: Mapping[str, int]) -> None:
        for kind, images in every.items():
            self.events[kind].every = max(1, images)

    # --- deciding --------------------------------------------------------------------------------

    def next(self, images: int) -> int:
        """After each of the first steps, then where the first of the others may be due."""
        if self.decided:
            return self.training.total
        if self._began is None:
            return images + 1
        return min((images // mark + 1) * mark for mark in (self.every, *self.least.values()))

    def due(self, moment: Moment) -> bool:
        """Once, when enough steps have been timed; on all ranks alike."""
        steps, images = moment.clock.step - self._first, moment.clock.images
        if self.decided or images >= self.training.total:
            return False
        if self._began is None:
            if steps >= WARM:
                self._began = images, self.stepping
            return False
        return steps >= WARM + TIMED

    def run(self, moment: Moment) -> None:
        """Measures what the events cost, on rank 0, and sets how often they come, on all."""
        assert self._began is not None
        training, images, text = self.training, moment.clock.images, ""
        if training.main:
            self.costs = self._estimate() | self.costs
            pace = (self.stepping - self._began[1]) / (images - self._began[0])
            seconds = pace * training.total
            batch, asked = training.trainer.stream.batch, training.config["every"]
            every = thinned(asked, training.total, batch, seconds, self.costs, training.model)
            text = json.dumps({"for": self._key, "every": every, "costs": self.costs})
            write_text(training.run.path / FILE, text)
            if rarer := [kind for kind in self.open if every[kind] > self.least[kind]]:
                log(_sentence(rarer, every, training.total))
        self._set(json.loads(dist.broadcast_text(text, training.hardware.device))["every"])
        self.decided = True

    def _estimate(self) -> dict[str, float]:
        training = self.training
        rows = min(training.trainer.stream.batch, ROWS)
        held = training.pipeline.data.load("test")
        return event_costs(
            training.pipeline,
            training.evaluator,
            training.trainer.optimizers,
            Split(*(part if part is None else part[:rows] for part in held)),
            min(held_out(training.config), len(held.x)),
            training.run.path,
        )

    # --- time ------------------------------------------------------------------------------------

    @contextmanager
    def measuring(self, event: Event) -> Iterator[None]:
        """Notes how long one of the events takes."""
        start = time.perf_counter()
        yield
        for kind, known in self.events.items():
            if known is event:
                self.costs[kind] = time.perf_counter() - start

    def left(self, images: int, pace: float) -> float:
        """Seconds from `images` to the end at `pace` images a second, with all that is to come."""
        steps = (self.training.total - images) / pace
        often = {k: times(images, self.training.total, e.every) for k, e in self.events.items()}
        return steps + event_seconds(steps, often, self.costs, self.training.config["every"])


def _sentence(rarer: Sequence[str], every: Mapping[str, int], total: int) -> str:
    """How often the events come that are rarer than ten times in a run."""
    parts = []
    often = {kind: times(0, total, every[kind]) for kind in rarer}
    for n in sorted(set(often.values())):
        *first, last = (WORDS[kind] for kind in rarer if often[kind] == n)
        words = f"{', '.join(first)} and {last}" if first else last
        parts.append(f"{words} {'at the end alone' if n == 1 else f'{n} times in this run'}")
    keys = ", ".join(f"every.{kind}" for kind in rarer)
    why = f"more would take over a tenth of its time (for another number set {keys})"
    return f"{'; '.join(parts)}: {why}"
