"""`genlab train --dry-run`: builds everything, takes three steps on noise, writes nothing."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import torch

from genlab.assemble.components import Components
from genlab.config.auto_values import held_out
from genlab.core.contract import Dataset, Split
from genlab.core.format import count, duration, size
from genlab.core.memory import memory, memory_advice
from genlab.core.random import hash64
from genlab.training.cadence import ROWS, WORDS, event_seconds, thinned, times
from genlab.training.costs import event_costs
from genlab.training.setup import make_trainer, set_up

__all__ = ["measure"]

STEPS = 3  # the first ones allocate and compile; the last is timed
SMALL = 8  # images of the step that comes first on a CPU
LONG = 5.0  # seconds of a step on a CPU that are not waited for


def measure(config: Mapping[str, Any]) -> int:
    """Prints parameters a network, memory, images/s and the estimated end; returns 0."""
    with memory_advice(config):
        setup = set_up(config)
        components = setup.components
        hardware, schedule = components.hardware, components.schedule
        hardware.start()
        components.data.check()
        for role, network in components.model.named_children():
            total = sum(p.numel() for p in network.parameters())
            print(f"{role:<16}{total:>14,} parameters  {type(network).__name__}")
        batch, part = schedule.batch, _part(components)
        if part < batch:
            print(f"measuring one step of {part} images first", flush=True)
            drawn, seconds = _step(components, part, 1)
        long = part < batch and seconds * batch / part > LONG
        if not long:
            drawn, seconds = _step(components, batch, STEPS)
        taken = memory(hardware.device)
        rows = part if long else min(batch, ROWS)
        held, n = fake(components.data, rows), held_out(config)
        n = min(n, components.data.held_out or n)
        costs = event_costs(setup.pipeline, setup.evaluator, components.optimizers, held, n, None)
    rate = drawn / seconds
    if long:
        print(f"a step of {batch} would take long: what follows is {part} images, extrapolated")
        seconds *= batch / part
    steps = schedule.images / rate
    asked, total = config["every"], schedule.images
    every = thinned(asked, total, batch, steps, costs, components.model)
    often = {kind: times(0, total, every[kind]) for kind in every}
    beside = event_seconds(steps, often, costs, asked)
    whole = steps + beside
    end = "nobody is there to see it"
    if whole < 100 * 365 * 86400:
        end = (datetime.now() + timedelta(seconds=whole)).strftime("%d %B %Y, %H:%M")
    print(f"{'hardware':<16}{hardware.describe()}")
    print(f"{'memory':<16}{size(taken)} at batch {part if long else batch}")
    print(f"{'speed':<16}{rate:,.1f} images/s ({seconds:.3f} s a step)")
    looks = ", ".join(f"{WORDS[k]} {n} x {_time(costs[k])}" for k, n in often.items())
    print(f"{'beside steps':<16}{looks}")
    print(
        f"{'the run':<16}{count(schedule.images)} images in {duration(whole)}, "
        f"{duration(beside)} of it beside steps, until {end}"
    )
    return 0


def _time(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds < 60 else duration(seconds)


def _part(components: Components) -> int:
    """Images of the first step: a few on a CPU, where a whole batch may take minutes."""
    batch = components.schedule.batch
    if components.hardware.device.type != "cpu":
        return batch
    return math.gcd(batch, SMALL, components.hardware.accumulation(batch)[1])


def _step(components: Components, batch: int, steps: int) -> tuple[int, float]:
    """(images, seconds) of the last of some steps; a small batch does not start the model."""
    whole, components.schedule.batch = components.schedule.batch, batch
    try:
        trainer = make_trainer(components, fake(components.data, 2 * batch))
    finally:
        components.schedule.batch = whole
    trainer.fresh = batch == whole
    for _ in range(steps):
        before, start = trainer.clock.images, time.perf_counter()
        trainer.one_step()
        trainer.peek()  # waits for the device, and says if a step was not finite
        seconds = time.perf_counter() - start
    return trainer.clock.images - before, seconds


def fake(data: Dataset, n: int) -> Split:
    """Noise of the shape and type of a data set, with labels if it has some."""
    generator = torch.Generator().manual_seed(hash64(n))
    shape, classes = (n, *data.spec.shape), data.spec.classes
    if data.spec.vocabulary is not None:
        x = torch.randint(0, data.spec.vocabulary, shape, generator=generator)
    elif len(shape) == 4:
        x = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    else:
        x = torch.randn(shape, generator=generator)
    y = None if classes is None else torch.randint(0, classes, (n,), generator=generator)
    return Split(x, y)
