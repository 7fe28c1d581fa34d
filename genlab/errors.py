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
| 7    | DiskError      | disk full, read-only, no permission            |
| 8    | OutOfMemory    | memory of the device is exhausted              |
| 9    | Locked         | another process works on this run              |
| 10   | PeerLost       | a rank or worker died                          |
| 11   | Refused        | refused for safety                             |
| 128+n| Stopped        | signal n: 129 SIGHUP, 130 Ctrl-C, 143 SIGTERM  |
"""

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "DeviceError",
    "DiskError",
    "Diverged",
    "GenlabError",
    "Locked",
    "OutOfMemory",
    "PeerLost",
    "Refused",
    "Stopped",
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


class CheckpointError(GenlabError):
    """No checkpoint that can be read, or one of another model or version."""

    code = 4


class DeviceError(GenlabError):
    """A device, precision or package that is not there."""

    code = 5


class Diverged(GenlabError):
    """Loss or gradient stopped being finite; the last good checkpoint is kept."""

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
