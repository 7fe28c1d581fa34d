"""Ends of a training, acted within one process."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from genlab.training.trainer import Trainer


class Crash(BaseException):
    """kill -9, as far as one process can act it."""


def crash() -> None:
    raise Crash


def signalled(*numbers: int) -> Callable[[], None]:
    """Sends signals to this process, SIGTERM unless others are given."""

    def act() -> None:
        for number in numbers or (signal.SIGTERM,):
            os.kill(os.getpid(), number)

    return act


def stop_at(
    monkeypatch: pytest.MonkeyPatch, images: int, act: Callable[[], None] | None = None
) -> None:
    """The step that ends at `images` is the one in which it happens, once; SIGTERM by default."""
    plain = Trainer.one_step

    def one_step(trainer: Trainer) -> None:
        plain(trainer)
        if trainer.clock.images == images:
            monkeypatch.setattr(Trainer, "one_step", plain)
            (act or signalled())()

    monkeypatch.setattr(Trainer, "one_step", one_step)
