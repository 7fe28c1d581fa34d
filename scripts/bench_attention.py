"""Attention on a GPU in bfloat16: genlab's backends beside torch's, in turn, in TFLOP/s.

genlab's Triton kernel, torch's FlashAttention, cuDNN and own choice, and compiled FlexAttention,
forward and backward, at B S tokens and heads of H D numbers in all. The sides take turns in every
cell; a figure is the median of the rounds. FLOPs are those of the pairs that see each other
(4 B H S^2 D times their share, a half for causal), backward 2.5 times that.

    python scripts/bench_attention.py [--masks causal,prefix] [--lengths 512,1024] [--widths 64]
                                      [--rounds 5] [--json FILE]

Other work on the machine shifts all figures: leave it alone meanwhile. On a CPU, seconds and
memory: scripts/bench_peers.py --only attention; here a CPU only rehearses.
"""

import argparse
import json
import statistics
import time
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.nn.functional as F
from peers.attention import MASKS
from peers.compare import Absent
from torch.nn.attention import SDPBackend, sdpa_kernel

from genlab.kernel.mask import MaskSpec
from genlab.nn.attention import attention

KINDS = "full,causal,prefix,permuted,window,packed"
ROUND = 30.0  # milliseconds that a side is timed for in one round, at least one step
NEAR = 0.05  # by which results in bfloat16 of standard normal inputs may differ
ROWS = 1024  # counted at a time
OURS = "triton"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
turn = nullcontext
"""Makes the context in which something is timed; another one lets processes take turns."""


def _genlab(backend):
    return lambda q, k, v, mask: lambda: attention(q, k, v, mask, backend=backend)


def _torch(*backends, dense=True):
    """torch's own function: its causal flag, a mask written out where one is needed."""

    def make(q, k, v, mask):
        if mask.kind == "rank_mask" and not dense:
            raise Absent("takes no mask")
        allowed = mask.dense(q.device)[:, None] if mask.kind == "rank_mask" else None
        causal = mask.kind == "causal"

        def step():
            with sdpa_kernel(list(backends)):
                return F.scaled_dot_product_attention(q, k, v, allowed, is_causal=causal)

        return step

    return make


EVERY = (
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
)
SIDES = {
    OURS: _genlab("triton"),
    "flash": _torch(SDPBackend.FLASH_ATTENTION, dense=False),
    "cudnn": _torch(SDPBackend.CUDNN_ATTENTION),
    "sdpa": _torch(*EVERY),
    "flex": _genlab("flex"),
}
"""q, k, v and mask -> a forward pass. sdpa: whichever of its kernels torch takes by itself."""


