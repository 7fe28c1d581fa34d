"""Vectors and the rows of a codebook: what a quantizer is, nearest code, sums, k-means.

Shape legend: T vectors (tokens) of d numbers, K codes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from genlab.core.contract import Network, Noise
from genlab.nn.full_precision import full_precision

__all__ = [
    "Quantized",
    "Quantizer",
    "codebook_usage",
    "kmeans",
    "nearest",
    "straight_through",
    "sums",
]

CPU_BLOCK = 2**18  # scores held at once: 1 MiB, which stays in the cache of a core; times the
# square of the threads, since each block makes all of them meet several times
MOST = 2**22  # of them, however many threads
GPU_BLOCK = 2**24
NARROW = 256  # codes from which the search for the largest score pays two levels


class Quantized(NamedTuple):
    """What a quantizer makes of z [B, d, h, w]."""

    z: Tensor  # [B, d, h, w] the codes, with a gradient for z
    indices: Tensor  # [B, h, w] int64
    losses: Mapping[str, Tensor]  # [] each, weighted: to be added to the loss
    stats: Mapping[str, Tensor]  # [] each, detached: to be logged


class Quantizer(Network):
    """A network that replaces vectors by codes; of one that learns nothing `forward` and `codes`.

    Its forward moves no state, so that held-out losses and recomputation leave it alone.
    size: K codes. bits: log2 K. code_width: d.
    """

    size: int
    bits: float
    code_width: int

    def forward(self, z: Tensor) -> Quantized:
        """z [B, d, h, w] -> codes, their indices, losses and facts."""
        raise NotImplementedError

    def codes(self, indices: Tensor) -> Tensor:
        """indices [B, h, w] -> [B, d, h, w]."""
        raise NotImplementedError

    def start(self, batches: Iterator[tuple[Tensor, Noise]]) -> None:
        """A look at the first z and their noise, as in `Model.start`."""

    def collect(self, z: Tensor, indices: Tensor, noise: Noise) -> None:
        """Once a micro-batch in training: keeps what `commit` needs of it."""

    def commit(self) -> None:
        """Once a step, after all micro-batches: moves the codebook, the same on every rank."""


@torch.no_grad()
def nearest(z: Tensor, codes: Tensor) -> Tensor:
    """z [T, d], codes [K, d] -> int64 [T], the code at the smallest Euclidean distance of each.

    argmin_k |z - e_k|^2 = argmax_k (z . e_k - |e_k|^2 / 2)

    Products and sums are fp32, whatever autocast says; of codes whose distances differ by less
    than their rounding either may win. Scores exist for a block of vectors at a time, so memory
    does not grow with T K, and nothing is copied to the host.
    """
    device = z.device.type
    with full_precision(z.device):  # TF32 would hide the distance of neighbouring codes
        z, codes = z.float(), codes.float()
        (t, d), k = z.shape, len(codes)
        # The argmax of torch reads one number at a time on a CPU, amax a vector register: so the
        # scores are seen as a table [rows, columns], and only the best column is looked through.
        columns = _columns(k) if device == "cpu" and k >= NARROW else 1
        spare = -k % columns
        bias = codes.square().sum(1).mul_(-0.5)
        if spare:
            codes = torch.cat([codes, codes.new_zeros(spare, d)])
            bias = torch.cat([bias, bias.new_full((spare,), -torch.inf)])
        block = max(1, _held(device) // (k + spare))
        found = torch.empty(t, dtype=torch.int64, device=z.device)
        scores = z.new_empty(min(block, t), k + spare)
        flipped = codes.t()
        for start in range(0, t, block):
            part = z[start : start + block]
            out = scores[: len(part)]
            torch.addmm(bias, part, flipped, out=out)
            _largest(out, columns, found[start : start + block])
        # A vector that is not finite has no nearest code; it gets one that exists all the same.
        return found.clamp_(max=k - 1) if spare else found


def _held(device: str) -> int:
    if device != "cpu":
        return GPU_BLOCK
    return min(MOST, CPU_BLOCK * torch.get_num_threads() ** 2)


def _columns(k: int) -> int:
    """About sqrt(k), which leaves least to look through; amax is fast on rows of 32s."""
    return max(32, round(k**0.5 / 32) * 32)


def _largest(scores: Tensor, columns: int, out: Tensor) -> None:
    """scores [n, K] -> out [n], the index of the largest of each row."""
    if columns == 1:
        torch.argmax(scores, 1, out=out)
        return
    table = scores.view(len(scores), -1, columns)
    column = table.amax(1).argmax(1)
    inside = table.gather(2, column.view(-1, 1, 1).expand(-1, table.shape[1], 1)).squeeze(2)
    torch.add(column, inside.argmax(1), alpha=columns, out=out)


def codebook_usage(count: Tensor) -> tuple[Tensor, Tensor]:
    """How often each of K codes was chosen [K] -> (share of codes chosen at all, perplexity) [].

    The perplexity is exp of the entropy in nats, from 1 to K.
    """
    share = count / count.sum()
    return (count > 0).float().mean(), torch.special.entr(share).sum().exp()


@torch.no_grad()
def sums(z: Tensor, index: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """z [T, d], index [T] < k -> (vectors of each code [k], their sum [k, d]), float32."""
    z = z.float()
    count = z.new_zeros(k).index_add_(0, index, z.new_ones(len(index)))
    return count, z.new_zeros(k, z.shape[1]).index_add_(0, index, z)


@torch.no_grad()
def kmeans(z: Tensor, centres: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Lloyd's iterations from given centres [K, d]: (centres [K, d], vectors of each [K]).

    z [T, d]. A centre that no vector is nearest to stays where it is.

    Reference: Lloyd, "Least Squares Quantization in PCM", IEEE Transactions on Information Theory
    1982.
    """
    z = z.float()
    for _ in range(iterations):
        count, total = sums(z, nearest(z, centres), len(centres))
        centres = torch.where(count[:, None] > 0, total / count.clamp(min=1)[:, None], centres)
    count, _ = sums(z, nearest(z, centres), len(centres))
    return centres, count


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, q: Tensor) -> Tensor:
        return q.view_as(q)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


def straight_through(z: Tensor, q: Tensor) -> Tensor:
    """q, with the gradient of z: dq/dz = I, and q gets none.

    Unlike z + stop(q - z) it is q to the last bit, so that what was decoded in training is what
    the indices alone give.

    Reference: Bengio, Leonard, Courville 2013, arXiv 1308.3432.
    """
    out: Tensor = _StraightThrough.apply(z, q)  # type: ignore[no-untyped-call]
    return out
