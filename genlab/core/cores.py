"""How many cores this process may use, and how many of them other processes keep busy.

A thread that shares its core with other work makes all the others wait at every barrier: two
threads beside one busy process were 2.5 times as slow as one thread (docs/speed.md). So work that
may choose its threads takes one for every idle core.
"""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path

__all__ = ["allowed", "busy_elsewhere", "watch"]

STAT = Path("/proc/stat")
CORE = re.compile(r"cpu(\d+) (\d+) \d+ (\d+) \d+ \d+ (\d+) (\d+)")
"""Its number and ticks of user, system, irq, softirq; between them those of nice, idle, iowait."""
SHORTEST = 0.5  # seconds to look at: the kernel counts in hundredths of them
_began: tuple[float, dict[int, float], float] | None = None


def allowed() -> int:
    """The cores this process may use."""
    return len(_cores()) or os.cpu_count() or 1


def watch() -> None:
    """Begins to look; called where a command begins, so that the rest of its start is looked at.

    A read of one file. Nothing happens where the system has no such file.
    """
    global _began
    _began = _read()


def busy_elsewhere() -> float:
    """Cores of those allowed that other processes have kept busy since `watch`, on average.

    0 where nobody watches, or not long enough. Processes of low priority (nice) give way, and so
    are not counted.
    """
    now = _read()
    if _began is None or now is None or now[0] - _began[0] < SHORTEST:
        return 0.0
    shared = now[1].keys() & _began[1].keys()
    busy = sum(now[1][core] - _began[1][core] for core in shared)
    return max(0.0, busy - (now[2] - _began[2])) / (now[0] - _began[0])


def _read() -> tuple[float, dict[int, float], float] | None:
    """(clock, seconds every allowed core has computed, those of this process and its children)."""
    try:
        tick, lines = os.sysconf("SC_CLK_TCK"), STAT.read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return None
    cores = _cores()
    busy = {}
    for found in filter(None, map(CORE.match, lines)):
        core, user, system, irq, softirq = map(int, found.groups())
        if core in cores:
            busy[core] = (user + system + irq + softirq) / tick
    return time.monotonic(), busy, sum(os.times()[:4])


def _cores() -> set[int]:
    return os.sched_getaffinity(0) if sys.platform == "linux" else set()
