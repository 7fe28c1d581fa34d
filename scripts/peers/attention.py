"""Attention on a CPU under masks: blocks of queries, a mask written out, products written out."""

import math
from functools import partial
from importlib import import_module

import torch

from genlab.kernel.backend import Arguments
from genlab.kernel.mask import MaskSpec
from peers.compare import Absent, Side, Target, Work

__all__ = ["MASKS", "TARGETS"]

HEADS, WIDTH, LENGTHS = 2, 64, (1024, 2048, 4096, 8192, 16384)
MATRICES = 7  # of all scores that kernel.math holds at most, with gradients
SPARE = 0.6  # of the memory that is free, what a side may take


def _permuted(length: int) -> MaskSpec:
    return MaskSpec.permuted(torch.randperm(length, generator=torch.Generator().manual_seed(0)))


def _padded(length: int) -> MaskSpec:
    return MaskSpec.causal(length).padded(torch.arange(length) < length * 7 // 8)


MASKS = {
    "full": MaskSpec.bidirectional,
    "causal": MaskSpec.causal,
    "prefix": lambda n: MaskSpec.prefix(n // 4, n),
    "permuted": _permuted,
    "window": lambda n: MaskSpec.sliding_window(n, left=256),
    "packed": lambda n: MaskSpec.packed([n // 2, n // 4, n // 8, n // 8], causal=True),
    "padded": _padded,
}
"""Length -> mask. prefix: the first quarter; packed: causal sequences of a half, a quarter and
twice an eighth; padded: causal, and the last eighth of the keys is not there."""


def work(backend: str, mask: str, length: int, backward: bool) -> Work:
    """One call of a module of genlab.kernel in fp32; with gradients of q, k and v or without."""
    need = MATRICES * HEADS * length**2 * 4
    if backend == "math" and need > SPARE * _free():
        raise Absent(f"would need about {need / 1e9:.0f} GB")
    attend = import_module(f"genlab.kernel.{backend}").attend
    args = Arguments(MASKS[mask](length), 1 / math.sqrt(WIDTH))
    # what torch loads at a first call is not counted
    small = torch.randn(1, 1, 1, WIDTH, requires_grad=True)
    attend(small, small, small, Arguments(MASKS["full"](1), 1.0))[0].sum().backward()
    *inputs, d_out = torch.randn(4, 1, HEADS, length, WIDTH).unbind()

    def forward() -> None:
        with torch.no_grad():
            attend(*inputs, args)

    def both() -> None:
        leaves = [t.detach().requires_grad_() for t in inputs]
        torch.autograd.grad(attend(*leaves, args)[0], leaves, d_out)

    return Work(both if backward else forward, 1, "fp32")


def _free() -> int:
    """Bytes that a process can take without another losing any."""
    with open("/proc/meminfo") as f:
        found = dict(line.split(":") for line in f)
    return int(found["MemAvailable"].split()[0]) * 1024


def _target(mask: str, length: int, backward: bool) -> Target:
    def side(name: str, backend: str) -> Side:
        return Side(name, partial(work, backend, mask, length, backward), package="torch")

    way = "both" if backward else "forward"
    return Target(
        f"attention-{mask}-{length}-{way}",
        "s",
        f"{length:,} tokens, {HEADS} heads of {WIDTH}, {way}",
        side("blocks of queries", "chunked"),
        (side("a mask written out", "sdpa"), side("products written out", "math")),
    )


TARGETS = tuple(
    _target(mask, length, backward)
    for mask in ("permuted", "padded", "window")
    for length in LENGTHS
    for backward in (False, True)
)
