"""images/s of a model on EDM's path: genlab, the same network bare, k-diffusion and diffusers.

A training step and 18 steps of Heun's method, in fp32, in bf16 and compiled. Every side is built
in a process of its own, and they take turns (peers/compare.py); packages that are not installed
are left out. A cell is a piece of work with a number of threads: finished ones are kept in the
file and not measured again. Other work on the machine shifts all figures: leave it alone
meanwhile.

    python scripts/bench_paths.py paths.json [--only heun] [--threads 1,2] [--rounds 7]
"""

import argparse
import json
import os
import platform
import sys
from pathlib import Path

from peers.compare import CLOCKS, measure, missing
from peers.paths import TARGETS

HEAD = "| work | threads | beside | its images/s | genlab's | genlab / it |"


def line(row):
    rates = f"{row['theirs']:,.1f} | {row['ours']:,.1f} | {row['ratio']:.2f}"
    return f"| {row['target']} | {row['threads']} | {row['peer']} | {rates} |"


def cells(path):
    """The finished cells of a file: {"train-fp32, 1 threads": {"rows": [...], "notes": [...]}}."""
    return json.loads(path.read_text())["cells"] if path.exists() else {}


def keep(path, done):
    """Writes all cells, whole or not at all."""
    machine = {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    aside = path.with_name(path.name + ".part")
    aside.write_text(json.dumps({"machine": machine, "cells": done}, indent=1))
    os.replace(aside, path)


def fill(path, targets, threads, rounds, clock="wall"):
    """Measures what the file lacks, a cell at a time, and prints all rows."""
    done = cells(path)
    print(HEAD)
    print("|---" * (HEAD.count("|") - 1) + "|")
    for target in targets:
        for n in threads:
            key = f"{target.key}, {n} threads, {clock}"
            if key not in done:
                rows, notes = measure(target, n, rounds, clock)
                cell = {"rows": rows, "notes": notes, "rounds": rounds}
                cell["absent"] = [side.name for side in target.peers if missing(side)]
                if rows:  # a side of genlab's that failed is measured again
                    done[key] = cell
                    keep(path, done)
                for note in notes:
                    print(f"could not take part: {note}")
            for row in done.get(key, {"rows": []})["rows"]:
                print(line(row))
    return done


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("json", type=Path, help="file of the cells; made if it is not there")
    parser.add_argument("--only", default="", help="beginnings of train-fp32, heun-compiled, ...")
    parser.add_argument("--threads", default="1,2", help="numbers of threads, in turn")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall")
    args = parser.parse_args()
    words = tuple(w for w in args.only.split(",") if w)
    targets = [t for t in TARGETS if t.key.startswith(words or "")]
    if not targets:
        sys.exit(
            f"bench_paths.py: no work {args.only}; there is {', '.join(t.key for t in TARGETS)}"
        )
    done = fill(
        args.json, targets, [int(n) for n in args.threads.split(",")], args.rounds, args.clock
    )
    print()
    for target in targets:
        print(f"{target.key}: {target.protocol}")
        for key, cell in done.items():
            if not key.startswith(target.key + ","):
                continue
            for row in cell["rows"]:
                print(f"  {row['peer']}: {row['built']['peer']}; genlab: {row['built']['ours']}")
            if cell["absent"]:
                print(f"  not installed: {', '.join(cell['absent'])}")


if __name__ == "__main__":
    main()
