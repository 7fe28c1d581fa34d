"""Files of a run directory, which may have come from anybody.

Nothing is opened through a link: a path is walked from its root by descriptors of folders. What is
read is a regular file of bounded size and depth; what is written is there whole or not at all.
"""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import IO, Any

from genlab.core.errors import Refused, disk_error

__all__ = [
    "check_links",
    "disk",
    "fsync_folder",
    "make_folder",
    "opened",
    "read_bytes",
    "read_json",
    "read_text",
    "remove_leftovers",
    "replacing",
    "write_text",
]

LARGEST = 256_000_000  # bytes of a file that is read whole; a long journal has a tenth of that

_linked: set[Path] = set()
"""Folders that are links and may be followed: those that `check_links` has allowed."""


@contextmanager
def disk(doing: str, where: Path) -> Iterator[None]:
    """Turns an OSError of the disk into a DiskError: `cannot <doing> <where>: <cause>`."""
    try:
        yield
    except OSError as e:
        if (error := disk_error(e, doing, where)) is None:
            raise
        raise error from e


def fsync_folder(folder: Path) -> None:
    """Makes renames inside a folder survive a power cut."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


# --- links ---------------------------------------------------------------------------------------


def check_links(root: Path, allow: bool = False, apart: Path | None = None) -> None:
    """Refused where a link leads out of `root`: its maker would have us write or read elsewhere.

    allow: follow links to folders, if both are of the user who runs this; other links never.
    apart: a folder inside whose own folders are not searched.
    """
    found, inside = [], root.resolve()
    for folder, names, files in os.walk(root):
        if Path(folder).parent == apart:
            names.clear()  # and whatever is below
            continue
        for name in (*names, *files):
            path = Path(folder, name)
            if path.is_symlink() and path not in _linked and not _leads(path, inside):
                if allow and _own_folder(path):
                    _linked.add(path)
                else:
                    found.append(str(path.relative_to(root)))
    if found:
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise Refused(
            f"{root} has links inside ({', '.join(sorted(found)[:3])}{more}), and what they lead "
            "to is no part of a run: replace them by copies, or add allow=[links] where they are "
            "folders that you have linked yourself"
        )


def _leads(path: Path, inside: Path) -> bool:
    try:
        return path.resolve(strict=True).is_relative_to(inside)
    except (OSError, RuntimeError):  # to nothing, or to itself
        return False


def _own_folder(path: Path) -> bool:
    try:
        there = path.stat()
    except OSError:
        return False
    user = os.geteuid()
    return stat.S_ISDIR(there.st_mode) and path.lstat().st_uid == there.st_uid == user


@contextmanager
def _folder(path: Path, root: Path | None, make: bool = False) -> Iterator[int]:
    """A descriptor of the folder of a path below `root`; without one, of `path` as it stands."""
    top = path if root is None else root
    fd = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in () if root is None else path.relative_to(root).parts:
            top = top / part
            if make:
                try:
                    os.mkdir(part, dir_fd=fd)
                except FileExistsError:
                    pass
            follow = 0 if top in _linked else os.O_NOFOLLOW
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | follow
            inner = os.open(part, flags, dir_fd=fd)
            os.close(fd)
            fd = inner
        yield fd
    finally:
        os.close(fd)


def make_folder(path: Path, root: Path) -> Path:
    """Makes a folder below `root`, which is there, and those between them."""
    with disk("make the folder", path), _folder(path, root, make=True):
        return path


# --- reading -------------------------------------------------------------------------------------


@contextmanager
def opened(path: Path, root: Path | None = None) -> Iterator[BufferedReader]:
    """A regular file below `root` (its own folder, if None), to be read.

    Raises OSError where it is not there, is a link or anything else that is no file.
    """
    with _folder(path.parent, root) as folder:
        # a pipe without a writer would be waited for
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(path.name, flags, dir_fd=folder)
    mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(mode):
        os.close(fd)
        kind = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        raise OSError(kind, "it is no regular file", str(path))
    with open(fd, "rb") as f:
        yield f


def read_bytes(path: Path, root: Path | None = None, limit: int = LARGEST) -> bytes:
    """All bytes of a file. Raises as `opened` does, and ValueError where they are too many."""
    with opened(path, root) as f:
        size = os.fstat(f.fileno()).st_size
        if size > limit:
            raise ValueError(f"{path} has {size:,} bytes, more than {limit:,}")
        return f.read(limit)


def read_text(path: Path, root: Path | None = None, limit: int = LARGEST) -> str:
    """Its text; bytes that are no UTF-8 are replaced. Raises as `read_bytes` does."""
    return read_bytes(path, root, limit).decode("utf-8", "replace")


def read_json(path: Path, root: Path | None = None, limit: int = LARGEST) -> Any:
    """What a JSON file holds. Raises OSError, and ValueError for what is none."""
    try:
        return json.loads(read_bytes(path, root, limit))
    except RecursionError:
        raise ValueError(f"{path} is nested too deep") from None


# --- writing -------------------------------------------------------------------------------------


@contextmanager
def replacing(path: Path, root: Path | None = None, *, sync: bool = True) -> Iterator[IO[bytes]]:
    """A new file that takes the place of `path` in one step, when the block ends without error.

    sync: make it survive a power cut, which pictures by the thousand need not.
    """
    name = f".{path.name}.{_host()}.{os.getpid()}.tmp"
    with disk("write", path), _folder(path.parent, root) as folder:
        try:
            os.unlink(name, dir_fd=folder)  # of a killed process that had our number
        except FileNotFoundError:
            pass
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with open(os.open(name, flags, 0o644, dir_fd=folder), "wb") as f:
                yield f
                if sync:
                    f.flush()
                    os.fsync(f.fileno())
            os.replace(name, path.name, src_dir_fd=folder, dst_dir_fd=folder)
            if sync:
                os.fsync(folder)
        except BaseException:
            try:
                os.unlink(name, dir_fd=folder)  # give a full disk its space back
            except OSError:
                pass
            raise


def remove_leftovers(root: Path) -> None:
    """Removes files that `replacing` has begun below `root` in processes that were killed.

    Those of another machine, whose processes are not seen from here, after a day.
    """
    for folder, _, names in os.walk(root):
        for name in names:
            if (found := _TEMPORARY.fullmatch(name)) is None:
                continue
            path = Path(folder, name)
            try:
                here, old = found[1] == _host(), time.time() - path.lstat().st_mtime > DAY
                if old or (here and not _alive(int(found[2]))):
                    path.unlink()
            except OSError:  # somebody else was faster, or may not
                continue


_TEMPORARY = re.compile(r"\..+\.([\w-]+)\.(\d+)\.tmp")
DAY = 86_400  # seconds


def _host() -> str:
    """The name of this machine, as a part of file names."""
    return re.sub(r"[^\w-]", "_", socket.gethostname())


def _alive(pid: int) -> bool:
    """Whether another process has this number: what has ours is of one before us."""
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        pass
    return True


def write_text(path: Path, text: str, root: Path | None = None) -> None:
    """Replaces a small file below `root` (its own folder, if None) in one step."""
    with replacing(path, root) as f:
        f.write(text.encode())
