"""genlab against other packages on the same work; those that are installed take part.

Every side is built in a process of its own and warmed up; then they take turns, a second each, in
changing order. A figure is the median of the rounds, a ratio the median of the rounds' ratios.
Nothing is installed. Other work on the machine shifts all figures: leave it alone meanwhile.

    python scripts/bench_peers.py [--only unet,glow] [--threads 1,2] [--rounds 7] [--json FILE]
"""

import argparse
import sys
from pathlib import Path

from peers import glow, pipeline, unet, vq, wgan
from peers.compare import CLOCKS, measure_and_print

HEAD = "| target | threads | peer | peer's | genlab's | ratio | aim | |"
TARGETS = {t.key: t for module in (unet, glow, wgan, vq, pipeline) for t in module.TARGETS}


def chosen(words):
    """The targets whose key begins with one of the words; all without words."""
    keys = [k for k in TARGETS if not words or any(k.startswith(w) for w in words)]
    if not keys:
        sys.exit(f"bench_peers.py: no target {', '.join(words)}; there are {', '.join(TARGETS)}")
    return [TARGETS[k] for k in keys]


def line(row, floor):
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
    measure_and_print(targets, args, HEAD, line)


if __name__ == "__main__":
    main()
