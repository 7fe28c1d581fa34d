"""Metrics of genlab against other packages on the same features; those installed take part.

Every side is built in a process of its own and warmed up; then they take turns in changing order.
A time is the median of the rounds, a ratio the median of the rounds' ratios. Nothing is installed.
Other work on the machine shifts all times: leave it alone meanwhile. At full size a round of all
takes some minutes a number of threads.

    python scripts/bench_metrics.py [--only fid,prdc] [--threads 1,2] [--rounds 3] [--json FILE]
"""

import argparse
import sys
from pathlib import Path

from peers.compare import CLOCKS, measure_and_print
from peers.metrics import targets

HEAD = "| metric | threads | peer | peer's s | genlab's s | times as fast | aim |"


def chosen(every, words):
    """The targets whose key begins with one of the words; all without words."""
    found = [t for t in every if not words or any(t.key.startswith(w) for w in words)]
    if not found:
        sys.exit(
            f"bench_metrics.py: no target {', '.join(words)}; "
            f"there are {', '.join(t.key for t in every)}"
        )
    return found


def line(row, floor):
    """A row of the table; rates are of one figure a call, so seconds are their inverse."""
    theirs, ours = 1 / row["theirs"], 1 / row["ours"]
    met = {True: ", met", False: ", missed", None: ""}[row["met"]]
    aim = f"{1 / floor:.3g} s{met}" if floor else ""
    return (
        f"| {row['target']} | {row['threads']} | {row['peer']} | {theirs:.3g} | {ours:.3g} | "
        f"{row['ratio']:.2f} | {aim} |"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="", help="targets; beginnings will do")
    parser.add_argument("--threads", default="1,2", help="numbers of threads, in turn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=10_000, help="of each of the two sets")
    parser.add_argument("--width", type=int, default=2048, help="numbers an image")
    parser.add_argument(
        "--clock", choices=list(CLOCKS), default="wall", help="cpu: for a busy machine"
    )
    parser.add_argument("--json", type=Path, help="file to write the rows to, with every time")
    args = parser.parse_args()
    every = chosen(targets(args.images, args.width), [w for w in args.only.split(",") if w])
    measure_and_print(every, args, HEAD, line)


if __name__ == "__main__":
    main()
