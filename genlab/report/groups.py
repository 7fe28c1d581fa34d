"""Seed groups: runs that differ in the seed alone; and the keys in which groups differ."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from genlab.config.compose import NEW_KEYS, NOT_HASHED, added_to
from genlab.core import registry
from genlab.report.run_data import RunData, is_number, leaves, value_text

__all__ = [
    "EVALUATION_KEYS",
    "DifferingKeys",
    "SeedGroup",
    "all_keys",
    "completed",
    "differing_keys",
    "distinguishing_keys",
    "group_by_seed",
    "letters",
    "short_key",
]

K = TypeVar("K")

EVALUATION_KEYS = ("metric", "features", "eval")
"""Top-level keys of how samples are evaluated during training.

They change nothing of what is computed, but runs evaluated in different ways are not one group.
"""

IGNORED = NOT_HASHED - {*EVALUATION_KEYS}

MOST = 5000  # values of a config; yaml can be endless


@dataclass
class SeedGroup:
    """Runs of one config but for the seed and the keys that are not hashed.

    values: dotted key -> value as text of what is computed and how it is evaluated, empty where
    there is no config to read. label: A, B, ... by the place in a table.
    """

    runs: list[RunData]
    values: dict[str, str] = field(default_factory=dict)
    label: str = ""

    @property
    def seeds(self) -> list[str]:
        """The seeds of the runs, each once."""
        return list(dict.fromkeys(run.seed for run in self.runs if run.seed))

    @property
    def images(self) -> list[float]:
        """Images seen by each run, by the last line of its journal."""
        return [run.last("images") or 0.0 for run in self.runs]

    def chosen_by(self, key: str) -> str:
        """The file or command line that set a key."""
        return self.runs[0].chosen_by(key)


class DifferingKeys(NamedTuple):
    """Dotted keys that differ between groups.

    shown: components, keys that differ though the components are the same, and typed ones;
    following: keys that differ because the components do; ignored: keys that are not hashed.
    """

    shown: list[str]
    following: list[str]
    ignored: list[str]


def group_by_seed(runs: Sequence[RunData]) -> list[SeedGroup]:
    """Groups in the order of their first runs; a run without a config stands alone."""
    found: dict[object, SeedGroup] = {}
    for i, run in enumerate(runs):
        counted = {k: v for k, v in completed(run.config).items() if k not in IGNORED}
        counted.pop("seed", None)
        if not counted.get("metric"):
            counted.pop("eval", None)  # nothing is evaluated
        if isinstance(data := counted.get("data"), dict):
            counted["data"] = {k: v for k, v in data.items() if k != "root"}
        same = frozenset(leaves(counted, MOST, lists=True)) if counted else i
        found.setdefault(same, SeedGroup([], dict(leaves(counted, MOST)))).runs.append(run)
    for group in found.values():
        group.runs.sort(key=_by_seed)
    return list(found.values())


def completed(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config of a run with the keys that were added later, at what the run did without them."""
    found = dict(config)
    for key, default in NEW_KEYS.items() if config else ():
        if isinstance(default, dict) and isinstance(found.setdefault(key, default), dict):
            found[key] = {**default, **found[key]}
    for where, group, node in registry.nodes(config):
        role = where.partition(".")[2]
        filled = {**added_to(group, value_text(node.get("name"))), **node}
        found[group] = {**found[group], role: filled} if role else filled
    return found


def differing_keys(groups: Sequence[SeedGroup]) -> DifferingKeys:
    """The keys that differ; that one side lacks a key is a difference, too."""
    readable = [g for g in groups if g.values]
    everywhere = all_keys(g.values for g in readable)
    keys = [k for k in everywhere if len({g.values.get(k) for g in readable}) > 1]
    deciding = [k for k in keys if k in ("model.name", "data.name")]

    def follows(key: str) -> bool:
        """Whether its value is decided by what is shown already."""
        seen: dict[tuple[str | None, ...], str | None] = {}
        for g in readable:
            components = tuple(g.values.get(k) for k in deciding)
            if seen.setdefault(components, g.values.get(key)) != g.values.get(key):
                return False
        return not any(_typed(g, key) for g in readable)

    for key in keys:
        if key.endswith(".name") and key not in deciding and not follows(key):
            deciding.append(key)
    # a component that decides nothing itself goes with those that do, and so do its keys
    rest = [k for k in keys if k not in deciding]
    following = [k for k in rest if deciding and follows(k)]
    whole = [dict(leaves(run.config, MOST)) for g in readable for run in g.runs]
    ignored = [k for k in all_keys(whole) if k not in everywhere and k != "seed"]
    return DifferingKeys(
        shown=[*deciding, *(k for k in rest if k not in following)],
        following=following,
        ignored=[k for k in ignored if len({node.get(k) for node in whole}) > 1],
    )


def _by_seed(run: RunData) -> tuple[float, str]:
    seed = run.config.get("seed")
    return (seed, "") if is_number(seed) else (math.inf, value_text(seed))


def _typed(group: SeedGroup, key: str) -> bool:
    """Whether this value was given on the command line."""
    typed = [key]
    if key.endswith(".name"):  # a component is recorded under its config group
        typed += [key.removesuffix(".name"), key.partition(".")[0]]
    return any(run.provenance.get(k) == "command line" for run in group.runs for k in typed)


def all_keys(mappings: Iterable[Mapping[K, object]]) -> list[K]:
    """The keys of several mappings, in the order of first appearance."""
    return list(dict.fromkeys(k for m in mappings for k in m))


def distinguishing_keys(
    nodes: Sequence[Mapping[str, str]], keys: Sequence[str], begun: Iterable[str] = ()
) -> list[str]:
    """Of some keys a few whose values are different for any two nodes, in the order of the keys.

    Greedy: the next one distinguishes most beside those chosen, at first `begun`.
    """
    chosen = list(begun)

    def distinct(some: Iterable[str]) -> int:
        return len({tuple(node.get(k) for k in some) for node in nodes})

    while keys and distinct(chosen) < distinct(keys):
        chosen.append(max(keys, key=lambda k: distinct([*chosen, k])))
    return [k for k in keys if k in chosen]


def letters(i: int) -> str:
    """A ... Z, AA, AB ...: the columns of a spreadsheet."""
    text = ""
    while i >= 0:
        text = chr(ord("A") + i % 26) + text
        i = i // 26 - 1
    return text


def short_key(key: str) -> str:
    """model.name is called model."""
    return key.removesuffix(".name")
