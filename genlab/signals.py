"""Stop signals: noted, answered at the end of the step."""

from __future__ import annotations

import signal
import sys
import threading
import time
from types import FrameType, TracebackType
from typing import Any

__all__ = ["Signals"]

CAUGHT = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
PATIENCE = 5.0  # a second Ctrl-C within this many seconds stops at once


class Signals:
    """Context that turns stop signals into `caught`, the number of the first one (0: none).

    A second Ctrl-C within 5 s raises KeyboardInterrupt where the program stands; the last
    checkpoint is intact then, the work since is lost. Outside the main thread it does nothing.
    """

    def __init__(self) -> None:
        self.caught = 0
        self._when = 0.0
        self._before: dict[int, Any] = {}

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
        if self.caught and number == signal.SIGINT and now - self._when < PATIENCE:
            raise KeyboardInterrupt
        if not self.caught and number == signal.SIGINT:
            sys.stderr.write(
                "\nstopping after this step and a checkpoint; Ctrl-C again: at once\n"
            )
        self.caught, self._when = self.caught or number, now
