"""How long a person waits for words: medians over whole processes.

python scripts/bench_cli.py [--runs 9]
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMANDS = {
    "--help": "--help",
    "--version": "--version",
    "train --help": "train --help",
    "list": "list",
    "list models": "list models",
    "list runs": "list runs",
    "Tab": "__complete genlab train model=g",
    "a wrong component": "train model=gna",
    "a wrong key": "train optimizer.lrr=1",
    "a wrong type": "train optimizer.lr=fast",
    "show": "show model=gan data=fashion_mnist",
    "one step from cold, saved": "train schedule.images=64 every.sample=1000 fresh=true",
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=9)
    args = parser.parse_args()
    program = str(Path(sys.executable).parent / "genlab")
    print("| what | median s | worst s |")
    print("|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for what, words in COMMANDS.items():
            seconds = []
            for _ in range(args.runs):
                start = time.perf_counter()
                subprocess.run([program, *words.split()], cwd=folder, capture_output=True)
                seconds.append(time.perf_counter() - start)
            print(
                f"| {what} | {statistics.median(seconds):.2f} | {max(seconds):.2f} |", flush=True
            )


if __name__ == "__main__":
    main()
