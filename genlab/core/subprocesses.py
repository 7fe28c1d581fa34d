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

from genlab.core.errors import PeerLost

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
    failed, caught = _run(commands, environments)
    return (_code(failed) if failed else 0), caught


def _run(
    commands: Sequence[Sequence[str]], environments: Sequence[Mapping[str, str]]
) -> tuple[subprocess.Popen[bytes] | None, int]:
    """(the process that failed first or None, signal we got or 0)."""
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


def _wait(processes: Sequence[subprocess.Popen[bytes]]) -> subprocess.Popen[bytes] | None:
    """The first that failed: of several, one that was killed."""
    first: subprocess.Popen[bytes] | None = None
    deadline = float("inf")
    while any(process.poll() is None for process in processes):
        if first is None and (first := _failed(processes)):
            deadline = time.monotonic() + GRACE
            for process in processes:
                if process.poll() is None:
                    process.terminate()
        if time.monotonic() > deadline:
            for process in processes:
                process.kill()
        time.sleep(0.05)
    return first or _failed(processes)


def _failed(processes: Sequence[subprocess.Popen[bytes]]) -> subprocess.Popen[bytes] | None:
    failed = [process for process in processes if process.poll() not in (None, 0)]
    return min(failed, key=lambda process: process.returncode >= 0, default=None)


def _code(process: subprocess.Popen[bytes]) -> int:
    code = process.returncode
    return code if code >= 0 else 128 - code


def run_ranks(words: Sequence[str], ranks: int) -> int:
    """Runs `genlab <words>` as several processes of one group on this machine; the exit code.

    Raises PeerLost for a rank that somebody else has killed.
    """
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
    commands = [[sys.executable, "-m", "genlab", *words] for _ in range(ranks)]
    failed, caught = _run(commands, environments)
    if failed and failed.returncode < 0 and not caught:
        number = signal.Signals(-failed.returncode).name
        which = next(i for i, command in enumerate(commands) if command is failed.args)
        raise PeerLost(
            f"rank {which} was killed by {number} (SIGKILL: as a rule, for want of memory); "
            "type the command again to go on"
        )
    return _code(failed) if failed else 0
