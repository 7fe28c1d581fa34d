"""Attention beside torch's: TFLOP/s on a GPU, seconds and memory on a CPU.

On a GPU, bfloat16: genlab's Triton kernel, torch's FlashAttention, cuDNN and own choice, and
compiled FlexAttention, forward and backward, at B S tokens and heads of H D numbers in all. The
sides take turns in every cell; a figure is the median of the rounds. FLOPs are those of the pairs
that see each other (4 B H S^2 D times their share, a half for causal), backward 2.5 times that.

On a CPU: torch's kernel with the mask written out, chunks of queries, and the math backend, each
in a process of its own; seconds are the median of the rounds, memory is what the process held at
most, above its inputs.

    python scripts/bench_attention.py [--masks causal,prefix] [--lengths 512,1024] [--widths 64]
                                      [--rounds 5] [--json FILE] [--svg FILE]

Other work on the machine shifts all figures: leave it alone meanwhile.
"""

import argparse
import json
import os
import platform
from pathlib import Path

import torch
from attending import cases, cpu, cuda, picture

MASKS = {
    "cuda": ["full", "causal", "prefix", "permuted", "window", "packed"],
    "cpu": ["permuted", "padded", "window"],
}
LENGTHS = {"cuda": "512,1024,2048,4096,8192,16384", "cpu": "1024,2048,4096,8192,16384"}
WIDTHS = {"cuda": "64,128", "cpu": "64"}
ROUNDS = {"cuda": 5, "cpu": 3}


def head(*columns):
    print("| " + " | ".join(columns) + " |")
    print("|" + "---|" * len(columns), flush=True)


def row(*cells):
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def on_cuda(args, cells):
    """Prints the table and the targets; returns (rows, panels of the picture)."""
    head("mask", "D", "tokens", "pass", *(f"{s} TFLOP/s" for s in cuda.SIDES), "of the best other")
    rows, notes = [], []
    for kind, width, length in cells:
        found, missing = cuda.measure(kind, length, width, args.tokens, args.model, args.rounds)
        rows += found
        notes += [f"{kind}, D {width}, {length} tokens: {note}" for note in missing]
        for r in found:
            rate = r["tflops"]
            best = max((x for side, x in rate.items() if side != cuda.OURS), default=None)
            ratio = f"{rate[cuda.OURS] / best:.2f}" if best and cuda.OURS in rate else "-"
            shown = [f"{rate[s]:.0f}" if s in rate else "-" for s in cuda.SIDES]
            row(kind, width, length, r["pass"], *shown, ratio)
    print()
    head("target", "tokens", "aim", "best other", "its TFLOP/s", "ours", "ratio", "")
    for name, length, words, best, theirs, ours, ratio, met in cuda.judged(rows):
        said = {True: "met", False: "missed", None: ""}[met]
        other = (best, f"{theirs:.0f}" if theirs else "-")
        row(name, length, words, *other, f"{ours:.0f}", f"{ratio:.2f}" if ratio else "-", said)
    print()
    for note in notes:
        print(f"could not take part: {note}")
    panels = {}
    for r in rows:
        panel = panels.setdefault(f"{r['mask']}, D {r['width']}, {r['pass']}", {})
        for side, rate in r["tflops"].items():
            panel.setdefault(side, {})[r["length"]] = rate
    return rows, panels


def on_cpu(args, cells):
    """The same on a CPU, of seconds and megabytes."""
    cell = "forward s / with backward s / MB"
    head("mask", "type", "D", "tokens", *(f"{side}: {cell}" for side in cpu.SIDES))
    rows, notes = [], []
    for dtype in args.types.split(","):
        for kind, width, length in cells:
            found, missing = cpu.measure(
                kind, length, width, args.heads, dtype, args.threads, args.rounds
            )
            rows += found
            notes += [f"{kind}, {dtype}, {length} tokens: {note}" for note in missing]
            shown = []
            for side in cpu.SIDES:
                mine = {r["pass"]: r for r in found if r["side"] == side}
                seconds = [f"{r['seconds']:.3g}" for r in mine.values()]
                most = f"{mine['both']['megabytes']:.0f}" if "both" in mine else "-"
                shown.append(" / ".join([*seconds, most]) if mine else "-")
            row(kind, dtype, width, length, *shown)
    print()
    for note in notes:
        print(f"could not take part: {note}")
    panels = {}
    for what in ("seconds", "megabytes"):
        for r in rows:
            if r["pass"] == "both" and r[what] > 0:
                panel = panels.setdefault(f"{r['mask']}, {r['dtype']}, {what}", {})
                panel.setdefault(r["side"], {})[r["length"]] = r[what]
    return rows, panels


def main():
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default=device)
    parser.add_argument("--masks", default="", help=f"of {', '.join(cases.KINDS)}")
    parser.add_argument("--lengths", default="", help="tokens of a sequence")
    parser.add_argument("--widths", default="", help="of a head")
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--tokens", type=int, default=16384, help="of a batch, on a GPU")
    parser.add_argument("--model", type=int, default=2048, help="heads x width, on a GPU")
    parser.add_argument("--heads", type=int, default=2, help="on a CPU, of one sequence")
    parser.add_argument("--types", default="fp32", help="on a CPU: fp32, bf16 or both")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="on a CPU")
    parser.add_argument("--json", type=Path, help="file to write the rows to, with every time")
    parser.add_argument("--svg", type=Path, help="file to draw them in")
    args = parser.parse_args()
    args.rounds = args.rounds or ROUNDS[args.device]
    kinds = args.masks.split(",") if args.masks else MASKS[args.device]
    if unknown := [kind for kind in kinds if kind not in cases.KINDS]:
        parser.error(f"no mask {', '.join(unknown)}; there are {', '.join(cases.KINDS)}")
    widths, lengths = (
        [int(n) for n in (given or every[args.device]).split(",")]
        for given, every in ((args.widths, WIDTHS), (args.lengths, LENGTHS))
    )
    cells = [(kind, width, length) for kind in kinds for width in widths for length in lengths]
    rows, panels = (on_cuda if args.device == "cuda" else on_cpu)(args, cells)
    cuda_name = torch.cuda.get_device_name() if args.device == "cuda" else None
    machine = cuda_name or platform.processor() or platform.machine()
    versions = {"torch": torch.__version__, "cores": os.cpu_count(), "threads": args.threads}
    print(f"{machine}, {versions}")
    if args.json:
        args.json.write_text(json.dumps({"machine": machine, **versions, "rows": rows}, indent=1))
    if args.svg and panels:
        looks = ("TFLOP/s", 4) if args.device == "cuda" else ("with backward", 3)
        args.svg.write_text(picture.draw(panels, *looks))


if __name__ == "__main__":
    main()
