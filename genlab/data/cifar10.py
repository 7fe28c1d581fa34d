"""CIFAR-10 from any of the files it comes in."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from genlab.core.console import log, progress
from genlab.core.contract import Spec, Split
from genlab.core.errors import DataError
from genlab.core.registry import register
from genlab.data import cifar_files as files
from genlab.data.cache import Cache, Rows
from genlab.data.decoded import channels_first
from genlab.data.fetch import fetch_archive, mirrors
from genlab.data.images import DownloadedImages
from genlab.data.resize import resize

__all__ = ["CIFAR10"]

FOLDERS = ("cifar10", "cifar-10", "CIFAR10", "")
BLOCK = 1000  # images resampled at a time

BINARY, PYTHON = "cifar-10-binary.tar.gz", "cifar-10-python.tar.gz"
KINDS: dict[str, tuple[Callable[..., files.Images], str]] = {
    "cifar-10-batches-bin": (files.binary, "data_batch_1.bin"),
    BINARY: (files.binary, ""),
    "": (files.mosaic, "train_1.webp"),
    "cifar-10-batches-py": (files.pickled, "data_batch_1"),
    PYTHON: (files.pickled, ""),
}
"""Folder or archive -> (its reader, a file that tells it); the quickest and safest first."""


@register
class CIFAR10(DownloadedImages):
    """Ten kinds of things, 32 x 32; 50,000 to train on and 10,000 to test.

    Read from the official binary files (cifar-10-binary.tar.gz or the cifar-10-batches-bin it
    unpacks to), the official pickles (cifar-10-python.tar.gz or cifar-10-batches-py, by a reader
    that runs nothing), or lossless mosaics (train_1.webp to train_5.webp, test.webp and
    labels.npz). They are looked for in `root` and its parent, there in cifar10, cifar-10, CIFAR10
    and bare. An archive must have its official SHA-256, and all give the same bytes.

    download: the binary archive, to root/cifar10 (170 MB), when all is absent.
    Raises DataError for absent, damaged or other files, Refused for a pickle that asks for code.

    Reference: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
    """

    count = 50_000
    classes = (
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    )
    official = ("https://www.cs.toronto.edu/~kriz/",)
    archives: Mapping[str, tuple[str, int]] = {  # SHA-256 and bytes as sent
        BINARY: ("c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd", 170_052_171),
        PYTHON: ("6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce", 170_498_071),
    }
    # SHA-256 of the images [N, 32, 32, 3] and of the labels [N] as bytes
    contents: Mapping[str, tuple[str, str]] = {
        "train": (
            "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a",
            "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253",
        ),
        "test": (
            "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04",
            "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5",
        ),
    }

    def __init__(self, root: str, **images: Any) -> None:
        super().__init__(root, **images)
        self.names = list(self.classes)
        self.side = self.size or 32
        self.spec = Spec((3, self.side, self.side), 10)
        self.path, self._read = self._find()
        home = self.path if (self.path / "train_1.webp").exists() else self.path.parent
        self._cache = Cache(
            home, "cifar10", str(self.side), f"{self.path.name} {_state(self.path)}"
        )
        self.notes: dict[str, Any] = {"read": self.path.name}

    def load(self, split: str) -> Split:
        """split "train" or "test" -> uint8 [N, 3, size, size] and labels."""
        cached = self._cache.find()
        if cached is None:
            cached = self._cache.make(60_000 * self.side**2 * 3, self._write)
        y = np.frombuffer(base64.b64decode(cached.notes["labels"]), np.uint8).astype(np.int64)
        rows = {"train": slice(None, self.count), "test": slice(self.count, None)}[split]
        return Split(channels_first(cached.images[rows]), torch.from_numpy(y[rows]))

    def digest(self, train: Split) -> str:
        """Of both splits, since they were read."""
        cached = self._cache.find()
        assert cached is not None
        return self._cache.digest(cached)

    def _write(self, file: Rows) -> tuple[tuple[int, ...], dict[str, Any]]:
        """All images, train first, once they are known to be the official ones."""
        get = self._get()
        with progress("reading cifar10", len(files.BATCHES)) as advance:
            batches = []
            for batch in files.BATCHES:
                batches.append(self._read(get, batch))
                advance(1)
        parts = {"train": batches[:-1], "test": batches[-1:]}
        images = {split: np.concatenate([u for u, _ in part]) for split, part in parts.items()}
        labels = {split: np.concatenate([y for _, y in part]) for split, part in parts.items()}
        for split, digests in self.contents.items():
            for array, digest in zip((images[split], labels[split]), digests, strict=True):
                if hashlib.sha256(array.tobytes()).hexdigest() != digest:
                    raise DataError(
                        f"{self.path} does not hold CIFAR-10 as published: other {split} images "
                        "or labels (SHA-256); get it again, or read your own by data=folder"
                    )
        for split in images:
            whole = torch.from_numpy(images[split]).permute(0, 3, 1, 2)
            for i in range(0, len(whole), BLOCK):
                small = resize(whole[i : i + BLOCK].contiguous(), self.side)
                file.write(small.permute(0, 2, 3, 1).contiguous().numpy().tobytes())
        every = np.concatenate([labels["train"], labels["test"]])
        log(f"cifar10: read {len(every):,} images from {self.path}")
        packed = base64.b64encode(every.tobytes()).decode("ascii")
        return (len(every), self.side, self.side, 3), {"labels": packed}

    def _get(self) -> files.Get:
        if self.path.is_dir():
            return files.from_folder(self.path)
        digest, _ = self.archives[self.path.name]
        with self.path.open("rb") as packed:
            if hashlib.file_digest(packed, "sha256").hexdigest() != digest:
                raise DataError(
                    f"{self.path} is not the official archive (SHA-256), or is cut short; get it "
                    "again, or remove it and add data.download=true"
                )
        return files.from_tar(self.path)

    def _find(self) -> tuple[Path, Callable[..., files.Images]]:
        """(folder or archive, its reader): the first there is."""
        root = self.root
        for base in (root, root.parent):
            for folder in FOLDERS:
                for name, (reader, sign) in KINDS.items():
                    place = base / folder / name
                    if (place / sign if sign else place).is_file():
                        return place, reader
        for reader, sign in KINDS.values():  # root is the folder of the batches itself
            if sign and (root / sign).is_file():
                return root, reader
        home = root / FOLDERS[0]
        if self.download:
            fetch_archive(
                "cifar10", mirrors("cifar10", self.official), home, BINARY, *self.archives[BINARY]
            )
            return home / BINARY, files.binary
        raise DataError(
            f"cifar10 is not there (looked in data.root={root}, its parent, and "
            f"{', '.join(f for f in FOLDERS if f)} in both, for "
            f"{', '.join(k for k in KINDS if k)} or train_1.webp); add data.download=true, or put "
            f"{BINARY} into {home}"
        )


def _state(path: Path) -> str:
    """What changes when the files do: names, sizes and times."""
    found = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
    return " ".join(f"{p.name} {p.stat().st_size} {p.stat().st_mtime_ns}" for p in found)
