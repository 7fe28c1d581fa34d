"""The runs that a config names: those of components, by keys annotated `RunRef`, and of `init`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from genlab.core import registry
from genlab.core.schema import coerce

__all__ = ["named_runs", "replace_runs", "run_name"]


def named_runs(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Dotted key -> {run, checkpoint, weights} of every run that a valid config names."""
    found = {}
    for where, group, node in registry.nodes(config):
        for key, ref in registry.named_runs(group, node).items():
            found[f"{where}.{key}"] = ref
    if config.get("init"):
        found["init"] = coerce(config["init"], "Init")
    return found


def replace_runs(config: Mapping[str, Any], change: Callable[[str, str], str]) -> dict[str, Any]:
    """The config with change(dotted key, run) in place of each run that it names."""
    out = deepcopy(dict(config))
    for where, ref in named_runs(config).items():
        node: Any = out
        *parents, key = where.split(".")
        for parent in parents:
            node = node[parent]
        run = change(where, ref["run"])
        node[key] = {**node[key], "run": run} if isinstance(node[key], Mapping) else run
    return out


def run_name(path: str) -> str:
    """The name of a run directory, which stays when it is moved; other paths as they are."""
    name = Path(path).name
    return name if re.search(r"-[0-9a-f]{6}$", name) else path
