"""One small GPT on the bytes of README.md, under every mask: what it learns.

    python scripts/show_masks.py [--steps 300] [--length 48]

Losses are bits a byte of the last fifth of the file, which is never trained on. The file is small:
the numbers say that a mask works, not how well a larger network would do.
"""

import argparse
import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from genlab.config.compose import config_of
from genlab.core import registry
from genlab.core.contract import Spec
from genlab.kernel.mask import MaskSpec
from genlab.nn.position import alibi_slopes

README = Path(__file__).parent.parent / "README.md"
ROWS = 16  # texts of a step
EVERY = 4  # bytes from the end of one held-out text to that of the next


class Bytes:
    """The README, cut in two."""

    def __init__(self, length):
        """length: of a text, in bytes."""
        self.length = length
        self.all = torch.tensor(list(README.read_bytes()))
        self.cut = len(self.all) * 4 // 5

    def train(self, step):
        """[ROWS, length] from random places of the first part."""
        g = torch.Generator().manual_seed(step)
        start = torch.randint(self.cut - self.length + 1, (ROWS, 1), generator=g)
        return self.all[start + torch.arange(self.length)]

    def held_out(self, length):
        """[N, length] texts with the same ends whatever the length, and all of `self.length`
        bytes before those ends in the second part."""
        ends = torch.arange(self.cut + self.length, len(self.all) + 1, EVERY)[:, None]
        return self.all[ends - length + torch.arange(length)]

    def by_frequency(self):
        """Held-out bits a byte by the frequency of each byte alone."""
        counts = self.all[: self.cut].bincount(minlength=256) + 1.0
        return -(counts / counts.sum()).log2()[self.all[self.cut :]].mean().item()


def gpt(tokens, **keys):
    """network=gpt, small, for texts of `tokens` bytes, from the same start every time."""
    torch.manual_seed(0)
    node = config_of("network", "gpt").net
    small = {"width": 64, "depth": 3, "head_width": 16, "dropout": 0.1}
    return registry.build("network", {**node, **small, **keys}, spec=Spec((tokens,), None, 256))


# --- what is predicted under which mask ----------------------------------------------------------


