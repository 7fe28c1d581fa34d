"""How fast genlab trains and samples with each way in which threads of OpenMP may wait.

    python scripts/bench_waiting.py [--rounds 5] [--seconds 4]

A small U-Net in bf16 trains, or draws, in a process of its own for some seconds: on one or two
threads, alone or beside processes that do nothing but keep a core busy. The settings take turns
within every round; a figure is the median of the rounds, in images/s, with the least and largest.
Nothing else may run. The rows go to docs/speed.md, the choice is in genlab/core/openmp.py.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

SETTINGS = {
    "the library's own": {},
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
    "GOMP_SPINCOUNT=1000": {"GOMP_SPINCOUNT": "1000"},
}
NAMES = {name for setting in SETTINGS.values() for name in setting}
BATCH = 32


def child(work: str, threads: int, seconds: float) -> None:
    """Prints the images/s of one process; its environment is what is compared."""
    from genlab.assemble.components import build
    from genlab.config.compose import compose
    from genlab.sampling.pipeline import Pipeline
    from genlab.training.setup import make_trainer

    words = ["model=flow_matching", "data=digits", "data.size=32", "network=unet_small"]
    words += ["hardware=cpu", "hardware.precision=bf16", f"hardware.threads={threads}"]
    words += [f"schedule.batch={BATCH}", "schedule.images=1_000_000_000", "sampler.steps=2"]
    components = build(compose(words))
    components.hardware.start()
    if work == "train":
        step = make_trainer(components, components.data.load("train")).one_step
    else:
        pipeline = Pipeline(components)

        def step() -> None:
            pipeline.draw(None, 0, range(BATCH))

    for _ in range(3):
        step()
    start, images = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        step()
        images += BATCH
    print(images / (time.perf_counter() - start))


def measure(setting: dict[str, str], work: str, threads: int, busy: int, seconds: float) -> float:
    """The images/s of a process beside `busy` others."""
    environment = {k: v for k, v in os.environ.items() if k not in NAMES | {"OMP_NUM_THREADS"}}
    beside = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
    try:
        words = ["--child", work, "--threads", str(threads), "--seconds", str(seconds)]
        command = [sys.executable, __file__, *words]
        done = subprocess.run(
            command, env=environment | setting, capture_output=True, text=True, check=True
        )
    finally:
        for process in beside:
            process.kill()
            process.wait()
    return float(done.stdout.split()[-1])


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--child", choices=("train", "sample"))
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    if given.child:
        child(given.child, given.threads, given.seconds)
        return
    cores = len(os.sched_getaffinity(0))
    print(f"| work | threads | busy processes beside it | {' | '.join(SETTINGS)} |")
    print("|---|---|---|" + "---|" * len(SETTINGS))
    for work in ("train", "sample"):
        for threads in (cores, 1):
            for busy in (0, 1, 2 * cores - 1):
                found: dict[str, list[float]] = {name: [] for name in SETTINGS}
                for k in range(given.rounds):
                    names = list(SETTINGS)
                    for name in names[k % 3 :] + names[: k % 3]:
                        rate = measure(SETTINGS[name], work, threads, busy, given.seconds)
                        found[name].append(rate)
                cells = [
                    f"{statistics.median(v):.0f} ({min(v):.0f}-{max(v):.0f})"
                    for v in found.values()
                ]
                print(f"| {work} | {threads} | {busy} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
