"""What samples are compared with: images of a data set or of a folder."""

from __future__ import annotations

import math
import os
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from genlab.core import dist
from genlab.core.console import log
from genlab.core.contract import Dataset, Spec
from genlab.core.digest import tensor_digest
from genlab.core.errors import DataError
from genlab.data.source import iter_images

__all__ = ["Reference", "of_data", "read_images", "size_of", "subset"]


def subset(images: Tensor, n: int | None) -> Tensor:
    """n of [N, *S], always the same ones: the first of a fixed shuffle; all of it for None.

    Stored sets are often sorted by class, so their first n would be another distribution. The
    parts of fewer images are those of more, so features of a part serve both.
    """
    g = torch.Generator().manual_seed(0)
    return images[torch.randperm(len(images), generator=g)[:n]].contiguous()


@dataclass(frozen=True)
class Reference:
    """Images that samples are compared with.

    name: set and split in words; images: [n, *S]; total: number that they were chosen from.
    """

    name: str
    images: Tensor
    total: int

    @cached_property
    def digest(self) -> str:
        """12 hex digits of the contents."""
        return tensor_digest(self.images)[:12]


def of_data(data: Dataset, name: str, split: str, n: int | None) -> Reference:
    """n images of a split, all for None, always the same ones."""
    images = data.load(split).x
    return Reference(f"{name} {split}", subset(images, n), len(images))


def read_images(place: str, key: str, size: int | None, channels: int | None) -> Tensor:
    """uint8 [N, C, H, W] of all images of a folder, .zip or .npy, in the order of names.

    key: fake or real, for messages. size: side they are resampled to, None as they are, which
    must be of one size. channels: 1 or 3, None as stored (3 for files). Raises DataError.
    """
    path = Path(os.path.expanduser(place))
    if not path.exists():
        raise DataError(f"{key}={place} is not there; give a folder, a .zip or a .npy of images")
    images: list[Tensor] = []
    first = ""
    done: Counter[str] = Counter()
    for name, image, words in iter_images(str(path), channels, size):
        if image is None:
            reason = ", ".join(words)
            raise DataError(f"{key}={place}: {name} is corrupt ({reason}); replace or remove it")
        first = first or name
        if images and image.shape != images[0].shape:
            (h, w), (h2, w2) = images[0].shape[1:], image.shape[1:]
            raise DataError(
                f"{key}={place} mixes sizes: {first} has {w} x {h} pixels, {name} has "
                f"{w2} x {h2}; add size={min(h, w)} (or another side) to crop and resize all"
            )
        images.append(image)
        done.update(words)
    if done and dist.rank() == 0:
        log(f"{key}={place}: {', '.join(f'{n:,} {what}' for what, n in sorted(done.items()))}")
    return torch.stack(images)


def size_of(spec: Spec) -> str:
    """HxWxC of images, the number of coordinates of points."""
    if spec.kind != "images":
        return f"{math.prod(spec.shape)}-D"
    return "x".join(str(n) for n in (*spec.shape[1:], spec.shape[0]))
