"""How many class-conditional digits of a run a classifier takes for the digit of their label.

A support vector machine is trained on the real training digits; its accuracy on the real held-out
digits is printed beside that on samples that `genlab sample` has drawn.

    genlab sample run=<run> n=200 name=demo
    python scripts/classify_digits.py <run>/samples/demo [--least 0.7]
"""

import argparse
import json
import sys
from pathlib import Path

from genlab.core.openmp import limit_spinning

limit_spinning()  # before torch and scikit-learn read it

import numpy as np  # noqa: E402
from sklearn.svm import SVC  # noqa: E402

import genlab  # noqa: E402
from genlab.data.source import iter_images  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("samples", type=Path, help="<run>/samples/<name>")
    parser.add_argument("--least", type=float, default=0.7, help="exit with 1 below this share")
    args = parser.parse_args()

    run = genlab.load(args.samples.parent.parent)
    flat = lambda u: np.asarray(u, np.float32).reshape(len(u), -1) / 255  # noqa: E731
    images, labels, _ = run.data.load("train")
    classifier = SVC(gamma="scale", C=10).fit(flat(images), labels)
    images, labels, _ = run.data.load("test")
    real = classifier.score(flat(images), labels)
    drawn = np.stack([image for _, image, _ in iter_images(str(args.samples), 1, None)])
    asked = json.loads((args.samples / "sample.json").read_text())["labels"]
    share = classifier.score(flat(drawn), run.labels(len(drawn), asked))
    print(f"accuracy on held-out real digits: {real:.1%} of {len(labels)}")
    print(f"accuracy on samples: {share:.1%} of {len(drawn)} (at least {args.least:.0%})")
    sys.exit(share < args.least or real < 0.95)


if __name__ == "__main__":
    main()
