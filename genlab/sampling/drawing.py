"""A long drawing and the person who waits: progress, and a stop that keeps what is drawn."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor

from genlab.assemble.bound_sampler import PathSampler
from genlab.core.console import progress
from genlab.core.signals import DrawingStopped, Signals, check_stop, stop_error

__all__ = ["Drawing", "drawing", "stoppable"]


class Drawing:
    """Shows how far the batches of a drawing are."""

    def __init__(self, sampler: PathSampler, advance: Callable[[float], None]) -> None:
        self._sampler, self._advance = sampler, advance
        steps = sampler.sampler.steps if sampler.follows_path else None
        self._states = 0 if steps is None else steps + 1  # of one batch; 0: not known yet

    @contextmanager
    def batch(self, images: int) -> Iterator[None]:
        """Context in which a batch is drawn that brings `images`: every state is a part of them.

        Raises DrawingStopped before it where a stop was asked for.
        """
        check_stop()
        seen, shown = 0, 0.0

        def watch(x: Tensor) -> None:
            nonlocal seen, shown
            seen += 1
            if self._states:
                part = images * min(1.0, seen / self._states) - shown
                shown += part
                self._advance(part)

        self._sampler.watch = watch
        try:
            yield
        finally:
            self._sampler.watch = None
        self._states = seen
        self._advance(images - shown)


@contextmanager
def drawing(what: str, images: int, sampler: PathSampler) -> Iterator[Drawing]:
    """Context in which `images` are drawn in batches, with a bar or a line now and then."""
    with progress(what, images) as advance:
        yield Drawing(sampler, advance)


@contextmanager
def stoppable(state: Callable[[], str]) -> Iterator[None]:
    """Context that a signal ends within a network evaluation, as Stopped; a second Ctrl-C at once.

    state: what there is by then, and how to go on.
    """
    signals = Signals("stopping; what is drawn is kept")
    with signals:
        try:
            with signals.drawing():
                yield
        except (DrawingStopped, KeyboardInterrupt):
            raise stop_error(signals.caught or signal.SIGINT, state()) from None
