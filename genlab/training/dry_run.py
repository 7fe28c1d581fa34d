"""`genlab train --dry-run`: builds everything, takes three steps on noise, writes nothing."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import torch

from genlab.assemble.components import Components
from genlab.core.contract import Dataset, Split
from genlab.core.format import count, duration, size
from genlab.core.memory import memory, memory_advice
from genlab.core.random import hash64
from genlab.training.setup import make_trainer, set_up

__all__ = ["measure"]

STEPS = 3  # the first ones allocate and compile; the last is timed
SMALL = 8  # images of the step that comes first on a CPU
LONG = 5.0  # seconds of a step on a CPU that are not waited for


def measure(config: Mapping[str, Any]) -> int:
    """Prints parameters a network, memory, images/s and the estimated end; returns 0."""
    with memory_advice(config):
        components = set_up(config).components
        hardware, schedule = components.hardware, components.schedule
        hardware.start()
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
    rate = drawn / seconds
    if long:
        print(f"a step of {batch} would take long: what follows is {part} images, extrapolated")
        seconds *= batch / part
    whole = schedule.images / rate
    end = "nobody is there to see it"
    if whole < 100 * 365 * 86400:
        end = (datetime.now() + timedelta(seconds=whole)).strftime("%d %B %Y, %H:%M")
    print(f"{'hardware':<16}{hardware.describe()}")
    print(f"{'memory':<16}{size(memory(hardware.device))} at batch {part if long else batch}")
    print(f"{'speed':<16}{rate:,.1f} images/s ({seconds:.3f} s a step)")
    print(f"{'the run':<16}{count(schedule.images)} images in {duration(whole)}, until {end}")
    return 0


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
