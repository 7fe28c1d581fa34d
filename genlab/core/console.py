"""Lines and progress for the person at the terminal, on stderr: results alone go to stdout."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any, Protocol

from genlab.core.format import clean

__all__ = ["answering", "log", "log_once", "progress", "redraws", "shown_by"]

PAUSE = 5.0  # seconds between two lines where there is no terminal


class Advance(Protocol):
    """Called with the number of images done since the last call; a part of one is one, too."""

    def __call__(self, images: float) -> None:
        """images: done since."""
        ...


class Stream(Protocol):
    """What may be a terminal."""

    def isatty(self) -> bool:
        """Whether it is."""
        ...


def redraws(stream: Stream) -> bool:
    """Whether what is on a terminal can be redrawn in place there."""
    return stream.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")


_show: Callable[[str], None] | None = None


def log(line: str) -> None:
    """One line on stderr, or where `shown_by` says; a stream that is gone is no reason to stop."""
    line = clean(line)
    if _show is not None:
        _show(line)
        return
    try:
        print(line, file=sys.stderr, flush=True)
    except (OSError, RuntimeError):  # or a signal's line comes in the middle of another one
        pass


@contextmanager
def shown_by(show: Callable[[str], None]) -> Iterator[None]:
    """Context in which lines are handed to `show`: a live display puts them above itself."""
    global _show
    before, _show = _show, show
    try:
        yield
    finally:
        _show = before


@contextmanager
def answering(as_json: bool) -> Iterator[dict[str, Any]]:
    """Yields the mapping that a verb fills with what it found.

    as_json: it is all that goes to stdout, as one JSON object at the end; what is printed for
    people meanwhile goes to stderr. What is left empty, as by a process that had another one do
    the work, is not printed.
    """
    found: dict[str, Any] = {}
    if not as_json:
        yield found
        return
    with redirect_stdout(sys.stderr):
        yield found
    if found:
        print(json.dumps(found, indent=1, allow_nan=False), flush=True)


_LOGGED: set[str] = set()


def log_once(line: str) -> None:
    """A line as `log` has it, the first time in this process."""
    if line not in _LOGGED:
        _LOGGED.add(line)
        log(line)


@contextmanager
def progress(what: str, total: int) -> Iterator[Advance]:
    """Shows how far `what` is while the block runs; yields the function that advances it.

    On a terminal a bar that is gone at the end, with the lines of `log` above it; elsewhere a line
    every few seconds.
    """
    if redraws(sys.stderr):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

        columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        how = {"console": Console(stderr=True), "transient": True, "redirect_stdout": False}
        with Progress(*columns, **how) as bar:
            task = bar.add_task(what, total=total)

            def above(line: str) -> None:
                bar.console.print(line, markup=False, highlight=False, soft_wrap=True)

            with shown_by(above):
                yield lambda images: bar.advance(task, images)
        return
    done, spoken = 0.0, time.monotonic()

    def advance(images: float) -> None:
        nonlocal done, spoken
        done += images
        if time.monotonic() - spoken >= PAUSE and done < total:
            spoken = time.monotonic()
            log(f"{what}: {int(done):,} of {total:,}")

    yield advance
