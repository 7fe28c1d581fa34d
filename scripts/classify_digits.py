"""How many of a run's class-conditional digits a classifier takes for the digit of their label.

A support vector machine is trained on the real training digits; its accuracy on the real held-out
digits is printed beside that on the samples.

    python scripts/classify_digits.py [outputs root] [run] [--least 0.7]
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
    images, labels, _ = run.data.load("train")
    classifier = SVC(gamma="scale", C=10).fit(flat(images), labels)
    images, labels, _ = run.data.load("test")
    real = classifier.score(flat(images), labels)
    wanted = run.labels(args.n)
    share = classifier.score(flat(run.sample(args.n, seed=1)), wanted)
    print(f"accuracy on held-out real digits: {real:.1%} of {len(labels)}")
    print(f"accuracy on samples: {share:.1%} of {args.n} (at least {args.least:.0%})")
    sys.exit(share < args.least or real < 0.95)


if __name__ == "__main__":
    main()
