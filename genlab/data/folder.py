"""Images of one's own: a folder, a zip file or an array."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from genlab.core.contract import Dataset, Spec, Split
from genlab.core.errors import ConfigError, DataError
from genlab.core.registry import register
from genlab.data.array import Rows
from genlab.data.decoded import Decoded, last_tenth, planes
from genlab.data.image import Corrupt, Recipe, quiet, square
from genlab.data.resize import check_size
from genlab.data.source import Source, source

__all__ = ["Folder"]


@register
class Folder(Dataset):
    """Images of your own: a folder, a .zip file, or a .npy array of bytes.

    A folder or zip file is searched with its sub-folders, in the order of names; an array is
    uint8 [N, H, W], [N, H, W, C] or [N, C, H, W] with C of 1 or 3. The last tenth by name is held
    out, of each class where there are classes. How odd images are converted: `genlab.data.image`.

    root: data.root. path: the folder or file, relative to here or to root.
    size: side in pixels; None takes images as they are, which must then be of one size; else the
        centred square is resampled (bicubic, antialiased).
    channels: 3, 1 (grey), or auto: 3 for image files, as stored for an array.
    labels: folders takes the sub-folders as classes when all images lie in such; none does not.
    flip: whether training mirrors half of the images.
    corrupt: whether a corrupt image is an error, or up to 1 % of them are skipped.
    Raises ConfigError without a path and DataError for one that holds no images.
    """

    def __init__(
        self,
        root: str,
        *,
        path: str | None,
        size: int | None,
        channels: Literal["auto", 1, 3],
        labels: Literal["folders", "none"],
        flip: bool,
        corrupt: Literal["error", "skip"],
    ) -> None:
        check_size(size)
        if not path:
            raise ConfigError(
                "data.path is not set: a folder of images, a .zip file of them, or a .npy array"
            )
        self.flip = flip
        self.path = _place(path, Path(os.path.expanduser(root)))
        images: Source = Rows(self.path) if self.path.suffix == ".npy" else source(self.path)
        stored = images.shape[2] if isinstance(images, Rows) else 3
        depth = stored if channels == "auto" else int(channels)
        classes = _classes(images.names) if labels == "folders" else {}
        self.names = sorted(set(classes.values())) or None
        self._class = {n: k for k, n in enumerate(self.names or ())}
        self._classes = classes
        train, test = self._split(images.names)
        self._rows: Rows | None = None
        if isinstance(images, Rows) and depth == stored and size in (None, *_side(images)):
            self._rows, self._train = images, len(train)
            shape = (depth, *images.shape[:2])
        else:
            shape = (depth, *((size, size) if size else _first(images, depth)))
            self._images = Decoded(
                images,
                train,
                test,
                Recipe(depth, size, square if size else None),
                kind=self.path.name,
                variant=f"{size or 'stored'}-{depth}",
                home=self.path if self.path.is_dir() else self.path.parent,
                shape=shape,
                skip=corrupt == "skip",
                told=[
                    f"folder: no held-out split of its own: the last 10 % by name"
                    f"{' of each class' if self.names else ''} are held out, "
                    f"{len(test):,} of {len(images.names):,} images"
                ],
            )
        self.spec = Spec(shape, len(self.names) if self.names else None)

    @property
    def count(self) -> int:
        """Images to train on."""
        return self._train if self._rows is not None else self._images.count

    @property
    def notes(self) -> dict[str, Any]:
        """What happened when the images were decoded, for the record of a run."""
        if self._rows is None:
            return self._images.notes
        held = len(self._rows.names) - self._train
        return {"told": [f"folder: the last {held:,} of {len(self._rows.names):,} are held out"]}

    def load(self, split: str) -> Split:
        """split "train" or "test" -> uint8 [N, C, H, W], and labels if there are some."""
        if self._rows is not None:
            if split not in ("train", "test"):
                raise ValueError(f'split must be "train" or "test", not {split!r}')
            train, n = split == "train", self._train
            return Split(planes(self._rows.array[:n] if train else self._rows.array[n:]))
        u, names = self._images.load(split)
        if self.names is None:
            return Split(u)
        return Split(u, torch.tensor([self._class[self._classes[n]] for n in names]))

    @staticmethod
    def each(
        path: str, channels: int | None, size: int | None
    ) -> Iterator[tuple[str, Tensor | None, set[str]]]:
        """Every image of a place in the order of names, nothing held out or kept.

        channels: 3, 1 for grey, None for 3 of image files and those stored of an array. size:
        side in pixels of the centred square, None as stored. Yields its name, uint8 [C, H, W] or
        None for a corrupt one, and what was done to it, in words.
        Raises DataError for a place without images and Refused for a bomb.
        """
        place = Path(os.path.abspath(os.path.expanduser(path)))
        images: Source = Rows(place) if place.suffix == ".npy" else source(place)
        depth = channels or (images.shape[2] if isinstance(images, Rows) else 3)
        recipe = Recipe(depth, size, square if size else None)
        for name in images.names:
            try:
                with quiet():
                    picture = images.image(name)
                    resized = size is not None and min(picture.size) != size
                    words = {f"resized to {size}"} if resized else set()
                    if size is not None and picture.width != picture.height:
                        words.add("cropped to the square")
                    pixels, done = recipe(picture)
            except Corrupt as e:
                yield name, None, {str(e)}
                continue
            yield name, torch.from_numpy(pixels.transpose(2, 0, 1).copy()), words | done

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


def _side(rows: Rows) -> tuple[int, ...]:
    """(side,) of the images of an array when they are square."""
    h, w = rows.shape[:2]
    return (h,) if h == w else ()


def _first(images: Source, channels: int) -> tuple[int, int]:
    """(H, W) of the first image that can be decoded."""
    recipe, reason = Recipe(channels, None, None), ""
    for name in images.names[:100]:
        try:
            pixels, _ = recipe(images.image(name))
        except Corrupt as e:
            reason = reason or f"{name}: {e}"
            continue
        return pixels.shape[0], pixels.shape[1]
    raise DataError(f"{images.path}: no image can be decoded ({reason}); get the images again")
