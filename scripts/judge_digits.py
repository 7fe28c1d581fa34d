"""How many of a run's class-conditional digits are the digit that was asked for.

A support vector machine is trained on the real training digits; its share of right answers on the
real held-out digits is printed beside its verdict on the samples.

    python scripts/judge_digits.py [outputs root] [run] [--least 0.7]
"""

import argparse
import sys

import numpy as np
from sklearn.svm import SVC

import genlab


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("outputs", nargs="?", default="outputs")
    parser.add_argument("run", nargs="?", default="latest")
    parser.add_argument("--least", type=float, default=0.7, help="exit with 1 below this share")
    parser.add_argument("-n", type=int, default=200)
    args = parser.parse_args()

    run = genlab.load(args.run, outputs=args.outputs)
    flat = lambda u: np.asarray(u, np.float32).reshape(len(u), -1) / 255  # noqa: E731
    images, labels, _ = run.built.data.load("train")
    judge = SVC(gamma="scale", C=10).fit(flat(images), labels)
    images, labels, _ = run.built.data.load("test")
    real = judge.score(flat(images), labels)
    asked = run.labels(args.n)
    share = judge.score(flat(run.sample(args.n, seed=1)), asked)
    print(f"held-out real digits judged right: {real:.1%} of {len(labels)}")
    print(
        f"samples judged the digit asked for: {share:.1%} of {args.n} (at least {args.least:.0%})"
    )
    sys.exit(share < args.least or real < 0.95)


if __name__ == "__main__":
    main()
