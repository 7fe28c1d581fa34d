"""Random numbers as a function of seed, position and call: no state to save for a resume.

A seed is the 64-bit hash of a few integers (run seed, position or index, number of the call).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["DrawNoise", "SampleNoise", "hash64"]

SAMPLE = 6  # keeps the noise of samples apart from that of training
_MASK = (1 << 64) - 1


def hash64(*keys: int) -> int:
    """63-bit hash of integers, the same on every machine.

    A polynomial in a random odd 64-bit number tells sequences apart, the finalizer of splitmix64
    spreads their bits; two microseconds matter here, since every step hashes several times.
    """
    h = len(keys)
    for key in keys:
        h = h * 0x9E6C63D0876A9A47 + key & _MASK
    h = (h ^ (h >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    h = (h ^ (h >> 27)) * 0x94D049BB133111EB & _MASK
    return (h ^ (h >> 31)) >> 1


class DrawNoise:
    """Noise of one micro-batch: rows of a draw made for the whole global batch.

    Drawing for everybody and keeping one's own rows makes the numbers of a sample independent of
    rank and micro-batch. Micro-batches of one rank share the draws through `shared`, so that
    accumulation does not draw them again.
    """

    def __init__(
        self,
        seed: int,
        start: int,
        total: int,
        rows: slice,
        generator: torch.Generator,
        shared: dict[object, Tensor] | None,
    ) -> None:
        """start: stream position of the global batch of `total` draws; rows: ours within it."""
        self.n = rows.stop - rows.start
        self._seed, self._start, self._total, self._rows = seed, start, total, rows
        self._generator, self._shared = generator, shared
        self._whole = self.n == total
        self._calls = 0

    def normal(self, *shape: int) -> Tensor:
        """[n, *shape] float32 standard normal."""
        return self._draw(torch.randn, shape)

    def uniform(self, *shape: int) -> Tensor:
        """[n, *shape] float32 uniform on [0, 1)."""
        return self._draw(torch.rand, shape)

    def whole(self) -> DrawNoise:
        """The noise of the whole global batch, at the call where this one is."""
        every = slice(0, self._total)
        out = DrawNoise(self._seed, self._start, self._total, every, self._generator, self._shared)
        out._calls = self._calls
        return out

    def _draw(self, kind, shape: tuple[int, ...]) -> Tensor:  # noqa: ANN001 - torch.rand or randn
        call, self._calls = self._calls, self._calls + 1
        key = (self._start, call, kind, shape)
        whole = None if self._shared is None else self._shared.get(key)
        if whole is None:
            g = self._generator
            g.manual_seed(hash64(self._seed, self._start, call))
            whole = kind((self._total, *shape), generator=g, device=g.device)
            if self._shared is not None:
                self._shared[key] = whole
        return whole if self._whole else whole[self._rows]


class SampleNoise:
    """Noise of a chunk of samples: one generator per sample, seeded by (seed, its index).

    Drawn on the CPU and moved, so image i depends on neither chunk size nor device. The CPU's
    generator takes 32 bits of a seed; an odd step through them gives no two samples the same.
    """

    def __init__(self, seed: int, indices: Sequence[int], device: torch.device | str) -> None:
        self.n = len(indices)
        self._device = device
        base = hash64(seed, SAMPLE)
        self._generators = [
            torch.Generator().manual_seed((base + i * 0x9E3779B1) % 2**32) for i in indices
        ]

    def normal(self, *shape: int) -> Tensor:
        """[n, *shape] float32 standard normal."""
        return self._draw(torch.randn, shape)

    def uniform(self, *shape: int) -> Tensor:
        """[n, *shape] float32 uniform on [0, 1)."""
        return self._draw(torch.rand, shape)

    def _draw(self, kind, shape: tuple[int, ...]) -> Tensor:  # noqa: ANN001 - torch.rand or randn
        rows = [kind(shape, generator=g) for g in self._generators]
        return torch.stack(rows).to(self._device)
