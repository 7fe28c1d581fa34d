"""Writing so that a crash leaves the old file or the new one, never half of either."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from genlab.core.errors import disk_error

__all__ = ["disk", "fsync_folder", "write_text"]


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
