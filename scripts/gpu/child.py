"""What a process of scripts/gpu_check.py does: tests, steps of a recipe, attention.

    python -m gpu.child WORK ITEM...

A line `@at ITEM` says what is begun, a line `@found {...}` what was found of it, again and again
as more is known; the last counts. Everything else that is printed goes to the log.
"""

from __future__ import annotations

import fcntl
import gc
import importlib.util
import json
import math
import os
import statistics
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

REHEARSE = "GENLAB_REHEARSE" in os.environ
ROOT = Path(__file__).parents[2]
WARM, LOOKED, WINDOWS = 3, 8, 5
"""Steps before anything is measured, those looked at for waits, windows of time."""
SECONDS = 0.05 if REHEARSE else 1.5  # of a window, at least one step
LARGEST = 4 if REHEARSE else 128  # images a step: what was done on many GPUs is done in part
SHARE = 0.3  # of the memory, that a process which trains may take: others prepare beside it
SHAPES = {"cifar10": ((3, 32, 32), 10), "celeba": ((3, 64, 64), None)}
SHAPES |= {"folder": ((3, 64, 64), 1000)}
"""Data set -> shape and classes of the noise that stands for it."""
SMALL = {"width": 8, "mults": [1, 2], "blocks": 1, "attention": [4], "head_width": 8, "depth": 1,
         "embedding": 8, "codes": 16, "residual": 4, "levels": 2}  # fmt: skip
"""Keys of networks in a rehearsal."""


def say(kind: str, what: str) -> None:
    print(f"@{kind} {what}", flush=True)


def found(**values: Any) -> None:
    say("found", json.dumps(values))


