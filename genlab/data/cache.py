"""Decoded images on disk: written once, then mapped into memory.

A cache is a file of raw bytes [N, H, W, C] and a JSON file beside it that names it, its shape and
the key it was made for (contents, recipe, version of the reader). The bytes are written under a
temporary name and renamed, the JSON last, so what it names is always whole.

It lies in `.genlab-cache` beside the data, and where that cannot be written, in
`$XDG_CACHE_HOME/genlab` (`~/.cache/genlab`).
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import math
import os
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from genlab.core.console import log
from genlab.core.errors import DiskError

__all__ = ["Cache", "Cached", "Rows"]

VERSION = 1  # of the reader: one more when the same files give other bytes


@dataclass(frozen=True)
class Cached:
    """What a cache holds.

    images: uint8 [N, H, W, C], mapped copy on write: nothing that is done to it reaches the disk.
    notes: what happened when it was made, for the record of a run. digest: of the images; None
    of one that an older genlab has made.
    """

    images: np.ndarray
    notes: dict[str, Any] = field(default_factory=dict)
    digest: str | None = None


class Cache:
    """The decoded images of one data set at one size.

    folder: of the data. kind: which data set. variant: size and whatever else tells its
    caches apart, which lie side by side. key: text that changes when the images do.
    """

    def __init__(self, folder: Path, kind: str, variant: str, key: str) -> None:
        self.kind = _slug(kind)
        self.name = f"{self.kind}@{variant}"
        self.key = hashlib.sha256(f"{VERSION} {self.name} {key}".encode()).hexdigest()
        self._places = [folder / ".genlab-cache", _elsewhere(folder)]

    def find(self) -> Cached | None:
        """The cache if it is there, whole, and of this key; reads no pixel."""
        for place in self._places:
            meta = _meta(place / f"{self.name}.json")
            if meta is None or meta.get("key") != self.key:
                continue
            with suppress(OSError, ValueError, KeyError, TypeError):
                path, shape = place / Path(meta["file"]).name, tuple(map(int, meta["shape"]))
                if path.stat().st_size == math.prod(shape):
                    mapped = np.memmap(path, np.uint8, "c", shape=shape)
                    return Cached(mapped, dict(meta["notes"]), meta.get("digest"))
        return None

    def make(
        self, size: int, write: Callable[[Rows], tuple[tuple[int, ...], dict[str, Any]]]
    ) -> Cached:
        """The cache, made by `write` if it is not there; processes that start at once wait.

        size: bytes it will have at most. write: writes rows of bytes to a file, returns their
        shape [N, H, W, C] and notes. Raises DiskError where there is no room or no permission.
        """
        place, reasons = self._writable()
        with _lock(place / f"{self.name}.lock") as alone:
            if (found := self.find()) is not None:
                return found
            if reasons:
                log(f"{reasons[0]}; decoded images go to {place}")
            self._announce(place)
            if alone:
                for left in place.glob(f"{self.name}-*.part"):  # of a process that was killed
                    left.unlink(missing_ok=True)
            self._room(place, size)
            path = place / f"{self.name}-{self.key[:12]}.u8"
            # a name of our own: not every file system has locks
            part = path.with_suffix(f".{socket.gethostname()}-{os.getpid()}.part")
            try:
                with part.open("wb") as file:
                    rows = Rows(file)
                    shape, notes = write(rows)
                    file.flush()
                    os.fsync(file.fileno())
                part.replace(path)
                meta = {"key": self.key, "file": path.name, "shape": shape, "notes": notes}
                meta["digest"] = rows.digest.hexdigest()[:12]
                aside = part.with_suffix(".json.part")
                aside.write_text(json.dumps(meta, indent=1), encoding="ascii")
                aside.replace(place / f"{self.name}.json")
            except OSError as e:
                raise self._disk(place, e) from e
            finally:
                part.unlink(missing_ok=True)
            for old in place.glob(f"{self.name}-????????????.u8"):
                if old != path:  # a process that has it mapped keeps it
                    old.unlink(missing_ok=True)
        found = self.find()
        assert found is not None
        return found

    def digest(self, cached: Cached) -> str:
        """12 hex digits of the images: kept since they were decoded, so they are not read."""
        if cached.digest is not None:
            return cached.digest
        found = hashlib.sha256()
        for image in cached.images:
            found.update(image)
        return found.hexdigest()[:12]

    def _writable(self) -> tuple[Path, list[str]]:
        """(the first place that can be written, made if need be; why not those before)."""
        reasons = []
        for place in self._places:
            try:
                _may_write(place)
                place.mkdir(parents=True, exist_ok=True, mode=0o755)
                (place / f"{self.name}.lock").touch()
            except OSError as e:
                reasons.append(f"{place}: {e.strerror}")
                continue
            return place, reasons
        raise DiskError(
            f"decoded images can be kept nowhere ({'; '.join(reasons)}); set XDG_CACHE_HOME to a "
            "folder that can be written"
        )

    def _announce(self, place: Path) -> None:
        """Says why images are decoded although there is a cache."""
        if (place / f"{self.name}.json").exists():
            log(f"{self.name}: the data or the way they are read have changed; decoding again")
            return
        others = sorted(p.stem for p in place.glob(f"{self.kind}@*.json"))
        if others:
            log(f"{self.name}: decoded so far is only {', '.join(others)}; decoding anew")

    def _room(self, place: Path, size: int) -> None:
        free = shutil.disk_usage(place).free
        if free < size:
            raise DiskError(
                f"decoded images need {size / 1e9:.1f} GB in {place}, and {free / 1e9:.1f} GB are "
                "free there; free some space or take a smaller data.size"
            )

    @staticmethod
    def _disk(place: Path, e: OSError) -> DiskError:
        return DiskError(
            f"decoded images cannot be written to {place} ({e.strerror or e}); free some space"
        )


class Rows:
    """A file of rows to write to, and the SHA-256 of what was written."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest = file, hashlib.sha256()

    def write(self, data: bytes) -> int:
        """Appends the bytes."""
        self.digest.update(data)
        return self.file.write(data)


def _slug(name: str) -> str:
    """A short file name of plain letters; what is lost of `name` is in a digest."""
    plain = re.sub(r"[^A-Za-z0-9._]+", "_", name)[:60]
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:6]
    return plain if plain == name else f"{plain}-{digest}"


def _may_write(place: Path) -> None:
    """OSError for a folder marked read-only, where root could write but is asked not to."""
    existing = place
    while not existing.exists():
        existing = existing.parent
    if not existing.stat().st_mode & 0o222:
        raise PermissionError(errno.EACCES, "it is read-only")


def _elsewhere(folder: Path) -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    whose = hashlib.sha256(os.fsencode(os.path.realpath(folder))).hexdigest()[:12]
    return Path(os.path.expanduser(base)) / "genlab" / whose


def _meta(path: Path) -> dict[str, Any] | None:
    try:
        meta = json.loads(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return meta if isinstance(meta, dict) else None


@contextmanager
def _lock(path: Path) -> Iterator[bool]:
    """Held by one process at a time; False on a file system without locks."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            held = True
        except OSError:
            held = False
        yield held