def shown(kind, rows, length, seed):
    """(mask, bool [rows, length] of the bytes to predict)."""
    g = torch.Generator().manual_seed(2**20 + seed)
    at = torch.arange(length).expand(rows, -1)
    if kind == "permuted":
        order = torch.rand(rows, length, generator=g).argsort(1)
        return MaskSpec.permuted(order, order >= length // 2, stream="both"), order >= length // 2
    if kind == "bidirectional":
        predicted = torch.rand(rows, length, generator=g) < 0.3
        return MaskSpec.bidirectional(length), predicted & (at > 0)
    seen = {"causal": 1, "prefix": length // 2}[kind]
    return MaskSpec.prefix(seen, length), at >= seen


def bits(net, kind, x, seed, last=None, adapt=lambda mask: mask):
    """Mean bits of each byte to predict; last: of the last so many bytes of a text alone."""
    mask, predicted = shown(kind, *x.shape, seed)
    given = x.masked_fill(predicted, net.mask_token) if kind == "bidirectional" else x
    logits = net(given, adapt(mask))
    if kind != "permuted":  # there the logits at a place are of the byte after it
        logits, x, predicted = logits[:, :-1], x[:, 1:], predicted[:, 1:]
    if last:
        logits, x, predicted = (t[:, -last:] for t in (logits, x, predicted))
    nats = F.cross_entropy(logits.flatten(0, 1), x.flatten(), reduction="none")
    return (nats * predicted.flatten()).sum() / predicted.sum() / math.log(2)


def train(net, kind, data, steps, start=0, adapt=lambda mask: mask):
    """`steps` of AdamW from the rate 2e-3 down to 0; draws of data go on from step `start`."""
    net.train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.1)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min((step + 1) / 20, 1 - step / steps)
        optimizer.zero_grad()
        bits(net, kind, data.train(start + step), start + step, adapt=adapt).backward()
        optimizer.step()
    return net.eval()


@torch.no_grad()
def held_out_bits(net, kind, data, length=None, last=None, adapt=lambda mask: mask):
    """Held-out bits."""
    x = data.held_out(length or data.length)
    net.eval()
    return bits(net, kind, x, -1, last, adapt).item()


# --- the three questions -------------------------------------------------------------------------


def table(title, head, rows):
    """Prints a table whose first column is words and whose others are numbers of bits."""
    print(f"\n{title}\n")
    wide = max(len(str(r[0])) for r in rows) + 2
    print(" " * wide + "".join(f"{h:>16}" for h in head))
    for name, *values in rows:
        cells = (v if isinstance(v, str) else f"{v:.2f}" for v in values)
        print(f"{name:<{wide}}" + "".join(f"{c:>16}" for c in cells))


def under_every_mask(data, steps):
    rows = []
    for kind in ("causal", "prefix", "permuted"):
        net = gpt(data.length)
        before = held_out_bits(net, kind, data)
        rows.append((kind, before, held_out_bits(train(net, kind, data, steps), kind, data)))
    table(
        "The same starting weights under three masks: held-out bits a byte to predict "
        f"(by frequency alone: {data.by_frequency():.2f})",
        ("untrained", f"{steps} steps"),
        rows,
    )


def from_bidirectional_to_prefix(data, steps):
    first, then = steps, steps // 3
    known = train(gpt(data.length), "bidirectional", data, first)
    at_once = held_out_bits(known, "prefix", data)
    moved = held_out_bits(train(known, "prefix", data, then, first), "prefix", data)
    fresh = {
        n: held_out_bits(train(gpt(data.length), "prefix", data, n), "prefix", data)
        for n in (then, first + then)
    }
    table(
        "Only the mask is switched: held-out bits a byte of the second half, given the first",
        ("masked steps", "prefix steps", "bits"),
        [
            ("bidirectional alone", str(first), "0", at_once),
            ("bidirectional, then prefix", str(first), str(then), moved),
            ("prefix, equal prefix steps", "0", str(then), fresh[then]),
            ("prefix, equal steps in all", "0", str(first + then), fresh[first + then]),
        ],
    )


def further_than_trained(data, steps):
    length, last = data.length, data.length // 2
    slopes = alibi_slopes(4)
    sees = {
        "ALiBi": lambda mask: mask.sloped(slopes),
        "window": lambda mask: mask.within(last, 0),
    }
    same = lambda mask: mask  # noqa: E731
    trained = {
        "learned": {"position": "learned"},
        "sincos": {"position": "sincos"},
        "rope": {},
        "none": {"position": "none"},
        "ALiBi": {"position": "none"},
        "window": {},
    }
    rows, rope = [], {}
    for name, keys in trained.items():
        adapt = sees.get(name, same)
        net = gpt(4 * length if name == "learned" else length, **keys)
        train(net, "causal", data, steps, adapt=adapt)
        if name == "rope":
            rope = net.state_dict()
        values = [held_out_bits(net, "causal", data, k * length, last, adapt) for k in (1, 2, 4)]
        rows.append((name + (f" of {last}, rope" if name == "window" else ""), *values))
    changed = {
        "rope, interpolated": {"stretch": "interpolate"},
        "rope, NTK": {"stretch": "ntk"},
        "rope, NTK-mixed": {"stretch": "mixed"},
        f"rope, ReRoPE of {last}": {"reach": last},
        "rope, LogN": {"logn": True},
        "rope, ReRoPE and LogN": {"reach": last, "logn": True},
    }
    for name, keys in changed.items():
        values = []
        for k in (1, 2, 4):
            net = gpt(length, **keys, **({"factor": k} if "stretch" in keys else {}))
            net.load_state_dict(rope)
            values.append(held_out_bits(net, "causal", data, k * length, last))
        rows.append((name, *values))
    table(
        f"Trained on texts of {length} bytes, read further: held-out bits of the same last {last} "
        "bytes\n(`rope, ...`: the weights of rope, changed when they are used)",
        (f"{length}", f"{2 * length}", f"{4 * length}"),
        rows,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=300, help="of each training")
    parser.add_argument("--length", type=int, default=48, help="bytes of a text")
    parser.add_argument("--threads", type=int, default=1, help="more are slower on a busy machine")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.steps < 3 or args.length < 8:
        parser.error("--steps is 3 at least, --length 8")
    data = Bytes(args.length)
    small = sum(p.numel() for p in gpt(args.length).parameters())
    print(f"{len(data.all)} bytes, {len(data.all) - data.cut} held out; {small:,} parameters")
    for part in (under_every_mask, from_bidirectional_to_prefix, further_than_trained):
        start = time.perf_counter()
        part(data, args.steps)
        print(f"\n{time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
