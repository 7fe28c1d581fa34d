"""Where images lie: files below a folder, members of a zip file, rows of a .npy array."""

from __future__ import annotations

import hashlib
import os
import stat
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from genlab.core.errors import DataError, Refused
from genlab.core.sample_folder import samples_in, without_pictures
from genlab.data.image import (
    BYTES,
    Corrupt,
    ImageTransform,
    centre_square,
    no_pillow_warnings,
    open_image,
)

__all__ = [
    "ArrayImages",
    "FolderImages",
    "ImageSource",
    "ZipImages",
    "count_images",
    "fingerprint",
    "iter_images",
    "open_images",
]

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")
PLAIN = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
CHANNELS = (1, 3)  # of images in an array


class ImageSource(Protocol):
    """Images by name; `names` is sorted, so a listing in another order gives the same set."""

    path: Path
    names: list[str]  # with / between folders
    channels: int  # 3 of image files, of an array as stored

    def image(self, name: str) -> Image.Image:
        """The opened image; raises Corrupt, and Refused for a bomb."""
        ...

    def state(self, names: Iterable[str]) -> Iterator[str]:
        """A line for each name that changes when its image does."""
        ...


def open_images(path: Path) -> ImageSource:
    """The images of a folder, a .zip or a .npy file, or an image alone; DataError for others.

    Of a folder that `genlab sample` made: its samples, without the pictures of them.
    """
    if path.is_dir():
        path = samples_in(path)
    if path.suffix == ".npy" and not path.is_dir():
        return ArrayImages(path)
    if path.is_dir():
        return FolderImages(path)
    if path.suffix.lower() in SUFFIXES and path.is_file():
        return OneImage(path)
    if path.suffix.lower() == ".zip" and path.exists():
        found = path.stat()
        return _zip(path, found.st_size, found.st_mtime_ns)
    what = "is no folder and no .zip file" if path.exists() else "is not there"
    raise DataError(f"{path} {what}; give a folder or a .zip file of images")


@lru_cache(maxsize=2)
def _zip(path: Path, size: int, changed: int) -> ZipImages:
    """A zip file as it is now: listing 200,000 members takes seconds, and a run asks twice."""
    return ZipImages(path)


def fingerprint(images: ImageSource, names: Iterable[str]) -> str:
    """SHA-256 of the named images' state; the same wherever the folder or zip file lies."""
    text = hashlib.sha256()
    for line in images.state(names):
        text.update(f"{line}\n".encode("utf-8", "surrogateescape"))
    return text.hexdigest()


def count_images(path: str) -> int:
    """How many images `iter_images` would yield."""
    return len(open_images(Path(os.path.abspath(os.path.expanduser(path)))).names)


def iter_images(
    path: str, channels: int | None, size: int | None
) -> Iterator[tuple[str, Tensor | None, set[str]]]:
    """Every image of a place in the order of names, nothing held out or kept.

    path: what `open_images` takes, ~ for home. channels: 3, 1 for grey, None for 3 of image files
    and those stored of an array. size: side in pixels of the centred square, None as stored.
    Yields its name, uint8 [C, H, W] or None for a corrupt one, and what was done to it, in words.
    Raises DataError for a place without images and Refused for a bomb.
    """
    images = open_images(Path(os.path.abspath(os.path.expanduser(path))))
    convert = ImageTransform(channels or images.channels, size, centre_square if size else None)
    for name in images.names:
        try:
            with no_pillow_warnings():
                picture = images.image(name)
                resized = size is not None and min(picture.size) != size
                words = {f"resized to {size}"} if resized else set()
                if size is not None and picture.width != picture.height:
                    words.add("cropped to the square")
                pixels, done = convert(picture)
        except Corrupt as e:
            yield name, None, {str(e)}
            continue
        yield name, torch.from_numpy(pixels.transpose(2, 0, 1).copy()), words | done


class FolderImages:
    """Image files below a folder; hidden ones, other kinds of files and pictures of samples
    (`genlab.core.sample_folder`) are passed over.

    Links are followed, each folder is entered once.
    Raises DataError when there is none, with what was found instead.
    """

    channels = 3

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stats: dict[str, os.stat_result] = {}
        self._others: Counter[str] = Counter()
        self._entered: set[tuple[int, int]] = set()
        try:
            self._walk(str(path), "")
        except OSError as e:
            raise DataError(f"{e.filename or path} cannot be read ({e.strerror})") from e
        self.names = sorted(self._stats)
        if not self.names:
            raise DataError(_none(path, self._others))

    def _walk(self, folder: str, prefix: str) -> None:
        here = os.stat(folder)
        if (here.st_dev, here.st_ino) in self._entered:
            return
        self._entered.add((here.st_dev, here.st_ino))
        with os.scandir(folder) as entries:
            found = {entry.name: entry for entry in entries}
            for name in without_pictures(found):
                entry = found[name]
                if name.startswith(".") or name == "__MACOSX":
                    continue
                if entry.is_dir():
                    self._walk(entry.path, f"{prefix}{name}/")
                elif name.lower().endswith(SUFFIXES) and entry.is_file():
                    self._stats[prefix + name] = entry.stat()
                else:
                    self._others[Path(name).suffix.lower() or "no suffix"] += 1

    def image(self, name: str) -> Image.Image:
        """The opened image; raises Corrupt, and Refused for a bomb."""
        path = self.path / name
        if self._stats[name].st_size > BYTES:
            raise Refused(f"{path} has more than {BYTES >> 20} MiB; remove it or make it smaller")
        try:
            data = path.read_bytes()
        except OSError as e:
            raise Corrupt(f"it cannot be read: {e.strerror}") from e
        return open_image(data, str(path))

    def state(self, names: Iterable[str]) -> Iterator[str]:
        """Name, size and time of change."""
        for name in names:
            found = self._stats[name]
            yield f"{name} {found.st_size} {found.st_mtime_ns}"


