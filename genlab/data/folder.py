"""Images of one's own: a folder, a zip file or an array."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from genlab.core.contract import Spec, Split
from genlab.core.digest import tensor_digest
from genlab.core.errors import ConfigError, DataError, MixedSizes
from genlab.core.registry import register
from genlab.core.schema import FilePath
from genlab.data.decoded import DecodedImages, channels_first, last_tenth
from genlab.data.image import Corrupt, ImageTransform, centre_square, no_pillow_warnings
from genlab.data.source import ArrayImages, ImageSource, open_images

__all__ = ["Folder"]

LOOK = 5000  # images whose sizes are compared before anything is decoded


@register
class Folder(DecodedImages):
    """Images of your own: a folder, a .zip file, or a .npy array of bytes.

    A folder or zip file is searched with its sub-folders, in the order of names; an array is
    uint8 [N, H, W], [N, H, W, C] or [N, C, H, W] with C of 1 or 3. The last tenth by name is held
    out, of each class where there are classes. How odd images are converted: `genlab.data.image`.

    root: data.root. path: the folder or file, relative to here or to root.
    size: None takes images as they are, which must then be of one size; else the centred square
        is resampled (bicubic, antialiased).
    channels: 3, 1 (grey), or auto: 3 for image files, as stored for an array.
    labels: folders takes the sub-folders as classes when all images lie in such; none does not.
    Raises ConfigError without a path and DataError for one that holds no images.
    """

    def __init__(
        self,
        root: str,
        *,
        path: FilePath | None,
        channels: Literal["auto", 1, 3],
        labels: Literal["folders", "none"],
        **decoded: Any,
    ) -> None:
        super().__init__(**decoded)
        if not path:
            raise ConfigError(
                "data.path is not set: a folder of images, a .zip file of them, or a .npy array"
            )
        size = self.size
        self.path = _place(path, Path(os.path.expanduser(root)))
        images = open_images(self.path)
        depth = images.channels if channels == "auto" else int(channels)
        self._classes = _classes(images.names) if labels == "folders" else {}
        if labels == "folders" and not self._classes:
            self.cautions = _unlabelled(images.names)
        self.names = sorted(set(self._classes.values())) or None
        train, test = self._split(images.names)
        held = f"{len(test):,} of {len(images.names):,}"
        self._array: np.ndarray | None = None
        if isinstance(images, ArrayImages) and depth == images.channels:
            height, width, _ = images.shape
            if size is None or (height, width) == (size, size):
                self._array, self.count, self.held_out = images.array, len(train), len(test)
                self.spec = Spec((depth, height, width))
                self.notes = {"told": [f"folder: the last {held} are held out"]}
                return
        shape = (
            depth,
            *((size, size) if size else _stored_size(images, depth, len(self.names or ()))),
        )
        self.decode(
            images,
            train,
            test,
            ImageTransform(depth, size, centre_square if size else None),
            spec=Spec(shape, len(self.names) if self.names else None),
            kind=self.path.name,
            variant=f"{size or 'stored'}-{depth}",
            folder=self.path if self.path.is_dir() else self.path.parent,
            remarks=[
                f"folder: no held-out split of its own: the last 10 % by name"
                f"{' of each class' if self.names else ''} are held out, {held} images",
            ],
        )

    def labels(self, names: Sequence[str]) -> Tensor | None:
        """[n] int64, of the sub-folders of images; None where they are not asked for."""
        if self.names is None:
            return None
        number = {name: k for k, name in enumerate(self.names)}
        return torch.tensor([number[self._classes[n]] for n in names])

    def load(self, split: str) -> Split:
        """split "train" or "test" -> uint8 [N, C, H, W], and labels if there are some.

        An array whose images need no change is read where it lies.
        """
        if self._array is None:
            return super().load(split)
        rows = {"train": slice(None, self.count), "test": slice(self.count, None)}[split]
        return Split(channels_first(self._array[rows]))

    def digest(self, train: Split) -> str:
        """Of both splits, since they were decoded; an array is read whole for it."""
        if self._array is None:
            return super().digest(train)
        return tensor_digest(channels_first(self._array))[:12]

    def _split(self, names: Sequence[str]) -> tuple[list[str], list[str]]:
        """Names to train on and names held out, each in the order of names."""
        if len(names) < 2:
            raise DataError(f"{self.path} has {len(names)} image; two are the least")
        if self.names is None:
            return last_tenth(names)
        classes: dict[str, list[str]] = {}
        for name in names:
            classes.setdefault(self._classes[name], []).append(name)
        held: set[str] = set()
        for of_class in classes.values():
            if len(of_class) > 1:
                held.update(last_tenth(of_class)[1])
        if not held:
            return last_tenth(names)
        return [n for n in names if n not in held], [n for n in names if n in held]


def _place(path: str, root: Path) -> Path:
    """The path as typed, or below data.root."""
    typed = Path(os.path.expanduser(path))
    for candidate in (typed, root / typed):
        if candidate.exists():
            return Path(os.path.abspath(candidate))
    where = "" if typed.is_absolute() else f", neither here nor in data.root={root}"
    raise DataError(f"data.path={path} is not there{where}; give a folder, a .zip or a .npy file")


def _classes(names: Sequence[str]) -> dict[str, str]:
    """Name -> class: the first folder in which the images differ; {} where some lie in none."""
    parts = {n: n.split("/")[:-1] for n in names}
    for depth in range(min(map(len, parts.values()))):
        found = {n: p[depth] for n, p in parts.items()}
        if len(set(found.values())) > 1:
            return found
    return {}


def _unlabelled(names: Sequence[str]) -> list[str]:
    """Why there are no classes although there are sub-folders, as a sentence; [] without them."""
    outside = [n for n in names if "/" not in n]
    if not 0 < len(outside) < len(names):
        return []
    return [
        f"folder: no labels, since {len(outside):,} of {len(names):,} images lie in no sub-folder "
        f"(first {outside[0]}); put them into one, move them away, or set data.labels=none"
    ]


def _stored_size(images: ImageSource, channels: int, classes: int) -> tuple[int, int]:
    """(H, W) of the images, by what the headers of the first ones say.

    Raises MixedSizes where they differ, DataError where none can be opened.
    """
    found: dict[tuple[int, int], str] = {}
    reason = ""
    with no_pillow_warnings():
        for name in images.names[:LOOK]:
            try:
                image = images.image(name)
                turned = image.getexif().get(0x0112, 1) >= 5  # by a quarter
            except (Corrupt, OSError, SyntaxError, ValueError) as e:
                reason = reason or f"{name}: {e}"
                continue
            found.setdefault(image.size[::-1] if not turned else image.size, name)
    if not found:
        raise DataError(f"{images.path}: no image can be decoded ({reason}); get the images again")
    if len(found) == 1:
        return next(iter(found))
    (h, w), (high, wide) = min(found, key=_area), max(found, key=_area)
    first, last = found[h, w], found[high, wide]
    side = min(min(size) for size in found)
    raise MixedSizes(
        f"{images.path} mixes {len(found)} sizes, from {w} x {h} pixels ({first}) to {wide} x "
        f"{high} ({last})",
        (channels, side, side),
        classes or None,
    )


def _area(size: tuple[int, int]) -> int:
    return size[0] * size[1]
