"""Parents of a run: the runs that its components name, at checkpoints that stay the same.

<run>/parents.json has, for each key that names a run, where it was, which checkpoint of it this
run began with, and the digest of that. A parent that has moved is found by the name of its
directory under `outputs`; its checkpoint is pinned (`Checkpoints.pin`), so it is never deleted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from genlab.config.named_runs import replace_runs
from genlab.core.console import log
from genlab.core.errors import CheckpointError, ConfigError
from genlab.core.files import read_json, write_text
from genlab.run.directory import Run, find_run

__all__ = ["Parent", "find_parent", "name_by_path", "read_parents", "write_parents"]

FILE = "parents.json"


class Parent(NamedTuple):
    """A run that a key of a config names, at a checkpoint."""

    run: str  # <model>-<data>/<directory>
    path: str  # where it was
    which: str | int  # as the config has it: latest, best or images
    checkpoint: int  # images that it had seen
    weights: str
    digest: str  # of the checkpoint's manifest


def read_parents(run: Path) -> dict[str, Parent]:
    """Dotted key -> parent of a run directory; CheckpointError for a file not written here."""
    try:
        return {key: Parent(**fields) for key, fields in read_json(run / FILE).items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as e:
        raise CheckpointError(f"{run / FILE} is not one that genlab wrote: {e}") from e


def write_parents(run: Path, parents: Mapping[str, Parent]) -> None:
    """Keeps the parents of a run directory."""
    text = json.dumps({key: parent._asdict() for key, parent in parents.items()}, indent=1)
    write_text(run / FILE, text)


def find_parent(key: str, run: str, outputs: str | Path) -> Run:
    """The run that `key` names by a path, an id or latest; one that has moved, in `outputs`."""
    path = Path(run)
    if not path.is_absolute() or (path / "config.yaml").is_file():
        return find_run(run, outputs)
    try:
        found = find_run(path.name, outputs)
    except ConfigError:
        raise ConfigError(
            f"{key}: the run {run} is not there, and {outputs} has none of that name; put it "
            "back, or name another"
        ) from None
    log(f"{key}: {run} is now {found.path}")
    return found


def name_by_path(
    config: Mapping[str, Any], outputs: str | Path, *, init: bool = True
) -> dict[str, Any]:
    """The config with every run it names as a path, so that `latest` is the run it is now.

    outputs: where runs are; init: that of `init` too, which a run needs only when it begins.
    Raises ConfigError for one that is not there, CheckpointError for one without weights.
    """

    def absolute(key: str, run: str) -> str:
        if key == "init" and not init:
            return run
        found = find_parent(key, run, outputs)
        if not any((found.path / "checkpoints").glob("[0-9]*/manifest.json")):
            raise CheckpointError(f"{key}={run}: {found.path} has no checkpoint yet")
        return str(found.path.resolve())

    return replace_runs(config, absolute)
