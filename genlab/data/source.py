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

from PIL import Image

from genlab.core.errors import DataError, Refused
from genlab.data.image import BYTES, Corrupt, opened

__all__ = ["Files", "Source", "Zip", "fingerprint", "source"]

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")
PLAIN = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class Source(Protocol):
    """Images by name; `names` is sorted, so a listing in another order gives the same set."""

    path: Path
    names: list[str]  # with / between folders

    def image(self, name: str) -> Image.Image:
        """The opened image; raises Corrupt, and Refused for a bomb."""
        ...

    def state(self, names: Iterable[str]) -> Iterator[str]:
        """A line for each name that changes when its image does."""
        ...


def source(path: Path) -> Files | Zip:
    """The images of a folder or zip file, or an image alone; DataError says what others lack."""
    if path.is_dir():
        return Files(path)
    if path.suffix.lower() in SUFFIXES and path.is_file():
        return File(path)
    if path.suffix.lower() == ".zip" and path.exists():
        found = path.stat()
        return _zip(path, found.st_size, found.st_mtime_ns)
    what = "is no folder and no .zip file" if path.exists() else "is not there"
    raise DataError(f"{path} {what}; give a folder or a .zip file of images")


@lru_cache(maxsize=2)
def _zip(path: Path, size: int, changed: int) -> Zip:
    """A zip file as it is now: listing 200,000 members takes seconds, and a run asks twice."""
    return Zip(path)


def fingerprint(images: Source, names: Iterable[str]) -> str:
    """SHA-256 of the named images' state; the same wherever the folder or zip file lies."""
    text = hashlib.sha256()
    for line in images.state(names):
        text.update(f"{line}\n".encode("utf-8", "surrogateescape"))
    return text.hexdigest()


class Files:
    """Image files below a folder; hidden ones and other kinds of files are passed over.

    Links are followed, each folder is entered once.
    Raises DataError when there is none, with what was found instead.
    """

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
            for entry in entries:
                name = entry.name
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
        return opened(data, str(path))

    def state(self, names: Iterable[str]) -> Iterator[str]:
        """Name, size and time of change."""
        for name in names:
            found = self._stats[name]
            yield f"{name} {found.st_size} {found.st_mtime_ns}"


class File(Files):
    """One image file, a folder of one."""

    def __init__(self, path: Path) -> None:
        self.path, self.names = path.parent, [path.name]
        self._stats = {path.name: path.stat()}


class Zip:
    """Image members of a zip file, read into memory one at a time, never unpacked to disk.

    Folders, links, hidden members and those of other kinds are passed over.
    Raises DataError for a file that is cut short, encrypted, packed by a rare method or has no
    image; Refused for a name that leaves the folder and for a member that swells beyond BYTES.
    """

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
        for info in self._zip.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            if info.is_dir() or kind not in (0, stat.S_IFREG):
                continue
            name = f"/{info.filename}"
            if name.startswith("//") or "\\" in name or "/../" in name:
                raise Refused(f"{path}: the name {info.filename!r} leaves the folder")
            if "/." in name or "/__MACOSX/" in name:
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
        return opened(data, f"{self.path}: {name}")

    def state(self, names: Iterable[str]) -> Iterator[str]:
        """Name, size and checksum of the contents."""
        for name in names:
            info = self._members[name]
            yield f"{name} {info.file_size} {info.CRC:08x}"


def _none(path: Path, others: Counter[str]) -> str:
    """The sentence for a place without images."""
    found = ", ".join(f"{n} {kind}" for kind, n in others.most_common(5)) or "nothing"
    return (
        f"{path} holds no images: found {found}; wanted are {', '.join(SUFFIXES)}, "
        "in sub-folders too"
    )
