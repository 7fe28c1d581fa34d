"""Processes we start: signals reach them once, and none outlives us unseen."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from types import FrameType

__all__ = ["run", "run_ranks", "terminate_with_parent"]

PASSED_ON = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
GRACE = 60.0  # seconds the other ranks get to save and stop when one has failed


def terminate_with_parent(parent: int) -> None:
    """Has the kernel send us SIGTERM when our parent dies, however it dies (Linux)."""
    if sys.platform == "linux":
        import ctypes

        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)
        if os.getppid() != parent:  # it died before we asked
            os._exit(143)


def run(
    commands: Sequence[Sequence[str]], environments: Sequence[Mapping[str, str]]
) -> tuple[int, int]:
    """Runs processes side by side; (exit code of the first that failed or 0, signal we got or 0).

    Each is in a session of its own, so that Ctrl-C in a terminal reaches it through us alone: two
    within five seconds would make it drop its work. When one fails the others are stopped.
    """
    me = os.getpid()
    processes = [
        subprocess.Popen(
            command,
            env={**environment, "PYTHONSAFEPATH": "1"},  # a yaml.py in this folder is no module
            start_new_session=True,
            preexec_fn=lambda: terminate_with_parent(me),
        )
        for command, environment in zip(commands, environments, strict=True)
    ]
    caught = 0

    def pass_on(number: int, frame: FrameType | None) -> None:
        nonlocal caught
        caught = caught or number
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)

    before = {n: signal.signal(getattr(signal, n), pass_on) for n in PASSED_ON}
    try:
        return _wait(processes), caught
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)


def _wait(processes: Sequence[subprocess.Popen[bytes]]) -> int:
    first, deadline = 0, float("inf")
    while any(process.poll() is None for process in processes):
        failed = [c for c in processes if c.poll() not in (None, 0)]
        if failed and not first:
            first, deadline = _code(failed[0]), time.monotonic() + GRACE
            for process in processes:
                if process.poll() is None:
                    process.terminate()
        if time.monotonic() > deadline:
            for process in processes:
                process.kill()
        time.sleep(0.05)
    return first or next((_code(c) for c in processes if c.returncode), 0)


def _code(process: subprocess.Popen[bytes]) -> int:
    code = process.returncode
    return code if code >= 0 else 128 - code


def run_ranks(words: Sequence[str], ranks: int) -> int:
    """Runs `genlab <words>` as several processes of one group on this machine; the exit code."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    environments = [
        {
            **os.environ,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "WORLD_SIZE": str(ranks),
            "LOCAL_WORLD_SIZE": str(ranks),
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
        }
        for rank in range(ranks)
    ]
    command = [sys.executable, "-m", "genlab", *words]
    return run([command] * ranks, environments)[0]
