"""genlab against other packages on the same work; those that are installed take part.

Every side is built in a process of its own and warmed up; then they take turns, a second each, in
changing order. A figure is the median of the rounds, a ratio the median of the rounds' ratios.
Nothing is installed. Other work on the machine shifts all figures: leave it alone meanwhile.

    python scripts/bench_peers.py [--only unet,glow] [--threads 1,2] [--rounds 7] [--json FILE]
"""

import argparse
import json
import os
import platform
import sys
from pathlib import Path

from peers import glow, pipeline, unet, vq, wgan
from peers.compare import CLOCKS, measure, missing

TARGETS = {t.key: t for module in (unet, glow, wgan, vq, pipeline) for t in module.TARGETS}


def chosen(words):
    """The targets whose key begins with one of the words; all without words."""
    keys = [k for k in TARGETS if not words or any(k.startswith(w) for w in words)]
    if not keys:
        sys.exit(f"bench_peers.py: no target {', '.join(words)}; there are {', '.join(TARGETS)}")
    return [TARGETS[k] for k in keys]


def line(row):
    met = {True: "met", False: "missed", None: ""}[row["met"]]
    rates = f"{row['theirs']:,.1f} | {row['ours']:,.1f} {row['unit']} | {row['ratio']:.2f}"
    return (
        f"| {row['target']} | {row['threads']} | {row['peer']} | {rates} | {row['aim']} | {met} |"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="", help=f"of {', '.join(TARGETS)}; beginnings will do")
    parser.add_argument("--threads", default="1,2", help="numbers of threads, in turn")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--clock", choices=list(CLOCKS), default="wall", help="cpu: for a busy machine"
    )
    parser.add_argument("--json", type=Path, help="file to write the rows to, with every time")
    args = parser.parse_args()
    targets = chosen([w for w in args.only.split(",") if w])
    absent = sorted({s.package for t in targets for s in t.peers if missing(s)})
    rows, notes = [], []
    print("| target | threads | peer | peer's | genlab's | ratio | aim | |")
    print("|---|---|---|---|---|---|---|---|")
    for target in targets:
        for threads in map(int, args.threads.split(",")):
            found, failed = measure(target, threads, args.rounds, args.clock)
            rows += found
            notes += failed
            for row in found:
                print(line(row), flush=True)
    print()
    for target in targets:
        print(f"{target.key}: {target.protocol}")
        seen = {row["peer"]: row["built"] for row in rows if row["target"] == target.key}
        for peer, built in seen.items():
            print(f"  {peer}: {built['peer']}")
        if seen:
            print(f"  genlab: {next(iter(seen.values()))['ours']}")
    if absent:
        print(f"not installed: {', '.join(absent)}")
    for note in notes:
        print(f"could not take part: {note}")
    if args.json:
        machine = {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()}
        args.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
