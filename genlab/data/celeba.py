"""CelebA from its official files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from genlab.core.contract import Spec
from genlab.core.errors import ConfigError, DataError
from genlab.core.registry import register, suggest
from genlab.data.decoded import DecodedImages, last_tenth
from genlab.data.image import Box, ImageTransform, centre_crop
from genlab.data.source import ImageSource, open_images

__all__ = ["CelebA"]

FOLDERS = ("celeba", "CelebA", "")
PARTS = ("", "Img", "Anno", "Eval")  # sub-folders of the official drive
IMAGES = ("img_align_celeba.zip", "img_align_celeba")
ATTRIBUTES, PARTITION = "list_attr_celeba.txt", "list_eval_partition.txt"
MOST = 6  # attributes whose combinations are classes: 64 of them
WIDTH = 178  # of an official image, in pixels of which a crop is given


@register
class CelebA(DecodedImages):
    """Aligned faces, 178 x 218; 162,770 to train on and 19,962 to test.

    Read from the official files img_align_celeba.zip (or the folder it unpacks to),
    list_eval_partition.txt and, for labels, list_attr_celeba.txt. They are looked for in `root`
    and its parent, there in celeba, CelebA and bare, and in the sub-folders Img, Anno and Eval.
    Whatever images are there are taken, smaller copies too.

    root: data.root.
    size: side in pixels; resampled (bicubic, antialiased), nothing is padded.
    crop: the centred square that is kept, in pixels of a width of 178: full is all of it.
    attribute: None for no labels; an attribute for labels 0 and 1; a list of up to 6 for the
        combinations of them, the first one the most significant bit.
    The test split is partition 2, else 1 (validation), else the last tenth by name.
    Raises DataError for absent or damaged files, ConfigError for an unknown attribute.

    Reference: Liu, Luo, Wang, Tang, "Deep Learning Face Attributes in the Wild", ICCV 2015.
    """

    def __init__(
        self,
        root: str,
        *,
        size: int,
        crop: Literal["full", 148, 140],
        attribute: str | list[str] | None,
        **decoded: Any,
    ) -> None:
        super().__init__(size=size, **decoded)
        base = Path(os.path.abspath(os.path.expanduser(root)))
        images = self._find(base)
        self.path = images.path
        self._labels: dict[str, int] | None = None
        self._attributes = [attribute] if isinstance(attribute, str) else list(attribute or ())
        self.names = self._class_names()
        train, test, remark = self._split(images.names)
        self.decode(
            images,
            train,
            test,
            ImageTransform(3, size, _box(WIDTH if crop == "full" else crop)),
            spec=Spec((3, size, size), len(self.names) if self.names else None),
            kind="celeba",
            variant=f"{size}-{crop}",
            folder=self.path.parent,
            remarks=[remark] if remark else [],
        )

    def labels(self, names: Sequence[str]) -> Tensor | None:
        """[n] int64, of the attributes of images; DataError for one that the list lacks."""
        if not self._attributes:
            return None
        if self._labels is None:
            self._labels = self._read_labels()
        if lacking := next((n for n in names if _file(n) not in self._labels), None):
            raise DataError(
                f"{self._list(ATTRIBUTES)} has no row for {_file(lacking)}; get the official list "
                "or set data.attribute=null"
            )
        return torch.tensor([self._labels[_file(n)] for n in names])

    # --- files -----------------------------------------------------------------------------------

    def _find(self, root: Path) -> ImageSource:
        """The images in the first place that has them."""
        self._homes = [base / f for base in (root, root.parent) for f in FOLDERS]
        for home in self._homes:
            for part in PARTS:
                for name in IMAGES:
                    if (home / part / name).exists():
                        self._homes = [home]
                        return open_images(home / part / name)
        raise DataError(
            f"celeba is not there: no {' or '.join(IMAGES)} in data.root={root} or its parent, "
            f"in celeba, CelebA or bare; it cannot be downloaded from here: get "
            f"{IMAGES[0]}, {ATTRIBUTES} and {PARTITION} by hand from "
            f"https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html, into {root / 'celeba'}"
        )

    def _list(self, name: str) -> Path | None:
        """A list of the official download, if it is there."""
        places = (home / part / name for home in self._homes for part in PARTS)
        return next((p for p in places if p.is_file()), None)

    def _split(self, names: Sequence[str]) -> tuple[list[str], list[str], str]:
        """(names to train on, names held out, a sentence when the files do not say which)."""
        if len(names) < 2:
            raise DataError(f"{self.path} has {len(names)} image; two are the least")
        rows = {}
        if (path := self._list(PARTITION)) is not None:
            rows = {name: values[0] for name, values in _rows(path) if values}
        parts: dict[str, list[str]] = {"0": [], "1": [], "2": []}
        for name in names:
            parts.setdefault(rows.get(_file(name), ""), []).append(name)
        if unknown := set(parts) - {"0", "1", "2", ""}:
            raise DataError(f"{path} has the partition {min(unknown)!r}; 0, 1 and 2 are known")
        held = parts["2"] or parts["1"]
        if parts["0"] and held:
            lost = len(parts.get("", ()))
            left_out = f"celeba: {lost:,} images that {PARTITION} does not name are left out"
            return parts["0"], held, left_out if lost else ""
        why = f"{PARTITION} puts none of them aside" if rows else f"there is no {PARTITION}"
        train, test = last_tenth(names)
        return (
            train,
            test,
            f"celeba: no usable held-out split ({why}): the last 10 % by name are held out, "
            f"{len(test):,} of {len(names):,} images",
        )

    # --- labels ----------------------------------------------------------------------------------

    def _class_names(self) -> list[str] | None:
        """Names of the classes; ConfigError for attributes that do not exist."""
        if not (asked := self._attributes):
            return None
        if len(asked) > MOST or len(set(asked)) < len(asked):
            raise ValueError(f"attribute takes up to {MOST} different names")
        known = self._known()
        for name in asked:
            if name not in known:
                hint = suggest(name, known) or f"There are: {', '.join(known)}."
                raise ConfigError(f"data.attribute: celeba has no attribute {name!r}. {hint}")
        return [
            ", ".join(
                name if k >> (len(asked) - 1 - i) & 1 else f"not {name}"
                for i, name in enumerate(asked)
            )
            for k in range(2 ** len(asked))
        ]

    def _known(self) -> list[str]:
        path = self._list(ATTRIBUTES)
        if path is None:
            raise DataError(
                f"data.attribute={self._attributes[0]} needs {ATTRIBUTES} in {self._homes[0]}; "
                "put it there or set data.attribute=null"
            )
        with path.open(encoding="utf-8", errors="replace") as file:
            count, names = file.readline().strip(), file.readline().split()
        if not count.isdigit() or not names:
            raise DataError(
                f"{path} does not begin with a count and a line of attribute names; get the "
                "official list"
            )
        return names

    def _read_labels(self) -> dict[str, int]:
        """File name -> class."""
        path, known = self._list(ATTRIBUTES), self._known()
        assert path is not None
        columns = [known.index(a) for a in self._attributes]
        bits = {"1": 1, "-1": 0, "0": 0}
        labels = {}
        for name, values in _rows(path, skip=2):
            try:
                label = 0
                for column in columns:
                    label = 2 * label + bits[values[column]]
            except (KeyError, IndexError):
                raise DataError(
                    f"{path} is damaged in the row of {name}; get the official list"
                ) from None
            labels[name] = label
        return labels


def _rows(path: Path, skip: int = 0) -> Iterator[tuple[str, list[str]]]:
    """(file name, values) of each line of an official list."""
    with path.open(encoding="utf-8", errors="replace") as file:
        for i, line in enumerate(file):
            words = line.split()
            if i >= skip and words:
                yield words[0], words[1:]


def _file(name: str) -> str:
    """The name by which the lists know an image."""
    return name.rpartition("/")[2]


def _box(crop: int) -> Callable[[int, int], Box]:
    """The centred square of `crop` pixels of a width of 178, scaled with the width."""

    def box(width: int, height: int) -> Box:
        side = round(crop * width / WIDTH)
        if side > height:
            raise ValueError(f"{width} x {height} pixels hold no square of {side}")
        return centre_crop(width, height, side)

    return box
