"""Errors for people: one sentence with the cause and the fix, and a stable exit code.

| code | class          | meaning                                        |
|------|----------------|------------------------------------------------|
| 0    |                | done                                           |
| 1    | (any other)    | a bug of ours                                  |
| 2    | ConfigError    | a name, key, value or combination              |
| 3    | DataError      | missing or unusable data                       |
| 4    | CheckpointError| no checkpoint that can be read                 |
| 5    | DeviceError    | device or package that is not there            |
| 6    | Diverged       | loss or gradient stopped being finite          |
|      | Spiked         | or rose far above, with hardware.on_spike=stop |
| 7    | DiskError      | disk full, read-only, no permission            |
| 8    | OutOfMemory    | memory of the device is exhausted              |
| 9    | Locked         | another process works on this run              |
| 10   | PeerLost       | a rank or worker died                          |
| 11   | Refused        | refused for safety                             |
| 128+n| Stopped        | signal n: 129 SIGHUP, 130 Ctrl-C, 143 SIGTERM  |

`explain` turns whatever ended a command into those sentences and that code.
"""

from __future__ import annotations

import errno

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "DeviceError",
    "DiskError",
    "Diverged",
    "GenlabError",
    "Locked",
    "MixedSizes",
    "OutOfMemory",
    "PeerLost",
    "Refused",
    "Spiked",
    "Stopped",
    "disk_error",
    "explain",
]


class GenlabError(Exception):
    """Base of every error a person can cause or meet; `code` is the process exit code."""

    code = 1


class ConfigError(GenlabError):
    """A name, key, value or combination that cannot work; may hold several problems."""

    code = 2

    def __init__(self, *problems: str) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


class DataError(GenlabError):
    """Data that is missing, unreadable or too small."""

    code = 3


class MixedSizes(DataError):
    """Images of several sizes where one was to be taken as it is.

    shape: (C, side, side) of the smallest centred square of one; classes: that they have.
    """

    def __init__(self, words: str, shape: tuple[int, ...], classes: int | None) -> None:
        super().__init__(f"{words}; set data.size=64 (or another side) to crop and resize all")
        self.words, self.shape, self.classes = words, shape, classes

    def named(self, side: int | None) -> DataError:
        """The same with the side that fits the networks."""
        return DataError(
            f"{self.words}; set data.size={side or 64}, to which the centred square of each is "
            "resized (a smaller side trains faster)"
        )


class CheckpointError(GenlabError):
    """No checkpoint that can be read, or one of another model or version."""

    code = 4


class DeviceError(GenlabError):
    """A device, precision or package that is not there."""

    code = 5


class Diverged(GenlabError):
    """Loss or gradient stopped being finite; the last good checkpoint is kept."""

    code = 6


class Spiked(GenlabError):
    """Loss or gradient rose far above the steps before; the weights before that are saved."""

    code = 6


class DiskError(GenlabError):
    """Disk full, read-only or not permitted."""

    code = 7


class OutOfMemory(GenlabError):
    """The memory of the device is exhausted."""

    code = 8


class Locked(GenlabError):
    """Another process works on this run."""

    code = 9


class PeerLost(GenlabError):
    """A rank or worker process died or raised."""

    code = 10


class Refused(GenlabError):
    """Refused for safety: pickle, foreign code, a path that leaves its root."""

    code = 11


class Stopped(GenlabError):
    """Stopped by a signal after the step was finished and saved; code is 128 + signal."""

    def __init__(self, signum: int, message: str) -> None:
        self.code = 128 + signum
        super().__init__(message)


BUG = 1

_DISK = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota is used up",
    errno.EFBIG: "the file may not grow further (a size limit)",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "no permission",
    errno.EPERM: "no permission",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ELOOP: "a link leads to itself",
    errno.EIO: "the disk does not answer",
    errno.ENOTDIR: "a parent is a file, not a folder",
}
_PATH = {
    errno.ENOENT: "there is no such folder, and none can be made there",
    errno.EEXIST: "a file stands in the way",
    errno.EISDIR: "a folder stands in the way",
    errno.EINVAL: "it is no regular file",
    errno.ENXIO: "it is a pipe",
}
"""Causes of an OSError; those of a path only where it was about to be written, else a bug."""

_IN_THE_WAY = (errno.EISDIR, errno.EINVAL, errno.ENXIO)


def disk_error(error: OSError, doing: str = "", where: object = "") -> DiskError | None:
    """`cannot <doing> <where>: <cause>; <fix>`; None for another error.

    doing, where: what was tried; left out, as far as the error itself says.
    """
    cause = {**_DISK, **(_PATH if doing else {})}.get(error.errno or 0)
    if cause is None:
        return None
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    fix = "free some space" if full else "choose another place with outputs="
    fix = "remove it" if error.errno in _IN_THE_WAY else fix
    where = where or error.filename2 or error.filename or "the place it was writing to"
    return DiskError(f"cannot {doing or 'use'} {where}: {cause}; {fix}")


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
    if isinstance(error, OSError) and (disk := disk_error(error)):
        return disk.code, [str(disk)]
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