class OneImage(FolderImages):
    """One image file, a folder of one."""

    def __init__(self, path: Path) -> None:
        self.path, self.names = path.parent, [path.name]
        self._stats = {path.name: path.stat()}


class ZipImages:
    """Image members of a zip file, read into memory one at a time, never unpacked to disk.

    Folders, links, hidden members and those of other kinds are passed over.
    Raises DataError for a file that is cut short, encrypted, packed by a rare method or has no
    image; Refused for a name that leaves the folder and for a member that swells beyond BYTES.
    """

    channels = 3

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except zipfile.BadZipFile as e:
            raise DataError(
                f"{path} is cut short or no zip file ({e}); get it again, whole"
            ) from None
        except (OSError, ValueError, NotImplementedError) as e:
            reason = getattr(e, "strerror", None) or e
            raise DataError(f"{path} cannot be read ({reason})") from e
        self._members: dict[str, zipfile.ZipInfo] = {}
        others: Counter[str] = Counter()
        wanted = set(without_pictures(self._zip.namelist()))
        for info in self._zip.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            if info.is_dir() or kind not in (0, stat.S_IFREG):
                continue
            name = f"/{info.filename}"
            if name.startswith("//") or "\\" in name or "/../" in name:
                raise Refused(f"{path}: the name {info.filename!r} leaves the folder")
            if "/." in name or "/__MACOSX/" in name or info.filename not in wanted:
                continue
            if not name.lower().endswith(SUFFIXES):
                others[PurePosixPath(name).suffix.lower() or "no suffix"] += 1
                continue
            self._check(info)
            self._members[info.filename] = info
        self.names = sorted(self._members)
        if not self.names:
            raise DataError(_none(path, others))

    def _check(self, info: zipfile.ZipInfo) -> None:
        if info.flag_bits & 1:
            raise DataError(f"{self.path} is encrypted ({info.filename}); unpack it yourself")
        if info.compress_type not in PLAIN:
            raise DataError(
                f"{self.path}: {info.filename} is packed by a method other than deflate; "
                "pack the images anew"
            )
        if info.file_size > BYTES:
            raise Refused(
                f"{self.path}: {info.filename} unpacks to more than {BYTES >> 20} MiB; remove it"
            )
        if info.filename in self._members:
            raise DataError(f"{self.path} has {info.filename} twice; pack the images anew")

    def image(self, name: str) -> Image.Image:
        """The opened image; raises Corrupt, and Refused for a bomb."""
        try:
            data = self._zip.read(self._members[name])  # no more than the size it promises
        except (
            zipfile.BadZipFile,
            zlib.error,
            EOFError,
            OSError,
            NotImplementedError,  # what zipfile says to ways of packing it does not know,
            RuntimeError,  # to encryption,
            ValueError,  # and to names that are no text
        ) as e:
            raise Corrupt(f"the zip file is damaged there: {e}") from e
        return open_image(data, f"{self.path}: {name}")

    def state(self, names: Iterable[str]) -> Iterator[str]:
        """Name, size and checksum of the contents."""
        for name in names:
            info = self._members[name]
            yield f"{name} {info.file_size} {info.CRC:08x}"


class ArrayImages:
    """A .npy file of bytes [N, H, W], [N, H, W, C] or [N, C, H, W], mapped into memory.

    array: uint8 [N, H, W, C] with C of 1 or 3, a view of the file; shape: (H, W, C). Where both
    the second and the last size could be channels, the last is.
    Raises DataError, with what was found, for every other array. Nothing is unpickled.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            array = np.load(path, mmap_mode="c", allow_pickle=False)
        except (OSError, ValueError, EOFError, SyntaxError) as e:
            reason = str(e).splitlines()[0]
            raise DataError(f"{path} is no array that can be read ({reason})") from None
        wanted = "wanted are bytes (uint8) [N, H, W], [N, H, W, C] or [N, C, H, W], C of 1 or 3"
        found = f"{array.dtype} {list(array.shape)}"
        if array.dtype != np.uint8 or array.ndim not in (3, 4) or 0 in array.shape:
            raise DataError(f"{path} holds {found}; {wanted}")
        if array.ndim == 3:
            array = array[..., None]
        elif array.shape[3] not in CHANNELS:
            if array.shape[1] not in CHANNELS:
                raise DataError(f"{path} holds {found}; {wanted}")
            array = array.transpose(0, 2, 3, 1)
        self.array = array
        self.shape: tuple[int, int, int] = array.shape[1:]
        self.channels = self.shape[2]
        digits = len(str(len(array) - 1))
        self.names = [f"{i:0{digits}d}" for i in range(len(array))]

    def image(self, name: str) -> Image.Image:
        """The row of a name."""
        row = self.array[int(name)]
        return Image.fromarray(np.ascontiguousarray(row[..., 0] if row.shape[2] == 1 else row))

    def state(self, names: Iterable[str]) -> Iterator[str]:
        """Size and time of change of the file, then the rows."""
        found = self.path.stat()
        yield f"{self.shape} {found.st_size} {found.st_mtime_ns}"
        yield from names


def _none(path: Path, others: Counter[str]) -> str:
    """The sentence for a place without images."""
    found = ", ".join(f"{n} {kind}" for kind, n in others.most_common(5)) or "nothing"
    return (
        f"{path} holds no images: found {found}; wanted are {', '.join(SUFFIXES)}, "
        "in sub-folders too"
    )