def measure(kind, length, width, tokens, model, rounds):
    """(a row for each pass with TFLOP/s by side, why sides did not take part).

    tokens: B S; model: H D. Every side is compiled, tuned and warm before the first round; one
    whose results are not those of the last side, the most independent of ours, is not timed.
    """
    torch.manual_seed(0)
    torch._dynamo.reset()  # every length gets a FlexAttention of its own, and none a general one
    mask, batch, heads = MASKS[kind](length), max(1, tokens // length), model // width
    draw = dict(device=DEVICE, dtype=torch.bfloat16)
    q, k, v = (
        torch.randn(batch, heads, length, width, requires_grad=True, **draw) for _ in range(3)
    )
    d_out = torch.randn(batch, heads, length, width, **draw)
    here, running, notes, given = mask.to(DEVICE), {}, [], {}
    for name, make in SIDES.items():
        try:
            step = make(q, k, v, here)
            for _ in range(3):
                out = step()
                grads = torch.autograd.grad(out, (q, k, v), d_out, retain_graph=True)
            given[name] = [t.detach() for t in (out, *grads)]
            ways = {"forward": step, "backward": _backward(out, (q, k, v), d_out)}
            running[name] = {w: (f, _often(f)) for w, f in ways.items()}
        except Absent as e:
            notes.append(f"{name}: {e}")
        except torch.OutOfMemoryError:
            notes.append(f"{name}: out of memory")
        except Exception as e:  # a kernel may fail in any way; the others go on
            notes.append(f"{name}: {type(e).__name__}: {e}".split("\n")[0])
        out = grads = None
        torch.cuda.empty_cache()
    true = next(reversed(running), None)
    for name in [n for n in running if n != true]:
        pairs = zip(given[name], given[true], strict=True)
        apart = [((a - b).abs().max() / b.abs().max()).item() for a, b in pairs]
        if not all(a <= NEAR for a in apart):  # a NaN is not near either
            words = ", ".join(f"{a:.2g}" for a in apart)
            notes.append(f"{name}: differs from {true} by {words} of the largest, not timed")
            del running[name]
    given.clear()
    torch.cuda.empty_cache()
    times = {(name, way): [] for name in running for way in ("forward", "backward")}
    for at in range(rounds):
        names = list(running)
        cut = at % max(1, len(names))
        for name in names[cut:] + names[:cut]:
            for way, (step, often) in running[name].items():
                times[name, way].append(_milliseconds(step, often))
    rows = []
    for way in ("forward", "backward"):
        work = operations(batch, heads, mask, width, way == "backward")
        row = {"mask": kind, "length": length, "width": width, "batch": batch, "heads": heads}
        taken = {name: times[name, way] for name in running}
        rate = {name: work / statistics.median(t) / 1e9 for name, t in taken.items()}
        rows.append(row | {"pass": way, "tflops": rate, "milliseconds": taken})
    return rows, notes


def _backward(out, leaves, d_out):
    return lambda: torch.autograd.grad(out, leaves, d_out, retain_graph=True)


def _often(step):
    """How many steps fill a round."""
    return max(1, min(200, round(ROUND / max(_milliseconds(step, 2), 1e-3))))


def _milliseconds(step, times):
    """Of one step, mean over some."""
    with turn():
        if DEVICE == "cpu":
            begun = time.perf_counter()
            for _ in range(times):
                step()
            return (time.perf_counter() - begun) / times * 1e3
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(times):
            step()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / times


def live(mask):
    """The share of all pairs that see each other; a half for a causal mask, as is the custom."""
    if mask.kind != "rank_mask":
        return 0.5 if mask.kind == "causal" else 1.0
    sides, seen = mask.sides(torch.device("cpu")), 0
    for at in range(0, mask.queries, ROWS):
        q = sides.q[:, :, at : at + ROWS]
        rows = MaskSpec(
            q.shape[2],
            mask.keys,
            rank_q=q[:, 0],
            rank_k=sides.k[:, 0],
            segment_q=q[:, 1],
            segment_k=sides.k[:, 1],
            position_q=q[:, 2],
            position_k=sides.k[:, 2],
            window=mask.window,
        )
        seen += int(rows.dense().sum())
    return seen / (mask.batch * mask.queries * mask.keys)


def operations(batch, heads, mask, width, backward=False):
    """Floating-point operations of the pairs that see each other: two products of them.

    4 B H Sq Sk D times `live`; on the way back two and a half times as many, which is the custom
    and counts the scores that are computed again.
    """
    forward = 4 * batch * heads * mask.queries * mask.keys * width * live(mask)
    return forward * (2.5 if backward else 1)


def row(*cells):
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--masks", default=KINDS, help=f"of {', '.join(MASKS)}")
    parser.add_argument("--lengths", default="512,1024,2048,4096,8192,16384", help="of a sequence")
    parser.add_argument("--widths", default="64,128", help="of a head")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=16384, help="of a batch")
    parser.add_argument("--model", type=int, default=2048, help="heads x width")
    parser.add_argument("--json", type=Path, help="file to write the rows to, with every time")
    args = parser.parse_args()
    kinds = args.masks.split(",")
    if unknown := [kind for kind in kinds if kind not in MASKS]:
        parser.error(f"no mask {', '.join(unknown)}; there are {', '.join(MASKS)}")
    widths, lengths = ([int(n) for n in v.split(",")] for v in (args.widths, args.lengths))
    columns = [
        "mask",
        "D",
        "tokens",
        "pass",
        *(f"{s} TFLOP/s" for s in SIDES),
        "of the best other",
    ]
    row(*columns)
    print("|" + "---|" * len(columns), flush=True)
    rows, notes = [], []
    for kind, width, length in ((k, w, n) for k in kinds for w in widths for n in lengths):
        found, missing = measure(kind, length, width, args.tokens, args.model, args.rounds)
        rows += found
        notes += [f"{kind}, D {width}, {length} tokens: {note}" for note in missing]
        for r in found:
            rate = r["tflops"]
            best = max((x for side, x in rate.items() if side != OURS), default=None)
            ratio = f"{rate[OURS] / best:.2f}" if best and OURS in rate else "-"
            shown = [f"{rate[s]:.0f}" if s in rate else "-" for s in SIDES]
            row(kind, width, length, r["pass"], *shown, ratio)
    print()
    for note in notes:
        print(f"could not take part: {note}")
    name = torch.cuda.get_device_name() if DEVICE == "cuda" else "cpu"
    machine = {"machine": name, "torch": torch.__version__}
    print(machine)
    if args.json:
        args.json.write_text(json.dumps({**machine, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
