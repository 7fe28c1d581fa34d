"""metrics.jsonl: one object a line, append only; the truth about how a run went."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genlab.core.files import disk, opened, read_text, write_text

__all__ = ["Journal", "read_journal"]


def read_journal(path: Path) -> list[dict[str, Any]]:
    """The lines of a journal, of which only numbers count; one that is cut short is left out."""
    lines = []
    try:
        text = read_text(path)
    except FileNotFoundError:
        return []
    for row in text.splitlines():
        try:
            line = json.loads(row)
        except (ValueError, RecursionError):
            continue
        if isinstance(line, dict) and _counts(line.get("images", 0)):
            lines.append({k: v for k, v in line.items() if v is None or _counts(v)})
    return lines


def _counts(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


class Journal:
    """Appends to metrics.jsonl of a run directory."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "metrics.jsonl"

    def cut(self, images: int) -> float:
        """Drops lines later than a checkpoint; returns the training seconds up to it.

        What is dropped is kept in metrics.discarded.jsonl, so that the journal of a resumed run
        equals that of an uninterrupted one and nothing is lost.
        """
        with disk("read", self.path):
            lines = read_journal(self.path)
        kept = [x for x in lines if x.get("images", 0) <= images]
        late = [x for x in lines if x.get("images", 0) > images]
        if late:
            with disk("write", self.path):
                rows = "".join(json.dumps(x) + "\n" for x in late)
                _append(self.path.with_name("metrics.discarded.jsonl"), rows.encode())
        if self.path.exists():
            write_text(self.path, "".join(json.dumps(x) + "\n" for x in kept))
        return max((float(x.get("seconds", 0)) for x in kept), default=0.0)

    def sync(self) -> None:
        """Makes what was written survive a power cut; a checkpoint must not outlive it."""
        if self.path.exists():
            with disk("sync", self.path), opened(self.path) as f:
                os.fsync(f.fileno())

    def write(self, line: Mapping[str, float | int]) -> None:
        """Appends one line; non-finite values are written as null, which JSON can hold."""
        clean = {k: v if math.isfinite(v) else None for k, v in line.items()}
        with disk("write", self.path):
            _append(self.path, (json.dumps(clean) + "\n").encode())


def _append(path: Path, data: bytes) -> None:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    fd = os.open(path, flags, 0o644)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)
