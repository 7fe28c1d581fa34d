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
}
"""What training/events.py saves, each with what it may be."""

FIRST = ("clock.step", "clock.images", "scales", "unread", "best", "world")
"""Items of the first format of checkpoints; one of that format may lack the others."""


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
        elif state["format"] == 1 and item not in FIRST:
            younger.append(item)
        else:
            problems.append(f"{item} is missing")
    if not problems:
        problems += _of_players(items["scales"], players) + _logged(items["unread"])
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
    problems = []
    for player, scale in scales.items():
        if scale != {}:
            keys = {"scale": "Positive", "calm": "Natural"}
            given = scale if isinstance(scale, Mapping) else {}
            known = {f"scales.{player}.{key}": given.get(key) for key in keys}
            problems += schema.mistyped(
                known, {f"scales.{player}.{key}": what for key, what in keys.items()}
            )
    return problems


def _logged(unread: Mapping[str, Any]) -> list[str]:
    """Values of the steps since the last line of the journal; fp16 may have overflowed there."""
    return [
        f"unread.{name} must be a list of numbers"
        for name, values in unread.items()
        if not isinstance(values, list)
        or not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    ]
