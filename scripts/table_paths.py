"""What matters in a diffusion model? Path by prediction on FashionMNIST, at equal images.

Every cell is one run of `genlab train` with the same U-Net, data, batches, optimizer and number of
images, and then `genlab eval` of its samples at several numbers of network evaluations: 2,000
unguided samples a cell by DPM-Solver++ (2M) over the same noise levels, whatever the path. What is
done is kept, so the script can be stopped at any time and started again: what is finished is left
alone, an unfinished run resumes. Cells not run are printed as such. A cell takes about twenty
minutes of one core; two scripts with other rows run side by side, and nothing else should.

    python scripts/table_paths.py [--minutes 60] [--only linear,trig] [--images 250000] [--table]
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

NFE = (4, 10, 35)
PREDICTIONS = ("eps", "x0", "velocity", "F")
UNIFORM = ("model.density=uniform", "model.weight=uniform")
SERIES = {
    "as they are": {
        "linear": ("process=linear", *UNIFORM),
        "vp": ("process=vp", "process.steps=null", *UNIFORM),
        "edm": ("process=edm", "model.density=lognormal", "model.weight=uniform"),
        "trig": ("process=trig", *UNIFORM),
    },
    "one weighting": {
        "linear": ("process=linear", "model.density=lognormal", "model.weight=edm"),
        "vp": ("process=vp", "process.steps=null", "model.density=lognormal", "model.weight=edm"),
        "edm": ("process=edm", "model.density=lognormal", "model.weight=edm"),
    },
}
"""Series -> row -> what makes it; every row is crossed with every prediction.

As they are: times uniform on the path (of ln sigma ~ N(-1.2, 1.2^2) on edm, where uniform times
are noise alone), errors of what is predicted. One weighting: the same noise levels with the same
weight on the error of the datum everywhere, so that only the parametrization is left.
"""

SAME = {("edm", "velocity"): ("edm", "eps")}
"""The velocity of this path is eps times a number, so without a weight it is the same cell."""

COMMON = (
    "model=edm data=fashion_mnist network=unet_small schedule=cosine schedule.batch=64 "
    "schedule.warmup=5000 optimizer.lr=1e-3 every.sample=1e9 every.eval=1e9 every.checkpoint=1e9"
).split()


def cells():
    """(series, row, prediction) in the order they are run: the first three rows whole, first."""
    order = [(s, row, p) for s, rows in SERIES.items() for row in rows for p in PREDICTIONS]
    order = [c for c in order if c[0] != "as they are" or c[1:] not in SAME]
    return sorted(order, key=lambda c: (c[1] == "trig", c[0] != "as they are"))


def genlab(home, *words):
    """Runs the program; its output goes to the log of the cell, a failure ends the script."""
    home.mkdir(parents=True, exist_ok=True)
    log = home / "log.txt"
    with log.open("a") as output:
        print("genlab", *words, file=output, flush=True)
        command = [sys.executable, "-m", "genlab", *words]
        code = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT).returncode
    if code:
        sys.exit(f"genlab {words[0]} failed with {code}: see {log}")


def folder(cell, args):
    """Where the run of a cell is."""
    series, row, prediction = cell
    return args.home / series.replace(" ", "_") / f"{row}-{prediction}-{args.images}"


def evaluations(args):
    """(name of an evaluation, steps, features)."""
    return [(f"{n}-{args.samples}-{f}", n, f) for n in NFE for f in args.features.split(",")]


def run_cell(cell, args):
    """Trains and evaluates one cell; what is done already is left alone."""
    series, row, prediction = cell
    home, threads = folder(cell, args), f"hardware.threads={args.threads}"
    words = [*COMMON, *SERIES[series][row], f"model.predict={prediction}", threads]
    genlab(home, "train", *words, f"schedule.images={args.images}", f"outputs={home}")
    (run,) = home.glob("edm-fashion_mnist/*/")
    for name, n, features in evaluations(args):
        if not (run / "eval" / name / "result.json").exists():
            genlab(
                home,
                *("eval", f"run={run}", "metric=fid,kid", f"features={features}", f"name={name}"),
                *("guidance.scale=1", "sampler=dpmpp_2m", "sampler.grid=karras"),
                *(f"sampler.steps={n}", f"n={args.samples}", threads),
                f"outputs={args.home}",  # where the features of the reference are kept for all
            )


def number(cell, args, name):
    """fid (kid x 1000, with its interval) of one evaluation."""
    found = list(folder(cell, args).glob(f"edm-fashion_mnist/*/eval/{name}/result.json"))
    if not found:
        return "not run"
    metrics = json.loads(found[0].read_text())["metrics"]
    fid, kid = (metrics[k]["values"] for k in ("fid", "kid"))
    low, high = 1000 * kid["kid_low"], 1000 * kid["kid_high"]
    return f"{fid['fid']:.2f} ({1000 * kid['kid']:.2f}; {low:.2f} to {high:.2f})"


def table(args):
    """Markdown: a table a series and feature network, a row a cell."""
    for features in args.features.split(","):
        for series, rows in SERIES.items():
            print(f"\nfid (kid x 1000; its interval), {series}, features={features}\n")
            print("| path | prediction | " + " | ".join(f"NFE {n}" for n in NFE) + " |")
            print("|---|---|" + "---|" * len(NFE))
            for row in rows:
                for prediction in PREDICTIONS:
                    cell = series, row, prediction
                    same = SAME.get(cell[1:]) if series == "as they are" else None
                    names = [name for name, _, f in evaluations(args) if f == features]
                    values = [f"is {same[1]}" if same else number(cell, args, n) for n in names]
                    print(f"| {row} | {prediction} | " + " | ".join(values) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--home", type=Path, default=Path("outputs/table_paths"))
    parser.add_argument("--images", type=int, default=250_000, help="drawn in training, a cell")
    parser.add_argument("--samples", type=int, default=2_000, help="of each evaluation")
    parser.add_argument("--features", default="inception,small")
    parser.add_argument("--threads", type=int, default=1, help="changes the last digits")
    parser.add_argument("--only", default="", help="rows, with commas; all without")
    parser.add_argument("--minutes", type=float, default=1e9, help="no cell begins after these")
    parser.add_argument("--table", action="store_true", help="print what there is, run nothing")
    args = parser.parse_args()
    end = time.monotonic() + 60 * args.minutes
    chosen = [c for c in cells() if not args.only or c[1] in args.only.split(",")]
    for cell in [] if args.table else chosen:
        if time.monotonic() > end:
            break
        run_cell(cell, args)
        print(f"{', '.join(cell)}: done", flush=True)
    table(args)


if __name__ == "__main__":
    main()
