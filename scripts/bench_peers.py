"""genlab against other packages on the same work; those that are installed take part.

Every side is built in a process of its own and warmed up; then they take turns, a second each, in
changing order. A figure is the median of the rounds, a ratio the median of the rounds' ratios, MB
the most a process held above its inputs. Nothing is installed. Other work on the machine shifts
all figures: leave it alone meanwhile.

    python scripts/bench_peers.py [--only unet,glow] [--threads 1,2] [--rounds 7] [--json FILE]
"""

import argparse
import json
import os
import platform
from pathlib import Path

from peers import attention, glow, metrics, paths, pipeline, unet, vq, wgan
from peers.compare import CLOCKS, figure, measure, missing

HEAD = "| target | threads | peer | peer's | genlab's | ratio | aim | | MB: peer's | genlab's |"
MODULES = (unet, glow, wgan, vq, pipeline, paths, metrics, attention)
TARGETS = [t for module in MODULES for t in module.TARGETS]


def line(row):
    met = {True: "met", False: "missed", None: ""}[row["met"]]
    theirs, ours = (figure(row[side], row["unit"]) for side in ("theirs", "ours"))
    most = f"{row['megabytes']['peer']:.0f} | {row['megabytes']['ours']:.0f}"
    return (
        f"| {row['target']} | {row['threads']} | {row['peer']} | {theirs} | {ours} {row['unit']} "
        f"| {row['ratio']:.2f} | {row['aim']} | {met} | {most} |"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    keys = ", ".join(t.key for t in TARGETS)
    parser.add_argument("--only", default="", help=f"beginnings of {keys}")
    parser.add_argument("--threads", default="1,2", help="numbers of threads, in turn")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--clock", choices=list(CLOCKS), default="wall", help="cpu: for a busy machine"
    )
    parser.add_argument("--json", type=Path, help="file to write the rows to, with every time")
    args = parser.parse_args()
    targets = [t for t in TARGETS if t.key.startswith(tuple(args.only.split(",")))]
    if not targets:
        parser.error(f"no target begins with {args.only}; there are {keys}")
    rows, notes = [], []
    print(HEAD)
    print("|---" * (HEAD.count("|") - 1) + "|")
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
            print(f"  {peer}: {built['peer']}; genlab: {built['ours']}")
    if absent := sorted({s.package for t in targets for s in t.peers if missing(s)}):
        print(f"not installed: {', '.join(absent)}")
    for note in notes:
        print(f"could not take part: {note}")
    if args.json:
        machine = {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()}
        args.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
