"""Stop signals: noted, answered at the end of the step or, in a long drawing, of its step."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from genlab.core.console import log, redraws
from genlab.core.errors import Stopped

__all__ = ["DrawingStopped", "Signals", "check_stop", "stop_error"]

CAUGHT = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
PATIENCE = 5.0  # a second Ctrl-C within this many seconds stops at once


class DrawingStopped(BaseException):
    """Raised inside a drawing that is given up for a stop signal; not an error."""


class Signals:
    """Context that turns stop signals into `caught`, the number of the first one (0: none).

    A second Ctrl-C within 5 s raises KeyboardInterrupt where the program stands; the last
    checkpoint is intact then, the work since is lost. Outside the main thread it does nothing.
    """

    def __init__(self, answer: str = "stopping after this step and a checkpoint") -> None:
        """answer: what Ctrl-C has begun, in words."""
        self.caught, self._answer = 0, answer
        self._when = 0.0
        self._before: dict[int, Any] = {}

    @contextmanager
    def drawing(self, may: bool = True) -> Iterator[None]:
        """Context in which `check_stop` raises once a signal was caught; `may` False: never."""
        global _checked
        _checked = self if may else None
        try:
            yield
        finally:
            _checked = None

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for name in CAUGHT:
                number = getattr(signal, name)
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if number == signal.SIGINT and sys.stderr.isatty() and not redraws(sys.stderr):
            print(file=sys.stderr)  # the terminal has written ^C
        if self.caught and number == signal.SIGINT and now - self._when < PATIENCE:
            raise KeyboardInterrupt
        first = not self.caught
        self.caught, self._when = self.caught or number, now
        if first and number == signal.SIGINT:
            log(f"{self._answer}; Ctrl-C again: at once")


_checked: Signals | None = None


def check_stop() -> None:
    """Called at every step of a long drawing; raises DrawingStopped once a signal was caught.

    Only within `Signals.drawing`; elsewhere, as in Python, it does nothing.
    """
    if _checked is not None and _checked.caught:
        raise DrawingStopped


def stop_error(number: int, where: str) -> Stopped:
    """The error of a run that a signal has stopped. where: at what, and how to go on."""
    error = Stopped(number, f"{signal.Signals(number).name} at {where}")
    if number == signal.SIGUSR1:
        error.code = 75  # the batch system's word for "run me again"
    return error