@contextmanager
def turn() -> Iterator[None]:
    """The time of a process that measures: others wait, or prepare themselves on the CPU."""
    with open(os.environ["GPU_CHECK_TURN"], "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


# --- tests ---------------------------------------------------------------------------------------


class Count:
    """What pytest has done so far."""

    def __init__(self) -> None:
        self.passed, self.skipped, self.failed = 0, 0, list[str]()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        print(nodeid, flush=True)

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.failed.append(report.nodeid.rpartition("::")[2])
        elif report.skipped:
            self.skipped += 1
        elif report.when == "call":
            self.passed += 1
        else:
            return
        self.say()

    def say(self) -> None:
        words = [f"{self.passed} passed"]
        words += [f"{self.skipped} skipped"] if self.skipped else []
        words += (
            [f"{len(self.failed)} failed: {', '.join(self.failed[:6])}"] if self.failed else []
        )
        found(ok=not self.failed, says=", ".join(words), passed=self.passed, failed=self.failed)


def tests(file: str, which: str = "gpu and not slow") -> None:
    import pytest

    count = Count()
    words = [file, "-m", which, "-p", "no:cacheprovider", "--tb=short"]
    if not REHEARSE and importlib.util.find_spec("xdist") is not None:
        words += ["-n", "6"]  # kernels are compiled side by side
    code = pytest.main(words, plugins=[count])
    if code == pytest.ExitCode.NO_TESTS_COLLECTED:
        found(ok=True, says="there are none", passed=0, failed=[])
        return
    count.say()
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        found(ok=False, says=f"pytest ended with {code!r}; see the log")


def slow(file: str) -> None:
    tests(file, "gpu and slow")


# --- training ------------------------------------------------------------------------------------


def train(recipe: str, compiled: bool = False) -> None:
    """Steps of a recipe: images/s, memory, and whether the host waits for the GPU."""
    import torch

    if compiled and REHEARSE:  # traced, but not compiled by a C++ compiler, which takes minutes
        from functools import partial

        if not isinstance(torch.compile, partial):
            torch.compile = partial(torch.compile, backend="aot_eager")
    if not REHEARSE:
        torch.cuda.set_per_process_memory_fraction(SHARE)
    if compiled:
        torch._dynamo.reset()
    micro: int | None = None
    while True:
        try:
            measure(recipe, compiled, micro)
            return
        except torch.OutOfMemoryError:
            micro = max(1, (micro or LARGEST) // 2)
            print(f"{recipe}: out of memory, now in parts of {micro}", flush=True)
            if micro == 1:
                raise
        gc.collect()
        torch.cuda.empty_cache()


def measure(recipe: str, compiled: bool, micro: int | None) -> None:
    import torch

    from genlab.core.memory import memory

    begun = time.perf_counter()
    trainer, device, facts = made(recipe, compiled, micro)
    traced = not trainer.model.double_backward
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    built = time.perf_counter() - begun
    for _ in range(WARM):
        trainer.one_step()
    trainer.peek()
    facts |= {"built": built, "ready": time.perf_counter() - begun}
    with turn():
        waits, where = waited(trainer, device)
        rate, images = images_per_second(trainer, 2)
        steps = max(1, round(SECONDS * rate / images))
        rates = [images_per_second(trainer, steps)[0] for _ in range(WINDOWS)]
    read = trainer.read()
    loss = next(v for k, v in read.items() if k.startswith("loss/"))
    facts |= {"images_per_second": statistics.median(rates), "least": min(rates)}
    facts |= {"most": max(rates), "memory": memory(device), "loss": loss, "waits": waits}
    said = f"{facts['images_per_second']:,.0f} images/s ({min(rates):,.0f}-{max(rates):,.0f})"
    words = [said, f"{facts['memory'] / 1e9:.1f} GB", facts["batch"]]
    if device.type == "cpu":
        words.append("waits not looked for")
    elif waits:
        words.append(f"{waits} waits in {LOOKED} steps, first in {where}")
    else:
        words.append(f"no wait in {LOOKED} steps")
    words += [f"ready after {facts['ready']:.0f} s", f"loss {loss:.3g}"]
    words += [] if facts["data"] == "noise" else ["real data"]
    words += ["not compiled, as it takes second derivatives"] if compiled and not traced else []
    found(ok=math.isfinite(loss) and not waits, says=", ".join(words), **facts)


def made(recipe: str, compiled: bool, micro: int | None) -> tuple[Any, Any, dict[str, Any]]:
    """(trainer, device, facts) of a recipe in bf16, on its data where they are, else on noise."""
    from genlab.assemble.components import build
    from genlab.config.compose import compose
    from genlab.core import registry
    from genlab.core.errors import DataError
    from genlab.training.dry_run import fake
    from genlab.training.setup import make_trainer

    root = os.environ.get("GPU_CHECK_DATA", "")
    words = [f"experiment={recipe}", "hardware.precision=bf16"]
    words += [f"hardware={'cpu' if REHEARSE else 'cuda'}"]
    words += [f"hardware.compile={compiled}".lower()]
    words += ["hardware.threads=1"] if REHEARSE else []
    words += [f"data.root={root}"] if root else []
    config = compose(words)
    whole = int(config["schedule"]["batch"])
    batch = min(whole, LARGEST)
    config["schedule"]["batch"] = batch
    if micro is not None:
        config["hardware"]["micro_batch"] = min(micro, batch)
    if REHEARSE:
        for node in config["network"].values():
            node.update({k: v for k, v in SMALL.items() if k in node})
    data: Any = None
    try:
        if not root:
            raise DataError("no data.root was given")
        components = build(config)
        data, of = components.data.load("train"), "real"
    except DataError as e:
        print(f"{recipe}: {e}; on noise instead", flush=True)
        real, of = registry.build, "noise"

        def without_files(group: str, node: Any, *rest: Any, **given: Any) -> Any:
            return stand_in(node) if group == "data" else real(group, node, *rest, **given)

        registry.build = without_files
        try:
            components = build(config)
        finally:
            registry.build = real
        data = fake(components.data, 2 * batch)
    components.hardware.start()
    said = f"batch {batch}" + (f" of {whole:,}" if batch < whole else "")
    said += f" in parts of {micro}" if micro is not None and micro < batch else ""
    weights = sum(p.numel() for p in components.model.parameters())
    facts = {"batch": said, "data": of, "parameters": weights}
    return make_trainer(components, data), components.hardware.device, facts


def stand_in(node: dict[str, Any]) -> Any:
    """A data set of the shape a recipe asks for, without a file."""
    from genlab.core.contract import Dataset, Spec

    (channels, *sides), classes = SHAPES[node["name"]]
    sides = [node["size"]] * 2 if node.get("size") else sides
    data = Dataset()
    data.spec = Spec((channels, *sides), None if node.get("attribute", "") is None else classes)
    data.count, data.flip = 10**6, node.get("flip", False)
    return data


def images_per_second(trainer: Any, steps: int) -> tuple[float, float]:
    """(images/s, images a step) of some steps, to the end of the last on the device."""
    start, first = time.perf_counter(), trainer.clock.images
    for _ in range(steps):
        trainer.one_step()
    trainer.peek()  # waits for the device, and raises where a step was not finite
    drawn = trainer.clock.images - first
    return drawn / (time.perf_counter() - start), drawn / steps


def waited(trainer: Any, device: Any) -> tuple[int, str]:
    """(how often the host waited for the GPU in some steps, where it did first)."""
    import torch

    if device.type != "cuda":
        for _ in range(LOOKED):
            trainer.one_step()
        return 0, ""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            for _ in range(LOOKED):
                trainer.one_step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = [w for w in caught if "synchronizing" in str(w.message)]
    for w in waits:
        print(f"waits at {w.filename}:{w.lineno}", flush=True)
    first = waits[0] if waits else None
    return len(waits), f"{Path(first.filename).name}:{first.lineno}" if first else ""


def compiled(recipe: str) -> None:
    train(recipe, compiled=True)


# --- attention -----------------------------------------------------------------------------------


def attention(cell: str) -> None:
    """All sides of scripts/bench_attention.py under one mask, at one width and length."""
    import bench_attention as bench

    bench.turn = turn
    if bench.DEVICE == "cuda" and importlib.util.find_spec("triton") is not None:
        from genlab.kernel.triton import tuning

        timed = tuning._milliseconds

        def in_turn(*given: Any) -> float:
            with turn():
                return timed(*given)

        tuning._milliseconds = in_turn
    kind, width, length = cell.split()
    sizes = (256, 32, 1) if REHEARSE else (16384, 2048, 5)  # tokens, heads x width, rounds
    rows, notes = bench.measure(kind, int(length), int(width), *sizes)
    for note in notes:
        print(f"{cell}: {note}", flush=True)
    words, own = [], bench.OURS
    for row in rows:
        rates = row["tflops"]
        best = max((v for side, v in rates.items() if side != own), default=None)
        shown = ", ".join(f"{side} {rate:.0f}" for side, rate in rates.items())
        over = f" ({rates[own] / best:.2f} of the best other)" if best and own in rates else ""
        words.append(f"{row['pass']} {shown}{over}")
    ok = REHEARSE or (bool(rows) and all(own in row["tflops"] for row in rows))
    says = "; ".join(words) + (" TFLOP/s" if words else "no side took part")
    found(ok=ok, says=says, rows=rows, notes=notes)


WORK = {"tests": tests, "slow": slow, "train": train, "compiled": compiled, "attention": attention}


def main() -> None:
    from genlab.core.subprocesses import terminate_with_parent

    work, *items = sys.argv[1:]
    terminate_with_parent(int(os.environ["GPU_CHECK_PARENT"]))
    os.chdir(ROOT)
    for item in items:
        say("at", item)
        try:
            WORK[work](item)
        except Exception as e:  # one item is said to have failed, and the next one begins
            import traceback

            traceback.print_exc()
            text = str(e).strip().splitlines()
            found(ok=False, says=f"{type(e).__name__}: {text[0] if text else ''}"[:300])
            if "CUDA error" in str(e):  # nothing works after it in this process
                say("end", item)
                raise SystemExit(1) from e
        say("end", item)


if __name__ == "__main__":
    main()
