"""Whose code a config may name: one's own words, runs made here, runs that are trusted by name.

A run made here whose config names classes of one's own (`package.module:Class`) has, in
config.hmac, a hash of config.yaml keyed with a secret of this user. The secret lies in the user's
state folder, never under outputs, so that no received run can have a valid one.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from genlab.core import registry
from genlab.core.console import log
from genlab.core.files import read_bytes, write_text

__all__ = ["made_here", "own_code", "sign", "trusted", "trusted_runs"]

FILE = "config.hmac"


def trusted(run: Path, trust: bool | Sequence[str], *, first: bool = False) -> bool:
    """Whether a run's config may import code from outside genlab.

    trust: the word of the command line; true speaks of the run that is named first, a list of the
    runs at these paths. first: whether this is that run.
    """
    if trust is True and first:
        return True
    paths = [Path(path).expanduser().resolve() for path in trusted_runs(trust)]
    return run.resolve() in paths or made_here(run)


def trusted_runs(trust: bool | Sequence[str]) -> list[str]:
    """The paths of runs that the word `trust` of a command line names."""
    return [] if isinstance(trust, bool) else list(trust)


def made_here(run: Path) -> bool:
    """Whether this user's genlab wrote the config that a run directory has."""
    try:
        found = read_bytes(run / FILE, limit=100).decode("ascii").strip()
        return hmac.compare_digest(found, _hash(read_bytes(run / "config.yaml"), _key()))
    except (OSError, ValueError):
        return False


def sign(run: Path, config: Mapping[str, Any]) -> None:
    """Marks the config that was just written as made here, where it names code of one's own."""
    if not own_code(config):
        return
    try:
        key = _key(make=True)
    except OSError as e:
        log(f"{_folder()} cannot be written ({e.strerror}): this run will need trust=true later")
        return
    write_text(run / FILE, _hash(read_bytes(run / "config.yaml"), key) + "\n")


def own_code(config: Mapping[str, Any]) -> set[str]:
    """The names `package.module:Class` in a config."""
    names = (str(node.get("name")) for _, _, node in registry.nodes(config))
    return {name for name in names if ":" in name}


def _hash(config: bytes, key: bytes) -> str:
    return hmac.new(key, config, hashlib.sha256).hexdigest()


def _folder() -> Path:
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "genlab"


def _key(make: bool = False) -> bytes:
    """The secret; OSError where there is none, or none can be made."""
    path = _folder() / "key"
    if make:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with suppress(FileExistsError):
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            with open(fd, "wb") as f:
                f.write(secrets.token_bytes(32))
    key = read_bytes(path, limit=100)
    if len(key) < 32:
        raise OSError(0, "its key is cut short", str(path))
    return key
