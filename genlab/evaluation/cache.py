"""A cache on disk of samples and features, in parts: each is computed once, by one rank.

A part is a file of tensors whose name holds all that it depends on, so an evaluation that was
stopped goes on. Rank r of w computes the parts r, r + w, ..., which changes no result. Features of
given bytes by a given network are computed once.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from genlab.core import dist
from genlab.core.console import log, progress
from genlab.core.digest import tensor_digest
from genlab.core.files import disk
from genlab.core.format import count, duration
from genlab.core.metric import Features
from genlab.core.signals import check_stop

__all__ = ["ShardedCache", "extract_features", "feature_cache", "ranges"]

PART = 256  # images of one file
BLOCKS = {"cpu": 8, "cuda": 64}  # images a network sees at once
LONG = 30.0  # seconds from which is said how long a stream will take


def feature_cache(
    what: str, features: Features, images: Tensor, device: torch.device, folder: Path
) -> ShardedCache:
    """Features of images [n, *S] in parts that are named by network and contents.

    So they are found again whatever set, order of metrics or run they were computed for. what: in
    words, for a progress bar.
    """
    parts = ranges(len(images), PART)
    more = [name for name in features.outputs if name != "pool"]  # weights may come without
    folder = folder / "-".join([features.digest, *more])
    names: dict[int, str] = {}

    def path(k: int) -> Path:
        if k not in names:
            names[k] = tensor_digest(images[parts[k].start : parts[k].stop])
        return folder / names[k][:2] / f"{names[k]}.safetensors"

    def tensors(k: int) -> dict[str, Tensor]:
        return extract_features(features, images[parts[k].start : parts[k].stop], device)

    return ShardedCache(what, parts, path, tensors)


def extract_features(
    features: Features, images: Tensor, device: torch.device
) -> dict[str, Tensor]:
    """Output -> [n, D] on the CPU, by a network that always sees blocks of one size.

    A convolution may add in another order for another number of images; in blocks filled up with
    zeros the features of an image depend on neither its company nor on how many are asked for.
    """
    size = BLOCKS.get(device.type, BLOCKS["cuda"])
    found: list[dict[str, Tensor]] = []
    for part in images.split(size):
        block = images.new_zeros(size, *images.shape[1:])
        block[: len(part)] = part
        out = features(block.to(device))
        found.append({name: t[: len(part)].float().cpu() for name, t in out.items()})
    return {name: torch.cat([f[name] for f in found]) for name in found[0]}


def ranges(n: int, size: int) -> list[range]:
    """0 to n in parts of `size`, the last one shorter."""
    return [range(start, min(n, start + size)) for start in range(0, n, size)]


@dataclass
class ShardedCache:
    """A stream of rows, in parts.

    what: in words, for a progress bar. parts: rows of each. path: of the file of part k. tensors:
    computes part k, name -> [rows, ...] on the CPU.
    """

    what: str
    parts: Sequence[range]
    path: Callable[[int], Path]
    tensors: Callable[[int], Mapping[str, Tensor]]

    def missing(self) -> list[int]:
        """The parts of this rank that are not there."""
        mine = range(dist.rank(), len(self.parts), dist.world())
        return [k for k in mine if not self.path(k).is_file()]

    def compute(self, k: int) -> float:
        """Computes part k and writes it; seconds it took."""
        check_stop()
        start = time.perf_counter()
        tensors = {name: t.contiguous() for name, t in self.tensors(k).items()}
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

    def load(self, quiet: bool = False) -> dict[str, Tensor]:
        """All rows in order, on every rank; what is missing is computed first.

        quiet: whether it shows no progress, nor how long it will take once one part is there.
        """
        missing = self.missing()
        left = sum(len(self.parts[k]) for k in missing)
        # a training has a display of its own
        with nullcontext(None) if quiet else progress(self.what, left) as advance:
            for k in missing:
                rows = len(self.parts[k])
                seconds = self.compute(k) * (left := left - rows) / rows
                if advance is None:
                    continue
                advance(rows)
                if k == missing[0] and seconds > LONG and dist.rank() == 0:
                    log(f"{count(left)} {self.what} will take about {duration(seconds)}")
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
                self.compute(k)
                yield load_file(self.path(k))
