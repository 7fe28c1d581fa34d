"""Attention on a GPU: the backends of genlab beside torch's, in turn, in TFLOP/s."""

import statistics

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from attending import cases
from genlab.nn.attention import attention

__all__ = ["OURS", "SIDES", "TARGETS", "judged", "measure"]

ROUND = 30.0  # milliseconds that a side is timed for in one round, at least one step
NEAR = 0.05  # by which results in bfloat16 of standard normal inputs may differ
LONG = 4096  # tokens from which a target counts

OURS = "triton"


class Absent(Exception):
    """A side that cannot take part, with the reason in words."""


def _genlab(backend):
    return lambda q, k, v, mask: lambda: attention(q, k, v, mask, backend=backend)


def _torch(*backends, dense=True):
    """torch's own function: its causal flag, a mask written out where one is needed."""

    def make(q, k, v, mask):
        if mask.kind == "ranks" and not dense:
            raise Absent("takes no mask")
        allowed = mask.dense(q.device)[:, None] if mask.kind == "ranks" else None
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

TARGETS = [
    # name, width, mask, pass, least TFLOP/s, least part of our full, least part of the best other
    ("forward, D 64", 64, "full", "forward", 350, None, None),
    ("forward, D 128", 128, "full", "forward", 400, None, None),
    ("backward, D 64", 64, "full", "backward", 220, None, None),
    ("backward, D 128", 128, "full", "backward", 220, None, None),
]
for _width in (64, 128):
    for _way in ("forward", "backward"):
        TARGETS += [
            (f"causal {_way}, D {_width}", _width, "causal", _way, None, 0.8, None),
            (f"prefix {_way}, D {_width}", _width, "prefix", _way, None, None, 1.2),
            (f"packed {_way}, D {_width}", _width, "packed", _way, None, None, 1.2),
            (f"permuted {_way}, D {_width}", _width, "permuted", _way, None, None, None),
        ]


def measure(kind, length, width, tokens, model, rounds):
    """(a row for each pass with TFLOP/s by side, why sides did not take part).

    tokens: B S; model: H D. Every side is compiled, tuned and warm before the first round; one
    whose results are not those of the last side, the most independent of ours, is not timed.
    """
    torch.manual_seed(0)
    torch._dynamo.reset()  # every length gets a FlexAttention of its own, and none a general one
    mask, batch, heads = cases.mask(kind, length), max(1, tokens // length), model // width
    draw = dict(device="cuda", dtype=torch.bfloat16)
    q, k, v = (
        torch.randn(batch, heads, length, width, requires_grad=True, **draw) for _ in range(3)
    )
    d_out = torch.randn(batch, heads, length, width, **draw)
    here, running, notes, given = mask.to("cuda"), {}, [], {}
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
    for turn in range(rounds):
        names = list(running)
        cut = turn % max(1, len(names))
        for name in names[cut:] + names[:cut]:
            for way, (step, often) in running[name].items():
                times[name, way].append(_milliseconds(step, often))
    rows = []
    for way in ("forward", "backward"):
        work = cases.operations(batch, heads, mask, width, way == "backward")
        row = {"mask": kind, "length": length, "width": width, "batch": batch, "heads": heads}
        taken = {name: times[name, way] for name in running}
        rate = {name: work / statistics.median(t) / 1e9 for name, t in taken.items()}
        rows.append(row | {"pass": way, "tflops": rate, "milliseconds": taken})
    return rows, notes


def judged(rows):
    """The rows of the targets: of the lengths that count, the one where ours is least.

    Each (name, length, target in words, best other side, its TFLOP/s, ours, ratio to it, met).
    """
    found = []
    for name, width, kind, way, least, of_full, of_best in TARGETS:
        fit = [r for r in rows if (r["width"], r["pass"]) == (width, way) and OURS in r["tflops"]]
        full = {r["length"]: r["tflops"][OURS] for r in fit if r["mask"] == "full"}
        fit = [r for r in fit if r["mask"] == kind and r["length"] >= LONG]
        fit = [r for r in fit if of_full is None or r["length"] in full]
        verdicts = [_verdict(r, full, least, of_full, of_best) for r in fit]
        if verdicts:
            found.append((name, *min(verdicts, key=lambda verdict: verdict[0])[1:]))
    return found


def _verdict(row, full, least, of_full, of_best):
    """What `judged` gives of one row, behind how much of the target it reaches."""
    rates = row["tflops"]
    ours, others = rates[OURS], {n: rate for n, rate in rates.items() if n != OURS}
    best = max(others, key=others.get, default="none")
    theirs = others.get(best)
    ratio = ours / theirs if theirs else None
    part, words = None, "reported"
    if least is not None:
        part, words = ours / least, f">= {least} TFLOP/s"
    elif of_full is not None:
        part = ours / (of_full * full[row["length"]])
        words = f">= {of_full:.0%} of full's {full[row['length']]:.0f}"
    elif of_best is not None:
        part, words = ratio / of_best if ratio else None, f">= {of_best} x the best other"
    met = None if part is None else part >= 1
    reach = ours if part is None else part
    return reach, row["length"], words, best, theirs, ours, ratio, met


def _backward(out, leaves, d_out):
    return lambda: torch.autograd.grad(out, leaves, d_out, retain_graph=True)


def _often(step):
    """How many steps fill a round."""
    return max(1, min(200, round(ROUND / max(_milliseconds(step, 2), 1e-3))))


def _milliseconds(step, times):
    """Of one step, mean over some."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(times):
        step()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / times
