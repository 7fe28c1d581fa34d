"""Fail points: named places where a test kills this process or fills the disk.

Without the environment variable nothing happens.


GENLAB_FAIL=save.before_rename:kill      kill -9 at the first passage
GENLAB_FAIL=save.mid_file:enospc@3       disk full at the third passage
"""

from __future__ import annotations

import errno
import os
import signal
import time

__all__ = ["EMA_POINTS", "POINTS", "point"]

POINTS = (
    "save.before_temp",
    "save.mid_file",
    "save.before_fsync",
    "save.after_fsync",
    "save.before_rename",
    "save.after_rename",
    "save.before_pointer",
    "save.mid_delete",
)
"""Passed by every save."""

EMA_POINTS = ("average.before_fsync", "average.after_rename")
"""Passed where states of an EMA are kept for later, which few models do."""

_name, _, _what = os.environ.get("GENLAB_FAIL", "").partition(":")
_kind, _, _nth = _what.partition("@")
_left = int(_nth or 1)


def point(name: str) -> None:
    """Fails here if GENLAB_FAIL names this point."""
    global _left
    assert name in POINTS + EMA_POINTS, name
    if name != _name:
        return
    _left -= 1
    if _left:
        return
    if _kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif _kind == "enospc":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    elif _kind == "sleep":
        time.sleep(5)
