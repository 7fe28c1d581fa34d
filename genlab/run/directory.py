"""A run directory: its config, status and lock; and the runs of an outputs folder."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shlex
import socket
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from genlab.core.errors import ConfigError, DiskError, GenlabError, Locked, Refused
from genlab.core.files import (
    check_links,
    disk,
    opened,
    read_bytes,
    read_json,
    read_text,
    write_text,
)
from genlab.core.format import clean
from genlab.run.trust import made_here, own_code, sign

__all__ = ["NAME", "Run", "find_run", "folders", "newest", "resume_command", "runs", "unknown_run"]

NAME = re.compile(r"\d{8}-\d{6}-(?:\d+-)?[0-9a-f]{6}")
"""Directory names of runs: date, time (UTC), (number if two start in one second,) config hash."""


class Run:
    """A run directory, outputs/<model>-<data>/<yyyymmdd-hhmmss>-<hash6>/.

    config.yaml       the resolved config
    overrides.txt     what was typed, a line each; --config-dir last
    provenance.json   dotted key -> the file or command line that set it
    title             <model>-<data> as chosen, where the folder is named otherwise: a variant in a
                      YAML of its own, a class outside genlab
    config.hmac       where the config names classes of one's own: that it was made here
    STATUS            running | done | interrupted: why | failed: why
    .lock             locked by the process that works on the run
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __repr__(self) -> str:
        """Id, title, status, path."""
        what = {"id": self.id, "title": self.name, "status": self.status, "path": str(self.path)}
        return f"Run({', '.join(f'{key}={value!r}' for key, value in what.items())})"

    @classmethod
    def create(
        cls,
        config: Mapping[str, Any],
        digest: str,
        overrides: Sequence[str],
        provenance: Mapping[str, str],
        title: str = "",
    ) -> Run:
        """Makes the directory with the config and its origins; DiskError if it cannot.

        title: <model>-<data> for people, "" for the name of its folder. Neither config nor digest
        has it.
        """
        from omegaconf import OmegaConf

        parent = folders(config)[0]
        with disk("make a run directory in", parent):
            parent.mkdir(parents=True, exist_ok=True)
            stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
            for number in range(1000):
                path = parent / f"{stamp}-{f'{number}-' if number else ''}{digest}"
                try:
                    path.mkdir()
                    break
                except FileExistsError:
                    continue
            (path / "checkpoints").mkdir()
        run = cls(path)
        write_text(path / "overrides.txt", "".join(f"{w}\n" for w in overrides))
        write_text(path / "provenance.json", json.dumps(dict(provenance), indent=1))
        if title and title != parent.name:
            write_text(path / "title", title + "\n")
        # the config last: a directory without one was killed while being made, and is ignored
        write_text(path / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(dict(config))))
        sign(path, config)
        return run

    @property
    def id(self) -> str:
        """The six hex digits that name the run on a command line."""
        return self.path.name.rpartition("-")[2]

    @property
    def reference(self) -> str:
        """What names the run in a command that is typed here: its id, or its path where the id
        alone finds none or another run."""
        try:
            found = find_run(self.id).path.resolve() == self.path.resolve()
        except GenlabError:
            found = False
        return self.id if found else str(self.path)

    @cached_property
    def name(self) -> str:
        """<model>-<data> as chosen."""
        with suppress(OSError, ValueError):
            found = read_text(self.path / "title", limit=200).strip()
            return clean(found) or clean(self.path.parent.name)
        return clean(self.path.parent.name)

    @property
    def title(self) -> str:
        """<model>-<data>/<directory>."""
        return clean(f"{self.name}/{self.path.name}")

    @cached_property
    def config(self) -> dict[str, Any]:
        """The resolved config; ConfigError when the file is not one genlab wrote."""
        from genlab.config.saved import read

        return read(self.path / "config.yaml")

    def rewrite_config(self, config: Mapping[str, Any], overrides: Sequence[str]) -> None:
        """Records the config a resumed run goes on with, and what was typed for it."""
        from omegaconf import OmegaConf

        with suppress(OSError, ValueError):
            who = dict(read_json(self.path / "provenance.json"))
            who |= {w.lstrip("+~").partition("=")[0]: "command line" for w in overrides}
            write_text(self.path / "provenance.json", json.dumps(who, indent=1))
            typed = read_text(self.path / "overrides.txt").splitlines()
            typed += [w for w in overrides if w not in typed]
            write_text(self.path / "overrides.txt", "".join(f"{w}\n" for w in typed))
        # of a config without code all that there is now are words of one's own
        own = made_here(self.path) or not own_code(self.config)
        write_text(self.path / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(dict(config))))
        if own:
            sign(self.path, config)
        self.__dict__.pop("config", None)

    def check_links(self, allow: bool = False) -> None:
        """Refused where links lead out of the directory. allow: follow those to one's own folders.

        W&B links its logs to its cache: nothing here reads or writes in its folders, and each of
        its processes makes a new one.
        """
        check_links(self.path, allow, self.path / "wandb")

    @property
    def status(self) -> str:
        """running | done | interrupted: why | failed: why; a dead `running` is interrupted."""
        try:
            text = clean(read_bytes(self.path / "STATUS", limit=10_000).decode().strip())
        except (OSError, ValueError):
            text = "interrupted: before it started"
        if text == "running" and not self.is_locked():
            return "interrupted: killed"
        return text

    @status.setter
    def status(self, text: str) -> None:
        write_text(self.path / "STATUS", text.splitlines()[0] + "\n")

    @property
    def written(self) -> float:
        """Time of the last write to config, status, journal or checkpoints, in seconds."""
        times = [0.0]
        for name in ("config.yaml", "STATUS", "metrics.jsonl", "checkpoints/latest"):
            with suppress(OSError):
                times.append((self.path / name).lstat().st_mtime)
        return max(times)

    def is_locked(self) -> bool:
        """Whether a process works on this run; the kernel drops a dead process's lock."""
        try:
            with opened(self.path / ".lock") as f:
                fcntl.flock(f, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as e:
            return e.errno in (errno.EWOULDBLOCK, errno.EAGAIN)
        return False

    @contextmanager
    def lock(self, patience: float = 1.0) -> Iterator[None]:
        """Holds the run for this process; Locked where another holds it for `patience` seconds.

        Not at once, because reading the status of a run locks it for a moment.
        """
        with disk("lock", self.path):
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            fd = os.open(self.path / ".lock", flags, 0o644)
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                os.close(fd)
                raise Refused(f"{self.path / '.lock'} is no regular file; remove it")
            f = open(fd, "r+b")
        with f:
            _flock(f, self.path, patience)
            yield


def folders(config: Mapping[str, Any]) -> list[Path]:
    """Where runs of a config lie: <model>-<data> in outputs, of a class without its module.

    An earlier genlab put the module before it, package.module:Class, in a folder that is the last.
    """
    names = [str(config[group]["name"]) for group in ("model", "data")]
    plain = [name.rpartition(":")[2] for name in names]
    return [Path(config["outputs"]) / n for n in dict.fromkeys(("-".join(plain), "-".join(names)))]


NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


def _flock(f: IO[bytes], path: Path, patience: float) -> None:
    end = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError as e:
            if e.errno in NO_LOCKS:
                raise DiskError(
                    f"the file system of {path} has no locks ({e.strerror}), which keep two "
                    "processes from one run; put outputs= on another one, or mount it with them"
                ) from None
            if e.errno not in (errno.EWOULDBLOCK, errno.EAGAIN):
                raise
            if time.monotonic() > end:
                f.seek(0)
                pid, _, host = clean(f.read(200).decode(errors="replace").strip()).partition(" ")
                away = host not in ("", socket.gethostname())
                who, where = (f"{pid} on {host}", " there") if away else (pid or "?", "")
                raise Locked(
                    f"process {who} works on {path}; wait for it, or stop it{where} with kill "
                    f"{pid or '?'}"
                ) from None
            time.sleep(0.1)
    f.truncate(0)
    f.write(
        f"{os.getpid()} {socket.gethostname()}".encode()
    )  # for people; the lock itself is the flock
    f.flush()


def resume_command(run: Run) -> str:
    """What goes on with it, typed where this process works."""
    return f"genlab resume run={shlex.quote(run.reference)}"


def runs(outputs: str | Path) -> list[Run]:
    """All runs under a root, oldest first."""
    found = [
        Run(path.parent)
        for path in Path(outputs).glob("*/*/config.yaml")
        if NAME.fullmatch(path.parent.name)
    ]
    return sorted(found, key=lambda r: r.path.name)


def newest(known: Sequence[Run]) -> Run:
    """The run that was written to last; of equal times the last by name."""
    return max(known, key=lambda run: (run.written, run.path.name))


def find_run(ref: str, outputs: str | Path = "outputs") -> Run:
    """The run of a path, an id, a part of the directory name, or `latest`, written to last.

    Raises ConfigError where none or several fit, and Refused for a file.
    """
    path, is_file = Path(ref), False
    with suppress(OSError, ValueError):  # a name too long for a path may still be part of a title
        if (path / "config.yaml").is_file():
            return Run(path)
        is_file = path.is_file()
    if is_file:
        raise Refused(
            f"{ref} is a file; genlab loads run directories, whose tensors are safetensors, and "
            "never unpickles: give a run directory, its id or latest"
        )
    known = runs(outputs)
    if ref == "latest" and known:
        return newest(known)
    hits = [r for r in known if r.id == ref] or [r for r in known if ref in r.title]
    if ref == "latest" or not hits:
        raise ConfigError(unknown_run(ref, known, outputs))
    if len({r.path for r in hits}) > 1 and not all(r.id == hits[0].id for r in hits):
        raise ConfigError(
            f"run={ref} could be {', '.join(r.title for r in hits[-3:])}; give more of the name"
        )
    return hits[-1]


def unknown_run(ref: str, known: Sequence[Run], outputs: str | Path) -> str:
    """The sentence about a name that no run of `outputs` has."""
    from genlab.core.registry import suggest

    hint = suggest(ref, [run.id for run in known]) or (
        f"The newest is {known[-1].id!r}." if known else "There is none."
    )
    there = [] if str(outputs) == "outputs" else [f"outputs={outputs}"]
    listing = shlex.join(["genlab", "list", "runs", *there])
    return f"no run {ref!r} in {outputs}. {hint} (`{listing}` shows all)"
