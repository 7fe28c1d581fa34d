"""Runs that differ in the seed alone are one group; and the keys in which groups differ."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from genlab.config.compose import NOT_HASHED
from genlab.report.facts import DEEP, Facts, is_number, leaves, plain

__all__ = [
    "JUDGING",
    "Group",
    "Keys",
    "differing",
    "grouped",
    "label",
    "scalars",
    "short_key",
    "tell_apart",
    "union",
]

K = TypeVar("K")

JUDGING = ("metric", "features", "eval")
"""Top-level keys of how samples are judged while training.

They change nothing of what is computed, but runs judged in different ways are not one group.
"""

LEFT_OUT = NOT_HASHED - {*JUDGING}

MOST = 5000  # values of a config; yaml can be endless


@dataclass
class Group:
    """Runs of one config but for the seed and the places.

    values: dotted key -> value as text of what is computed and how it is judged, empty where there
    is no config to read. label: A, B, ... by the place in a table.
    """

    runs: list[Facts]
    values: dict[str, str] = field(default_factory=dict)
    label: str = ""

    @property
    def seeds(self) -> list[str]:
        """The seeds of the runs, each once."""
        return list(
            dict.fromkeys(plain(f.config["seed"]) for f in self.runs if "seed" in f.config)
        )

    @property
    def images(self) -> list[float]:
        """Images seen by each run, by the last line of its journal."""
        return [f.last("images") or 0.0 for f in self.runs]

    def who(self, key: str) -> str:
        """Who chose a value: a file or the command line."""
        return self.runs[0].who(key)


class Keys(NamedTuple):
    """Dotted keys that differ between groups.

    shown: members, keys that differ though the members are the same, and typed ones; following:
    keys that differ because the members do; apart: places, cadences and notes.
    """

    shown: list[str]
    following: list[str]
    apart: list[str]


def grouped(runs: Sequence[Facts]) -> list[Group]:
    """Groups in the order of their first runs; a run without a config stands alone."""
    found: dict[object, Group] = {}
    for i, facts in enumerate(runs):
        counted = {k: v for k, v in facts.config.items() if plain(k) not in LEFT_OUT}
        counted.pop("seed", None)
        if isinstance(data := counted.get("data"), dict):
            counted["data"] = {k: v for k, v in data.items() if k != "root"}
        same = frozenset(islice(scalars(counted), MOST)) if counted else i
        values = dict(leaves(counted, MOST))
        group = found.setdefault(same, Group([], values))
        group.runs.append(facts)
    for group in found.values():
        group.runs.sort(key=_seed)
    return list(found.values())


def differing(groups: Sequence[Group]) -> Keys:
    """The keys that differ; that one side lacks a key is a difference, too."""
    readable = [g for g in groups if g.values]
    everywhere = union(g.values for g in readable)
    keys = [k for k in everywhere if len({g.values.get(k) for g in readable}) > 1]
    deciding = [k for k in keys if k in ("model.name", "data.name")]

    def follows(key: str) -> bool:
        """Whether its value is decided by what is shown already."""
        seen: dict[tuple[str | None, ...], str | None] = {}
        for g in readable:
            members = tuple(g.values.get(k) for k in deciding)
            if seen.setdefault(members, g.values.get(key)) != g.values.get(key):
                return False
        return not any(_typed(g, key) for g in readable)

    for key in keys:
        if key.endswith(".name") and key not in deciding and not follows(key):
            deciding.append(key)
    # a member that decides nothing itself goes with those that do, and so do its keys
    rest = [k for k in keys if k not in deciding]
    following = [k for k in rest if deciding and follows(k)]
    whole = [dict(leaves(f.config, MOST)) for g in readable for f in g.runs]
    apart = [k for k in union(whole) if k not in everywhere and k != "seed"]
    return Keys(
        shown=[*deciding, *(k for k in rest if k not in following)],
        following=following,
        apart=[k for k in apart if len({node.get(k) for node in whole}) > 1],
    )


def _seed(facts: Facts) -> tuple[float, str]:
    seed = facts.config.get("seed")
    return (seed, "") if is_number(seed) else (math.inf, plain(seed))


def _typed(group: Group, key: str) -> bool:
    """Whether somebody asked for this value on the command line."""
    asked = [key]
    if key.endswith(".name"):  # of a member it stands under the room
        asked += [key.removesuffix(".name"), key.partition(".")[0]]
    return any(f.provenance.get(k) == "command line" for f in group.runs for k in asked)


def union(mappings: Iterable[Mapping[K, object]]) -> list[K]:
    """All keys of several mappings, in the order of first appearance."""
    return list(dict.fromkeys(k for m in mappings for k in m))


def tell_apart(
    nodes: Sequence[Mapping[str, str]], keys: Sequence[str], begun: Iterable[str] = ()
) -> list[str]:
    """Of some keys a few that tell all nodes apart, in the order of the keys.

    Greedy: the next one is what tells most apart beside those chosen, at first `begun`.
    """
    chosen = list(begun)

    def told(more: Iterable[str]) -> int:
        return len({tuple(node.get(k) for k in more) for node in nodes})

    while keys and told(chosen) < told(keys):
        chosen.append(max(keys, key=lambda k: told([*chosen, k])))
    return [k for k in keys if k in chosen]


def scalars(node: Any, key: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    """Every value of a nested node under its key; lists by position, so that nothing is cut."""
    if depth < DEEP and node and isinstance(node, (dict, list)):
        for k, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from scalars(value, f"{key}.{plain(k)}", depth + 1)
    else:
        yield key, plain(node)


def label(i: int) -> str:
    """A ... Z, AA, AB ...: the columns of a spreadsheet."""
    letters = ""
    while i >= 0:
        letters = chr(ord("A") + i % 26) + letters
        i = i // 26 - 1
    return letters


def short_key(key: str) -> str:
    """model.name is called model."""
    return key.removesuffix(".name")
