"""Attention on a CPU: seconds and memory of torch's kernel, of chunks, and of kernel.math."""

import math
import multiprocessing
import os
import resource
import statistics
import time
from importlib import import_module

from attending import cases

__all__ = ["SIDES", "measure"]

SIDES = ("sdpa", "chunked", "math")
ROUND = 0.5  # seconds that a side is timed for in one round, at least one step
HELD = 7  # matrices of all scores that kernel.math holds at most, with gradients
SPARE = 0.6  # of the memory that is free, what a side may take


def measure(kind, length, width, heads, dtype, threads, rounds):
    """(a row for each side and pass: seconds, megabytes above the inputs; why sides are missing).

    A process for each side and cell, since the most a process ever held is never forgotten; their
    steps take turns. Forward is without gradients, and comes first.
    """
    running, notes, rows = {}, [], []
    for name in SIDES:
        need = HELD * heads * length**2 * (4 if dtype == "fp32" else 2)
        if name == "math" and need > SPARE * _free():
            notes.append(f"math: would need about {need / 1e9:.0f} GB")
            continue
        running[name] = _Process(name, kind, length, width, heads, dtype, threads)
    for name, process in list(running.items()):
        if (failed := process.ready()) is not None:
            notes.append(f"{name}: {failed}")
            running.pop(name).end()
    for way in ("forward", "both"):
        times = {name: [] for name in running}
        for turn in range(rounds + 1):  # the first is to warm up
            names = list(running)
            cut = turn % max(1, len(names))
            for name in names[cut:] + names[:cut]:
                try:
                    taken = running[name].step(way, warm=turn > 0)
                except (EOFError, ConnectionError):
                    notes.append(f"{name}: its process ended without a word (out of memory?)")
                    running.pop(name).end()
                    continue
                if turn:
                    times[name].append(taken)
        for name, process in running.items():
            row = {"mask": kind, "length": length, "width": width, "heads": heads, "dtype": dtype}
            row |= {"pass": way, "side": name, "seconds": statistics.median(times[name])}
            rows.append(row | {"megabytes": process.peak / 1e6, "times": times[name]})
    for process in running.values():
        process.end()
    return rows, notes


def _free():
    """Bytes that a process can take without another losing any."""
    with open("/proc/meminfo") as f:
        found = dict(line.split(":") for line in f)
    return int(found["MemAvailable"].split()[0]) * 1024


class _Process:
    """One side with its inputs in a process of its own, which steps when it is told to."""

    def __init__(self, *cell):
        os.environ["OMP_NUM_THREADS"] = str(cell[-1])  # read when the process imports torch
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, *cell), daemon=True)
        self.process.start()
        theirs.close()
        self.peak = 0

    def ready(self):
        """Waits until it is built; why it failed, or None."""
        try:
            return self.pipe.recv()
        except EOFError:
            return "its process ended without a word"

    def step(self, way, warm):
        """Seconds of a step, the mean over a round when it is warm."""
        self.pipe.send((way, warm))
        seconds, self.peak = self.pipe.recv()
        return seconds

    def end(self):
        self.process.terminate()
        self.process.join()


def _serve(pipe, name, kind, length, width, heads, dtype, threads):
    """Builds the inputs, then answers every (pass, warm) with (seconds, bytes above them)."""
    import torch

    from genlab.kernel.backend import Arguments

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    kinds = {"fp32": torch.float32, "bf16": torch.bfloat16}
    attend = import_module(f"genlab.kernel.{name}").attend
    scale = 1 / math.sqrt(width)
    args = Arguments(cases.mask(kind, length), scale)
    draw = [torch.randn(1, heads, length, width, dtype=kinds[dtype]) for _ in range(4)]
    d_out = draw.pop()
    small = [torch.randn(1, 1, 1, width, dtype=kinds[dtype], requires_grad=True) for _ in range(3)]
    attend(*small, Arguments(cases.mask("full", 1), scale))[0].sum().backward()
    start = _now()

    def forward():
        with torch.no_grad():
            attend(*draw, args)

    def both():
        leaves = [t.detach().requires_grad_() for t in draw]
        out, _ = attend(*leaves, args)
        torch.autograd.grad(out, leaves, d_out)

    often = {}
    pipe.send(None)
    try:
        while True:
            way, warm = pipe.recv()
            step, times = {"forward": forward, "both": both}[way], often.get(way, 1)
            began = time.perf_counter()
            for _ in range(times):
                step()
            seconds = (time.perf_counter() - began) / times
            if not warm:
                often[way] = max(1, round(ROUND / seconds))
            pipe.send((seconds, max(0, _most() - start)))
    except EOFError:
        pass


def _most():
    """The most memory this process ever held, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _now():
    """The memory this process holds, in bytes."""
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
