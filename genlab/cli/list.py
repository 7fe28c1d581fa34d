"""`genlab list`: config groups, what is in one, runs. Tables for people, JSON for scripts."""

from __future__ import annotations

import calendar
import json
import math
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from genlab.cli.run_table import chosen, runs_table
from genlab.config import catalog
from genlab.core import registry
from genlab.core.errors import ConfigError
from genlab.core.files import opened, read_text
from genlab.core.format import cut, table
from genlab.core.registry import suggest

__all__ = ["class_doc", "components", "group_of", "listing", "runs"]


def listing(
    what: str,
    outputs: str = "outputs",
    as_json: bool = False,
    *,
    given: Mapping[str, str] = MappingProxyType({}),
    folders: Sequence[Path] = (),
    width: int = 10_000,
) -> str:
    """The answer of `genlab list [what]`.

    given: key -> value that runs are to have. folders: of one's own configs. width: of the
    terminal.
    """
    if what == "runs":
        every = runs(Path(outputs))
        found = chosen(every, given)
        if as_json:
            return _dump([{k: v for k, v in run.items() if k != "keys"} for run in found])
        if found:
            return runs_table(found, width)
        if every:
            asked = " ".join(f"{key}={value}" for key, value in given.items())
            return f"none of the {len(every)} runs in {outputs} has {asked}"
        return f"no runs in {outputs}; `genlab train` makes one (outputs=DIR looks elsewhere)"
    if what:
        group = group_of(what, *folders)
        rows = components(group, *folders)
        return _dump(rows) if as_json else table([(r["name"], r["doc"]) for r in rows])
    groups = {g: registry.names(g, *folders) for g in catalog.ordered(catalog.groups(*folders))}
    if as_json:
        return _dump(groups)
    lines = [(g, str(len(names)), ", ".join(names)) for g, names in groups.items()]
    return (
        table([(g, n, cut(names, 79)) for g, n, names in lines])
        + "\n\n`genlab list model` says what each is; `genlab list runs` shows the runs."
    )


def group_of(what: str, *folders: Path) -> str:
    """The group meant by its singular or plural. folders: of one's own configs."""
    groups = catalog.groups(*folders)
    for group in groups:
        if what in {group, group + "s", group + "es", re.sub("y$", "ies", group)}:
            return group
    near = suggest(what, [*groups, "runs"]) or "There are: " + ", ".join([*groups, "runs"]) + "."
    raise ConfigError(f"nothing to list under {what!r}. {near}")


def components(group: str, *folders: Path) -> list[dict[str, str]]:
    """name, doc (first line of the yaml or of the class) and config file of each component.

    folders: of one's own configs, whose files are named by their paths.
    """
    found = []
    for name in registry.names(group, *folders):
        path = catalog.find_yaml(group, name, *folders)
        assert path is not None
        keys = catalog.lines(group, name, *folders).values()
        own = [k.default for k in keys if k.name.endswith(".name")]
        doc = catalog.summary(path) or (class_doc(group, own[0]) if own else "")
        if given := {
            k.name: k.default.strip("'\"") for k in keys if k.name.startswith("promise.")
        }:
            doc += f" ({given.get('promise.metric')} {given.get('promise.value')})"
        ours = path.is_relative_to(registry.configs_dir())
        file = f"configs/{group}/{name}.yaml" if ours else str(path)
        found.append({"name": name, "doc": doc, "file": file})
    return found


def class_doc(group: str, name: Any) -> str:
    """First docstring line of a component; "" of a name that has no class."""
    if not isinstance(name, str):
        return ""
    try:
        return registry.signature(group, name).doc
    except ConfigError:
        return ""


# --- runs ----------------------------------------------------------------------------------------

TAIL = 65_536
"""Bytes read from the end of a journal to find its last losses."""


def runs(outputs: Path) -> list[dict[str, Any]]:
    """What the disk says of every run, newest first; what cannot be read is None."""
    from genlab.run import directory

    found = []
    for run in sorted(directory.runs(outputs), key=lambda r: r.path.name, reverse=True):
        last, keys = _journal(run.path / "metrics.jsonl"), _keys(run.path / "config.yaml")
        total = keys.get("schedule.images", "")
        found.append(
            {
                "id": run.id,
                "name": run.name,
                "path": str(run.path),
                "seed": int(seed) if (seed := keys.get("seed", "")).isdecimal() else None,
                "state": run.status,
                "spike": last.pop("spike", None),
                "images": max(last.pop("images", 0), _saved(run.path)),
                "total": int(total) if total.isdecimal() else None,
                "loss": last,
                "bytes": _bytes(run.path),
                "seconds": _age(run.path),
                "typed": _typed(run.path / "overrides.txt"),
                "keys": keys,
            }
        )
    return found


def _keys(path: Path) -> dict[str, str]:
    """Dotted key -> value as text of a config; empty where it cannot be read."""
    try:
        keys = catalog.scan_text(read_text(path, limit=TAIL * 4))
    except (OSError, ValueError):
        return {}
    return {key.name: key.default.strip("'\"") for key in keys}


def _typed(path: Path) -> list[str]:
    """What was typed for a run."""
    try:
        return [line for line in read_text(path, limit=TAIL).splitlines() if line.strip()]
    except (OSError, ValueError):
        return []


def _journal(path: Path) -> dict[str, Any]:
    """The last value of images and of every loss/<player>, and the images at the last spike.

    A torn last line is passed over.
    """
    from genlab.run.spike import VALUE

    try:
        with opened(path) as f:
            f.seek(max(0, f.seek(0, os.SEEK_END) - TAIL))
            lines = f.read().splitlines()
    except OSError:
        return {}
    found: dict[str, Any] = {}
    for line in reversed(lines):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if not isinstance(entry, dict):
            continue
        if any(key.startswith(VALUE) for key in entry) and isinstance(entry.get("images"), int):
            found.setdefault("spike", entry["images"])
        if "images" in found and len(found) > 1 + ("spike" in found):
            continue  # further back there may be a spike
        for key, value in entry.items():
            if not isinstance(value, (int, float)):
                continue
            if key == "images":
                found.setdefault("images", int(value) if math.isfinite(value) else 0)
            elif key.startswith("loss/"):
                found.setdefault(key.removeprefix("loss/"), value)
    return found


def _saved(path: Path) -> int:
    try:
        return int(read_text(path / "checkpoints" / "latest", path, limit=100))
    except (OSError, ValueError):
        return 0


def _bytes(path: Path) -> int:
    total = 0
    for folder, _, files in os.walk(path, onerror=None):
        for name in files:
            try:
                total += os.lstat(os.path.join(folder, name)).st_size
            except OSError:  # a checkpoint that was replaced while we looked
                continue
    return total


def _age(path: Path) -> float | None:
    """Seconds since the run began, which its name tells in UTC."""
    try:
        return time.time() - calendar.timegm(time.strptime(path.name[:15], "%Y%m%d-%H%M%S"))
    except (ValueError, OverflowError):
        return None


# --- text ----------------------------------------------------------------------------------------


def _dump(value: Any) -> str:
    """JSON; what is not finite becomes null, which every parser reads."""
    return json.dumps(_finite(value), indent=1)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
