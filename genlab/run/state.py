"""state.json of a checkpoint: what a training goes on with beside its tensors.

An item that is missing, or no value of its kind, is an error that names it, never a silent start
at zero.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from genlab.core import schema
from genlab.core.errors import CheckpointError

__all__ = ["check_state"]

ITEMS = {
    "clock.step": "Natural",
    "clock.images": "Natural",
    "clock.drawn": "Natural",
    "scales": "dict",
    "unread": "dict",
    "best": "float | None",
    "best_of": "str",
    "world": "Count",
    "without_moments": "list[str]",
    "spikes": "dict",
}
"""What training/events.py saves, each with what it may be."""

SINCE = {"clock.drawn": 2, "best_of": 2, "without_moments": 2, "spikes": 3}
"""Format of checkpoints that an item came with; one of an earlier format may lack it."""


def check_state(state: Mapping[str, Any], players: Collection[str], folder: Path) -> list[str]:
    """CheckpointError that names each item that a training of these players cannot go on with.

    state: of the checkpoint in `folder`, as `Checkpoints.newest` returns it. Returns the items
    that it may lack, being older than they are, and does: they begin empty.
    """
    clock = state.get("clock")
    clock = clock if isinstance(clock, Mapping) else {}
    items = {**state, **{f"clock.{k}": v for k, v in clock.items()}}
    problems, younger = [], []
    for item, annotation in ITEMS.items():
        if item in items:
            problems += schema.mistyped(items, {item: annotation})
        elif state["format"] < SINCE.get(item, 1):
            younger.append(item)
        else:
            problems.append(f"{item} is missing")
    if not problems:
        problems += _of_players(items["scales"], players) + _logged(items["unread"])
        problems += _spikes(items.get("spikes", {}))
        if items.get("clock.drawn", 0) > items["clock.images"]:
            problems.append("clock.drawn is more than clock.images")
    if problems:
        raise CheckpointError(
            f"{folder / 'state.json'} is not what a training can go on with: "
            f"{'; '.join(problems[:5])}; delete {folder.name} to go on from the one before"
        )
    return younger


def _of_players(scales: Mapping[str, Any], players: Collection[str]) -> list[str]:
    """Loss scales: {} of a player without one, else {scale, calm}."""
    if sorted(scales) != sorted(players):
        here = ", ".join(sorted(players))
        return [
            f"scales are of {', '.join(sorted(scales)) or 'no player'}, the players are {here}"
        ]
    keys = {"scale": "Positive", "calm": "Natural"}
    return [
        problem
        for player, scale in scales.items()
        if scale != {}
        for problem in _items(scale, f"scales.{player}.", keys)
    ]


def _items(given: Any, prefix: str, items: Mapping[str, str]) -> list[str]:
    """What is no value of its kind in a mapping of exactly these items."""
    given = given if isinstance(given, Mapping) else {}
    return [prefix + problem for problem in schema.mistyped(given, items)]


VALUES = {
    "last": "list[float]",
    "first": "float | None",
    "before": "float | None",
    "limit": "float | None",
    "level": "float",
    "row": "Natural",
    "calm": "Natural",
    "block": "int",
}
"""What finds spikes among the values of one name."""

FOUND = {
    "name": "str",
    "step": "Natural",
    "images": "Natural",
    "value": "float",
    "before": "float",
    "limit": "float",
}
"""A spike that the journal has yet to say."""


def _spikes(state: Mapping[str, Any]) -> list[str]:
    """What was found since the last line of the journal, and of each name its last values."""
    if state == {}:  # of an older checkpoint
        return []
    names, found = state.get("names"), state.get("found")
    if not isinstance(names, Mapping) or not isinstance(found, list):
        return ["spikes must have names and found"]
    problems = []
    for name, values in names.items():
        problems += _items(values, f"spikes.names.{name}.", VALUES)
    for spike in found:
        problems += _items(spike, "spikes.found.", FOUND)
    return problems


def _logged(unread: Mapping[str, Any]) -> list[str]:
    """Values of the steps since the last line of the journal; fp16 may have overflowed there."""
    return [
        f"unread.{name} must be a list of numbers"
        for name, values in unread.items()
        if not isinstance(values, list)
        or not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    ]
