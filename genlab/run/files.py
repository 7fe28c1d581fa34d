"""Writing so that a crash leaves the old file or the new one, never half of either."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from genlab.core.errors import DiskError

__all__ = ["disk", "fsync_folder", "write_text"]

_WORDS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota is used up",
    errno.EFBIG: "the file may not grow further (a size limit)",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "no permission",
    errno.EPERM: "no permission",
    errno.ENOENT: "there is no such folder, and none can be made there",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ELOOP: "a link leads to itself",
    errno.EIO: "the disk does not answer",
    errno.ENOTDIR: "a parent is a file, not a folder",
    errno.EEXIST: "a file stands in the way",
}


@contextmanager
def disk(doing: str, where: Path) -> Iterator[None]:
    """Turns what a disk can do to us into one sentence: `cannot <doing> <where>: <cause>`."""
    try:
        yield
    except OSError as e:
        if e.errno not in _WORDS:
            raise
        fix = "choose another place with outputs="
        if e.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            fix = "free some space"
        raise DiskError(f"cannot {doing} {where}: {_WORDS[e.errno]}; {fix}") from e


def fsync_folder(folder: Path) -> None:
    """Makes renames inside a folder survive a power cut."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_text(path: Path, text: str) -> None:
    """Replaces a small file in one step."""
    temporary = path.with_name(f".{path.name}.tmp")
    with disk("write", path):
        with open(temporary, "w", encoding="utf-8") as f:
            f.write(text)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
        fsync_folder(path.parent)
