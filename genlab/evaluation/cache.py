"""Parts of samples and features, kept on disk: each is computed once, by one rank.

A part is a file of tensors under a name that tells all it depends on. Who starts again finds the
parts that are done; ranks share them out by their number, which changes no result. The features of
a set of images are computed once for given bytes and a given network.
"""

from __future__ import annotations

import hashlib
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

from genlab.core import dist
from genlab.core.metric import Features
from genlab.core.signals import check_stop
from genlab.run.files import disk

__all__ = ["ShardedCache", "digest", "extract_features", "feature_cache", "ranges"]

PART = 256  # images of one file
BLOCKS = {"cpu": 8, "cuda": 64}  # images a network sees at once


def feature_cache(
    what: str, features: Features, images: Tensor, device: torch.device, folder: Path
) -> ShardedCache:
    """Features of images [n, *S] in parts that are named by network and contents.

    So they are found again whatever set, order of metrics or run they were computed for.
    """
    parts = ranges(len(images), PART)
    more = [name for name in features.outputs if name != "pool"]  # weights may come without
    place = folder / "-".join([features.digest, *more])
    names: dict[int, str] = {}

    def path(k: int) -> Path:
        if k not in names:
            names[k] = digest(images[parts[k].start : parts[k].stop])
        return place / names[k][:2] / f"{names[k]}.safetensors"

    def make(k: int) -> dict[str, Tensor]:
        return extract_features(features, images[parts[k].start : parts[k].stop], device)

    return ShardedCache(what, parts, path, make)


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


def digest(images: Tensor) -> str:
    """SHA-256 of shape, type and contents."""
    text = hashlib.sha256(f"{images.dtype} {list(images.shape[1:])} ".encode())
    text.update(images.contiguous().numpy().tobytes())
    return text.hexdigest()


def ranges(n: int, size: int) -> list[range]:
    """0 to n in parts of `size`, the last one shorter."""
    return [range(start, min(n, start + size)) for start in range(0, n, size)]


@dataclass
class ShardedCache:
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
        check_stop()
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
