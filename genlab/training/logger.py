"""A tracker that may fail: the run goes on without it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from genlab.core.console import log
from genlab.core.errors import explain
from genlab.run.directory import Run
from genlab.run.track import Tracker

__all__ = ["Logger"]


class Logger:
    """Hands the journal of a run to a tracker, if there is one.

    Whatever goes wrong there is one line for a person, after which the tracker is left alone: the
    journal in the run directory is the truth.
    """

    def __init__(self, tracker: Tracker | None, run: Run) -> None:
        self._tracker, self._run = tracker, run

    @contextmanager
    def open(self, images: int) -> Iterator[None]:
        """From the start at image `images` to one finish, however the run ends."""
        if images >= self._run.config["schedule"]["images"]:
            self._tracker = None  # a run that is done has nothing to tell
        self._try(lambda t: self._start(t, images))
        code = 0
        try:
            yield
        except BaseException as e:
            code = explain(e)[0]
            raise
        finally:
            try:
                self._try(lambda t: t.finish(code))
            except KeyboardInterrupt:  # the run has ended and is saved: its exit code stands
                log(f"track={self._name}: not finished, interrupted")

    def line(self, values: Mapping[str, float]) -> None:
        """A line of the journal."""
        self._try(lambda t: t.line(values))

    def picture(self, name: str, path: Path, images: int) -> None:
        """A picture of the run directory, as it was after `images` images."""
        self._try(lambda t: t.picture(name, path, images))

    @property
    def _name(self) -> str:
        return str(self._run.config["track"]["name"])

    def _start(self, tracker: Tracker, images: int) -> None:
        if words := tracker.start(self._run.path, self._run.title, self._run.config, images):
            log(words)

    def _try(self, act: Callable[[Tracker], None]) -> None:
        tracker = self._tracker
        if tracker is None:
            return
        try:
            act(tracker)
        except Exception as e:  # a package, a network and a server of others: anything
            self._tracker = None
            first = next(iter(str(e).splitlines()), "")
            log(
                f"track={self._name} failed ({type(e).__name__}: {first}); the run goes on without"
            )
            with suppress(Exception):
                tracker.finish(1)
