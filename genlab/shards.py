"""Work on many images in parts: each is done by one rank, once, and kept on disk.

A part is a file of tensors under a name that tells all it depends on. Who starts again finds the
parts that are done; ranks share them out by their number, which changes no result.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from genlab import dist
from genlab.run.files import disk
from genlab.signals import heed

__all__ = ["Shards", "ranges"]


def ranges(n: int, size: int) -> list[range]:
    """0 to n in parts of `size`, the last one shorter."""
    return [range(start, min(n, start + size)) for start in range(0, n, size)]


@dataclass
class Shards:
    """A stream in parts.

    what: in words, for a person. parts: which rows each holds. path: where part k lies. make: the
    tensors of part k, rows first, on the CPU.
    """

    what: str
    parts: Sequence[range]
    path: Callable[[int], Path]
    make: Callable[[int], Mapping[str, Tensor]]

    def missing(self) -> list[int]:
        """The parts of this rank that nobody has done yet."""
        mine = range(dist.rank(), len(self.parts), dist.world())
        return [k for k in mine if not self.path(k).is_file()]

    def do(self, k: int) -> float:
        """Does part k and keeps it; seconds it took."""
        heed()
        start = time.perf_counter()
        tensors = {name: t.contiguous() for name, t in self.make(k).items()}
        path = self.path(k)
        with disk("write", path):
            path.parent.mkdir(parents=True, exist_ok=True)
            beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
            try:
                save_file(tensors, beside)
                os.replace(beside, path)
            finally:
                beside.unlink(missing_ok=True)
        return time.perf_counter() - start

    def all(self, done: Callable[[int], None] = lambda images: None) -> dict[str, Tensor]:
        """Every part in order, on every rank; what is missing is done first.

        done: called with the rows of each part that this rank does.
        """
        for k in self.missing():
            self.do(k)
            done(len(self.parts[k]))
        dist.barrier()
        read = list(self._read())
        return {name: torch.cat([part[name] for part in read]) for name in read[0]}

    def _read(self) -> Iterator[dict[str, Tensor]]:
        for k in range(len(self.parts)):
            try:
                yield load_file(self.path(k))
            except (SafetensorError, OSError):  # cut off, or deleted meanwhile
                with suppress(OSError):
                    self.path(k).unlink()
                self.do(k)
                yield load_file(self.path(k))
