"""Fused kernels against eager code and torch.compile of it, on a GPU: which of them pay.

First every candidate is checked against float64. Then the sides take turns, in changing order; a
time is the median of the rounds. Each candidate runs in its quickest configuration. It wins if the
better of the other two takes over 10 % longer, summed over the shapes as often as they occur.

    python scripts/bench_fused.py [--only adaln] [--rounds 9]    # needs a CUDA device; minutes
    python scripts/bench_fused.py --fit                          # the sm_90 table, on any machine
"""

import argparse
import statistics
import sys
import time
from collections import defaultdict
from importlib.util import find_spec

import torch

from genlab.core.errors import DeviceError
from genlab.kernel.dispatch import interpreted

WINS = 1.1
SETS = 4  # of inputs, which take turns, so that large ones are not in the L2 cache already
BURST = 0.02  # seconds between two synchronizations
SIDES = ("eager", "compiled", "ours")


def forward(f, inputs, _):
    with torch.no_grad():
        f(*inputs)


def training(f, inputs, dy):
    y = f(*inputs)
    torch.autograd.grad(y, [t for t in inputs if t.requires_grad], dy)


class Timer:
    """Seconds of a call with the device's queue full: the slower of launching and running."""

    def __init__(self, device):
        self.wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None

    def seconds(self, step, f, sets, calls):
        """Mean over so many calls; sets of (inputs, gradient of the output) take turns."""
        self.wait()
        start = time.perf_counter()
        for i in range(calls):
            step(f, *sets[i % len(sets)])
        self.wait()
        return (time.perf_counter() - start) / calls

    def calls(self, step, f, sets):
        """How many make a burst, once all is compiled."""
        self.seconds(step, f, sets, 3)
        return max(len(sets), round(BURST / self.seconds(step, f, sets, len(sets))))


def interleaved(timer, step, sides, sets, rounds):
    """{side: median seconds of a call}."""
    calls = {name: timer.calls(step, f, sets) for name, f in sides.items()}
    times = defaultdict(list)
    for turn in range(rounds):
        names = list(sides)
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            times[name].append(timer.seconds(step, sides[name], sets, calls[name]))
    return {name: statistics.median(t) for name, t in times.items()}


def memory(step, f, given, device):
    """MiB that one call takes at most, beyond its inputs."""
    if device.type != "cuda":
        return 0.0
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step(f, *given)
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def measure(work, step, device, rounds):
    """Seconds and MiB of each side, as two dictionaries."""
    torch._dynamo.reset()  # or shapes before would count against the limit of recompilations
    torch.manual_seed(0)
    timer, sets = Timer(device), []
    for _ in range(SETS):
        inputs = work.inputs(device)
        with torch.no_grad():
            dy = torch.randn_like(work.plain(*inputs)) if work.trains else None
        sets.append((inputs, dy))
    quickest = interleaved(timer, step, dict(enumerate(work.ours)), sets, 3)
    sides = {
        "eager": work.plain,
        "compiled": torch.compile(work.whole or work.plain, fullgraph=True, dynamic=False),
        "ours": work.ours[min(quickest, key=quickest.get)],
    }
    seconds = interleaved(timer, step, sides, sets, rounds)
    return seconds, {name: memory(step, f, sets[0], device) for name, f in sides.items()}


def verdict(name, sums):
    """One sentence; sums: seconds of each side over the shapes."""
    best = min(("eager", "compiled"), key=sums.get)
    ratio = sums[best] / sums["ours"]
    word = "wins" if ratio > WINS else "does not win"
    return f"{name}: {word}, {ratio:.2f} times as fast as {best} code"


def bench(works, device, rounds):
    """Prints the table line by line, then a verdict for each candidate."""
    sums = defaultdict(lambda: dict.fromkeys(SIDES, 0.0))
    print("| candidate | shape | times | | eager us | compiled us | ours us | ratio | MiB |")
    print("|---|---|---|---|---|---|---|---|---|")
    for work in works:
        for step in (forward, training) if work.trains else (forward,):
            seconds, mebibytes = measure(work, step, device, rounds)
            for side in SIDES:
                sums[f"{work.candidate}, {step.__name__}"][side] += work.times * seconds[side]
            micro = " | ".join(f"{1e6 * seconds[side]:.1f}" for side in SIDES)
            ratio = min(seconds["eager"], seconds["compiled"]) / seconds["ours"]
            held = ", ".join(f"{mebibytes[side]:.0f}" for side in SIDES)
            print(
                f"| {work.candidate} | {work.shape} | {work.times} | {step.__name__} | {micro} | "
                f"{ratio:.2f} | {held} |",
                flush=True,
            )
    print()
    for name, summed in sums.items():
        print(verdict(name, summed))


def table_of_fits(rows, most):
    """Prints what `candidates.fit.every` yields."""
    print("| candidate | configuration | kernel | registers | spilled bytes | shared bytes |")
    print("|---|---|---|---|---|---|")
    for candidate, config, name, (registers, spilled, shared) in rows:
        words = ", ".join(f"{k} {v}" for k, v in config._asdict().items())
        print(f"| {candidate} | {words} | {name} | {registers} | {spilled} | {shared} |")
    print(f"a block can have {most} bytes of shared memory")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="", help="candidates; beginnings will do")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--fit", action="store_true", help="registers and memory of an H100")
    args = parser.parse_args()
    if find_spec("triton") is None or interpreted():
        stop("bench_fused.py needs Triton, and TRITON_INTERPRET unset")
    if args.fit:
        from candidates import fit

        return table_of_fits(fit.every(), fit.SHARED)
    if not torch.cuda.is_available():
        stop("bench_fused.py times kernels on a CUDA device, and there is none")
    from candidates import check, work  # after the words above: these need Triton

    words = args.only.split(",")
    works = [w for w in work.every() if any(w.candidate.startswith(word) for word in words)]
    if not works:
        sys.exit(f"bench_fused.py: no candidate {args.only}")
    wrong = [row for row in check.every() if not row.error <= row.allowed]
    for row in wrong:
        print(f"{row.case}: {row.tensor} is off by {row.error:.2g}, {row.allowed:.2g} allowed")
    if wrong:
        sys.exit("bench_fused.py: what is wrong is not timed")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {args.rounds} rounds")
    bench(works, torch.device("cuda"), args.rounds)


def stop(sentence):
    print(sentence, file=sys.stderr)
    sys.exit(DeviceError.code)


if __name__ == "__main__":
    main()
