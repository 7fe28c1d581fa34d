"""What is said when something went wrong: one sentence a problem, and the exit code."""

from __future__ import annotations

import errno

from genlab.errors import DeviceError, DiskError, GenlabError, OutOfMemory

__all__ = ["explain"]

BUG = 1

_DISK = {
    errno.ENOSPC: "the disk is full at {path}: free some space, or write elsewhere (outputs=DIR)",
    errno.EDQUOT: "the disk quota is used up at {path}: free some, or set another outputs=DIR",
    errno.EROFS: "{path} is on a read-only file system: choose a folder that can be written",
    errno.EACCES: "no permission for {path}: change its rights or choose another folder",
    errno.EPERM: "{path} may not be changed by this user: choose another folder",
    errno.ENAMETOOLONG: "{path} is too long a name: choose a shorter one",
    errno.ELOOP: "{path} is a link that leads to itself: choose another folder",
    errno.EIO: "the disk does not answer at {path}: check it, or choose another folder",
    errno.ENOTDIR: "{path} cannot be a folder, a part of it is a file: choose another folder",
}


def explain(error: BaseException, verb: str = "") -> tuple[int, list[str]]:
    """(exit code, sentences) for whatever ended a command."""
    if isinstance(error, GenlabError):
        return error.code, str(error).splitlines() or [type(error).__name__]
    if isinstance(error, KeyboardInterrupt):
        return 130, ["interrupted"]
    if _out_of_memory(error):
        less = "batch" if verb == "sample" else "schedule.batch"
        return OutOfMemory.code, [
            f"out of memory{_detail(error)}: lower {less}, take a smaller network, "
            "or hardware.precision=bf16 where it is fp32"
        ]
    if isinstance(error, OSError) and error.errno in _DISK:
        path = error.filename2 or error.filename or "the place it was writing to"
        return DiskError.code, [_DISK[error.errno].format(path=path)]
    if isinstance(error, ModuleNotFoundError) and not (error.name or "genlab").startswith(
        "genlab"
    ):
        package = (error.name or "").partition(".")[0]
        return DeviceError.code, [f"the Python package {package!r} is missing: pip install it"]
    return BUG, [
        f"internal error: {type(error).__name__}: {_first_line(error)} "
        "(a bug of ours; -v shows the traceback)"
    ]


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), "")


def _out_of_memory(error: BaseException) -> bool:
    """Also torch's, without importing torch: on a CPU it is a RuntimeError with this text."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error))
    )


def _detail(error: BaseException) -> str:
    text = _first_line(error)
    for mark in ("Tried to allocate", "you tried to allocate"):
        if mark in text:
            return " (" + mark.removeprefix("you ") + text.split(mark, 1)[1].split(". ")[0] + ")"
    return ""
