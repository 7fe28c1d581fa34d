"""Image files as one memory-mapped array: decoded at the first start, free at every other."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from genlab.core.console import log, progress
from genlab.core.contract import Spec, Split
from genlab.core.errors import DataError
from genlab.data.cache import Cache, Cached, Rows
from genlab.data.image import Corrupt, ImageTransform, no_pillow_warnings
from genlab.data.images import Images
from genlab.data.source import ImageSource, fingerprint

__all__ = ["DecodedImages", "channels_first", "last_tenth"]

BLOCK = 256  # images decoded before they are written
LOOK = 5000  # images that are looked at where none is kept
CAP = 0.01  # share of corrupt images that may be skipped

Row = tuple[np.ndarray | None, set[str], str]  # pixels, what was done, why there are none


class DecodedImages(Images):
    """A data set of image files, of which those to train on come first.

    corrupt: whether a corrupt image is an error, or up to 1 % of them are skipped. Subclasses call
    `decode` in their constructor, and override `labels` where there are some.
    """

    indifferent = (*Images.indifferent, "corrupt")

    def __init__(self, *, corrupt: Literal["error", "skip"], **images: Any) -> None:
        super().__init__(**images)
        self.skip = corrupt == "skip"

    def decode(
        self,
        images: ImageSource,
        train: Sequence[str],
        test: Sequence[str],
        transform: ImageTransform,
        *,
        spec: Spec,
        kind: str,
        variant: str,
        folder: Path,
        remarks: Sequence[str] = (),
    ) -> None:
        """Makes `spec`, `count` and `notes`, now; the images are decoded when they are loaded.

        train, test: names of the splits. transform: from a file to an array. kind, variant: name
        of the cache; folder: which it lies in. remarks: sentences to say and record when the
        images are decoded.
        """
        self.source, self.transform, self.remarks = images, transform, remarks
        self.path, self.spec = images.path, spec
        self.splits = {"train": list(train), "test": list(test)}
        self.count, self.held_out, self.notes = len(train), len(test), {}
        channels, height, width = spec.shape
        self.shape = (height, width, channels)
        key = f"{fingerprint(images, [*train, *test])} {spec.shape} {len(train)} {self.skip}"
        self._cache = Cache(folder, kind, variant, key)
        self._take(self._cache.find())

    def labels(self, names: Sequence[str]) -> Tensor | None:
        """[n] int64 of n images; None where there are none."""
        return None

    def load(self, split: str) -> Split:
        """split "train" or "test" -> uint8 [N, C, H, W] in channels_last, and labels."""
        if self._cached is None:
            most = sum(map(len, self.splits.values())) * math.prod(self.shape)
            self._take(self._cache.make(most, self._write))
        rows = {"train": slice(None, self.count), "test": slice(self.count, None)}[split]
        return Split(channels_first(self._cached.images[rows]), self.labels(self.splits[split]))

    def check(self) -> None:
        """Decodes the first images and keeps none; those that were decoded before are right."""
        if self._cached is None:
            names = [*self.splits["train"], *self.splits["test"]]
            skipped: dict[str, str] = {}
            looked = names if len(names) <= LOOK else names[:: math.ceil(len(names) / LOOK)]
            for _ in self._decoded(looked, len(names), skipped, Counter()):
                pass
            if skipped:
                log(f"{len(skipped):,} corrupt images, which are left out: {_few(skipped)}")

    def digest(self, train: Split) -> str:
        """Of both splits, since they were decoded."""
        assert self._cached is not None
        return self._cache.digest(self._cached)

    def _take(self, cached: Cached | None) -> None:
        self._cached = cached
        if cached is None:
            return
        self.notes = cached.notes
        if skipped := set(self.notes.get("skipped", ())):
            self.splits = {
                s: [n for n in names if n not in skipped] for s, names in self.splits.items()
            }
            self.count = len(self.splits["train"])

    def _write(self, file: Rows) -> tuple[tuple[int, ...], dict[str, Any]]:
        for sentence in self.remarks:
            log(sentence)
        names = [*self.splits["train"], *self.splits["test"]]
        done: Counter[str] = Counter()
        skipped: dict[str, str] = {}
        for pixels in self._decoded(names, len(names), skipped, done):
            file.write(pixels.tobytes())
        kept = len(names) - len(skipped)
        self._summary(kept, done, skipped)
        notes = {
            "images": kept,
            "told": list(self.remarks),
            "converted": dict(sorted(done.items())),
            "skipped": skipped,
        }
        return (kept, *self.shape), {k: v for k, v in notes.items() if v}

    def _decoded(
        self, names: Sequence[str], total: int, skipped: dict[str, str], done: Counter[str]
    ) -> Iterator[np.ndarray]:
        """The pixels of each image that is not corrupt; fills `skipped` and counts in `done`."""
        first = ""
        workers = min(8, os.cpu_count() or 1)  # Pillow's decoders run side by side
        with (
            ThreadPoolExecutor(workers) as pool,
            progress(f"decoding {self.source.path.name}", len(names)) as advance,
            no_pillow_warnings(),
        ):
            for start in range(0, len(names), BLOCK):
                block = names[start : start + BLOCK]
                for name, (pixels, words, reason) in zip(
                    block, pool.map(self._row, block), strict=True
                ):
                    if pixels is None:
                        self._broken(name, reason, skipped, total)
                        continue
                    first = first or name
                    self._fits(name, pixels.shape, first)
                    done.update(words)
                    yield pixels
                advance(len(block))

    def _row(self, name: str) -> Row:
        try:
            pixels, words = self.transform(self.source.image(name))
        except Corrupt as e:
            return None, set(), str(e)
        return pixels, words, ""

    def _broken(self, name: str, reason: str, skipped: dict[str, str], total: int) -> None:
        where = f"{self.source.path}: {name} is corrupt ({reason})"
        if not self.skip:
            raise DataError(f"{where}; replace or remove it, or set data.corrupt=skip")
        skipped[name] = reason
        if len(skipped) > max(1, CAP * total):
            raise DataError(
                f"{where}, and so are {len(skipped) - 1} others: more than 1 % of {total:,}; "
                "get the images again"
            )

    def _fits(self, name: str, shape: tuple[int, ...], first: str) -> None:
        if shape != self.shape:
            h, w = shape[:2]
            raise DataError(
                f"{self.source.path} mixes sizes: {first} has {self.shape[1]} x {self.shape[0]} "
                f"pixels, {name} has {w} x {h}; set data.size=64 (or another side) to crop and "
                "resize all"
            )

    def _summary(self, kept: int, done: Counter[str], skipped: dict[str, str]) -> None:
        parts = [f"{n:,} {what}" for what, n in sorted(done.items())]
        if skipped:
            parts.append(f"{len(skipped):,} corrupt ones skipped ({_few(skipped)})")
        log(f"decoded {kept:,} images of {self.source.path}" + "".join(f"; {p}" for p in parts))


def _few(names: Iterable[str]) -> str:
    return ", ".join([*names][:3])


def channels_first(rows: np.ndarray) -> Tensor:
    """uint8 [N, H, W, C] -> [N, C, H, W] in channels_last, without a copy."""
    return torch.from_numpy(rows).permute(0, 3, 1, 2)


def last_tenth(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """(all but the last tenth, the last tenth) of sorted names; each has one at least."""
    held = max(1, (len(names) + 5) // 10)
    return list(names[:-held]), list(names[-held:])
