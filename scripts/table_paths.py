"""What matters in a diffusion model? Path by prediction on FashionMNIST, at equal images.

Every cell is one run of `genlab train` with the same U-Net, data, batches, optimizer and number of
images, and then `genlab eval` of its samples at several numbers of network evaluations: 2,000
unguided samples a cell by DPM-Solver++ (2M) over the same noise levels, whatever the path. What is
done is kept, so the script can be stopped at any time and started again: a finished cell is read
(with a line where its images, samples or features are others), an unfinished run resumes.
Cells not run are printed as such. A cell takes about twenty minutes of one core; two scripts with
other rows run side by side, and nothing else should.

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
    return args.home / series.replace(" ", "_") / f"{row}-{prediction}"


def settings(cell, args):
    """What makes the numbers of a cell."""
    series, row, prediction = cell
    words = [*COMMON, *SERIES[series][row], f"model.predict={prediction}"]
    words += [f"schedule.images={args.images}", f"outputs={folder(cell, args)}"]
    words += [f"hardware.threads={args.threads}"]
    return {"words": words, "samples": args.samples, "features": args.features.split(",")}


def differences(found, wanted):
    """How a finished cell differs from the settings wanted; what it lacks is not compared."""
    had = {"features": list(dict.fromkeys(n.split("-", 1)[1] for n in found["numbers"]))}
    had |= {k: found[k] for k in ("words", "samples") if k in found}
    return [f"{k} {v}, not {wanted[k]}" for k, v in had.items() if v != wanted[k]]


def run_cell(cell, args):
    """Trains and evaluates one cell; returns its numbers."""
    home, wanted = folder(cell, args), settings(cell, args)
    began = time.monotonic()
    genlab(home, "train", *wanted["words"])
    trained = time.monotonic() - began
    (run,) = home.glob("edm-fashion_mnist/*/")
    found = {}
    for n in NFE:
        for features in wanted["features"]:
            name = f"{n}-{features}"
            genlab(
                home,
                *("eval", f"run={run}", "metric=fid,kid", f"features={features}", f"name={name}"),
                *("guidance.scale=1", "sampler=dpmpp_2m", "sampler.grid=karras"),
                *(f"sampler.steps={n}", f"n={args.samples}", f"hardware.threads={args.threads}"),
                f"outputs={args.home}",  # where the features of the reference are kept for all
            )
            result = json.loads((run / "eval" / name / "result.json").read_text())
            found[name] = {
                "evaluations": result["subject"]["evaluations"],
                **{k: m["values"] for k, m in result["metrics"].items()},
            }
    return {"seconds": trained, "run": str(run), "numbers": found, **wanted}


def kept(home, cell):
    """The file of a finished cell."""
    series, row, prediction = cell
    return home / series.replace(" ", "_") / f"{row}-{prediction}.json"


def number(found, name):
    """fid (kid x 1000, with its interval) of one evaluation."""
    got = found["numbers"].get(name)
    if got is None:
        return "not run"
    kid = got["kid"]
    low, high = 1000 * kid["kid_low"], 1000 * kid["kid_high"]
    return f"{got['fid']['fid']:.2f} ({1000 * kid['kid']:.2f}; {low:.2f} to {high:.2f})"


def table(home, features):
    """Markdown: a table a series and feature network, a row a cell."""
    for name in features.split(","):
        for series, rows in SERIES.items():
            print(f"\nfid (kid x 1000; its interval), {series}, features={name}\n")
            print("| path | prediction | " + " | ".join(f"NFE {n}" for n in NFE) + " |")
            print("|---|---|" + "---|" * len(NFE))
            for row in rows:
                for prediction in PREDICTIONS:
                    same = SAME.get((row, prediction)) if series == "as they are" else None
                    file = kept(home, (series, row, prediction))
                    if same:
                        values = [f"is {same[1]}"] * len(NFE)
                    elif file.exists():
                        found = json.loads(file.read_text())
                        values = [number(found, f"{n}-{name}") for n in NFE]
                    else:
                        values = ["not run"] * len(NFE)
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
        file = kept(args.home, cell)
        if file.exists():
            for difference in differences(json.loads(file.read_text()), settings(cell, args)):
                print(f"{', '.join(cell)}: kept as it is, with {difference}", flush=True)
            continue
        if time.monotonic() > end:
            break
        found = run_cell(cell, args)
        file.write_text(json.dumps(found, indent=1))
        print(f"{', '.join(cell)}: {found['seconds']:.0f} s of training", flush=True)
    table(args.home, args.features)


if __name__ == "__main__":
    main()
