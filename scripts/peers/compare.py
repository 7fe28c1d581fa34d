"""Competitors in processes of their own, timed in turn."""

import importlib.util
import multiprocessing
import os
import resource
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

__all__ = ["CLOCKS", "Absent", "Side", "Target", "Work", "figure", "measure", "missing"]

ROUND = 1.0  # seconds a side is timed for in one round, at least one step
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
"""Time as it passes, or as the process computes: with one thread, comparable on a busy machine."""


class Absent(Exception):
    """A side that cannot take part, with the reason in words."""


@dataclass(frozen=True)
class Work:
    """What one side does: step() handles `amount` units; note: what was built, in a few words."""

    step: Callable[[], object]
    amount: int
    note: str


@dataclass(frozen=True)
class Side:
    """One competitor.

    make: builds its work, in the process it will be timed in.
    module, package: what it imports, and the distribution whose version is shown.
    aim: what genlab's rate is to be over this side's, None where it is shown for information.
    """

    name: str
    make: Callable[[], Work]
    module: str = ""
    package: str = ""
    aim: float | None = None


@dataclass(frozen=True)
class Target:
    """One piece of work that several packages can do; the first side is genlab's.

    unit: of a rate, or "s": its inverse is shown. floor: rate genlab is to reach whatever the
    peers do.
    """

    key: str
    unit: str
    protocol: str
    ours: Side
    peers: tuple[Side, ...]
    floor: float | None = None


def missing(side: Side) -> bool:
    """Whether the package of a side is not installed; nothing is imported."""
    return bool(side.module) and importlib.util.find_spec(side.module) is None


def released(side: Side) -> str:
    """The version of a side's package, as installed."""
    try:
        return version(side.package) if side.package else ""
    except PackageNotFoundError:
        return ""


class _Process:
    """A side built and warmed up in a process of its own, which steps at every message.

    Threads, allocator settings and whatever an import switches on stay apart.
    """

    def __init__(self, side: Side, threads: int, clock: str) -> None:
        os.environ["OMP_NUM_THREADS"] = str(threads)  # read when the process imports torch
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(
            target=_serve, args=(theirs, side, threads, clock), daemon=True
        )
        self.process.start()
        theirs.close()
        self.built = self._ask()

    def _ask(self) -> object:
        try:
            failed, answer = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            raise Absent("its process ended without a word (out of memory?)") from None
        if failed:
            raise Absent(answer)
        return answer

    def step(self) -> tuple[float, float]:
        """(seconds of a step, mean over one round; most megabytes ever held above its inputs)."""
        try:
            self.pipe.send(True)
        except BrokenPipeError:
            raise Absent("its process is gone (out of memory?)") from None
        return self._ask()

    def end(self) -> None:
        self.process.terminate()
        self.process.join()


def _serve(pipe, side: Side, threads: int, clock: str) -> None:
    """Builds the work, sends (amount, note), then steps for a round at every message."""
    import torch

    warnings.simplefilter("ignore")  # peers use what torch has deprecated
    now = CLOCKS[clock]
    try:
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        work = side.make()
        held = _held()
        for _ in range(3):
            seconds = _timed(work.step, 1, now)
            if seconds > ROUND:
                break  # warm by now
        steps = max(1, round(ROUND / seconds))
        pipe.send((False, (work.amount, work.note)))
        while pipe.recv():
            pipe.send((False, (_timed(work.step, steps, now), max(0.0, _most() - held))))
    except EOFError:
        pass
    except Exception as e:  # a peer may fail in any way; the others go on
        pipe.send((True, f"{type(e).__name__}: {e}".split("\n")[0]))


def _timed(step: Callable[[], object], steps: int, now: Callable[[], float]) -> float:
    start = now()
    for _ in range(steps):
        step()
    return (now() - start) / steps


def _held() -> float:
    """Megabytes this process holds."""
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def _most() -> float:
    """The most megabytes this process ever held: why each side has a process of its own."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def measure(
    target: Target, threads: int, rounds: int, clock: str = "wall"
) -> tuple[list[dict], list[str]]:
    """(a row for each peer, what could not take part); sides take turns, in changing order."""
    running: dict[str, _Process] = {}
    notes: list[str] = []
    try:
        for side in (target.ours, *target.peers):
            if missing(side):
                continue
            try:
                running[side.name] = _Process(side, threads, clock)
            except Absent as e:
                notes.append(f"{target.key}: {side.name}: {e}")
                if side is target.ours:
                    return [], notes
        times: dict[str, list[float]] = {name: [] for name in running}
        most: dict[str, float] = {}
        for turn in range(rounds):
            names = list(running)
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                try:
                    seconds, most[name] = running[name].step()
                    times[name].append(seconds)
                except Absent as e:
                    notes.append(f"{target.key}: {name}: {e}")
                    running.pop(name).end()
                    del times[name]
        if target.ours.name not in running:
            return [], notes
        built = {name: process.built for name, process in running.items()}
    finally:
        for process in running.values():
            process.end()
    # genlab alone where no peer ran
    peers = [side for side in target.peers if side.name in times] or [target.ours]
    return [_row(target, side, threads, built, times, most) for side in peers], notes


def figure(rate: float, unit: str) -> str:
    """A rate as it is shown: itself, or the seconds of one."""
    return f"{1 / rate:.3g}" if unit == "s" else f"{rate:,.1f}"


def _row(target: Target, peer: Side, threads: int, built: dict, times: dict, most: dict) -> dict:
    def rates(side: Side) -> list[float]:
        return [built[side.name][0] / t for t in times[side.name]]

    ours, theirs = rates(target.ours), rates(peer)
    ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    mine = statistics.median(ours)
    if peer.aim is not None:
        aim, met = f"{peer.aim:g}x", ratio >= peer.aim
    elif target.floor is not None:
        aim, met = f"{figure(target.floor, target.unit)} {target.unit}", mine >= target.floor
    else:
        aim, met = "", None
    return {
        "target": target.key,
        "threads": threads,
        "peer": f"{peer.name} {released(peer)}".strip(),
        "theirs": statistics.median(theirs),
        "ours": mine,
        "unit": target.unit,
        "ratio": ratio,
        "aim": aim,
        "met": met,
        "built": {"peer": built[peer.name][1], "ours": built[target.ours.name][1]},
        "seconds": {"peer": times[peer.name], "ours": times[target.ours.name]},
        "megabytes": {"peer": most[peer.name], "ours": most[target.ours.name]},
    }
