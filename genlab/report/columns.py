"""The numbers of runs in columns: a column holds those of one protocol, and no others."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import NamedTuple

from genlab.report.facts import Facts, leaves, plain
from genlab.report.groups import JUDGING, Group, scalars, tell_apart, union
from genlab.run.results import Number

__all__ = [
    "METRIC",
    "Column",
    "Spread",
    "Subject",
    "journal",
    "judged",
    "split",
    "trained",
    "wanted",
]

APART = {"run", "id", "seed", "batch", "residual"}
"""Keys of a subject in which two numbers of one row may differ."""

USUAL = ("loss/*", "heldout/loss")
"""Values of the journal that are shown unasked."""

METRIC = "metric/"
"""Begins the names of what evaluations while training found."""

MACHINE = ("images_per_second", "memory", "lr/", "grad_norm/")
"""Begins the names of values that mean the same whatever is trained."""

LEARNT = ("model", "process", "codec", "data")
"""Config groups that decide what a loss measures."""

OBJECTIVE = ("predict", "density", "location", "scale", "weight", "sd")
"""Keys of models of a path that do so too."""

Subject = tuple[tuple[str, str], ...]
"""How a run was judged: (dotted key, value as text) without those of APART."""


class Column(NamedTuple):
    """What numbers must share to be ranked.

    metric: which found the value, "journal" for the last one of a training. better: low, high, or
    "" without order.
    """

    name: str
    metric: str
    protocol: tuple[tuple[str, str], ...]
    better: str

    @property
    def leads(self) -> bool:
        """Whether it is a number of its own: a loss, or one with an order or the metric's name."""
        return self.metric == "journal" or bool(self.better) or self.name == self.metric


@dataclass(frozen=True)
class Spread:
    """A number over the runs of a row: its finite values, and how many were not finite."""

    values: tuple[float, ...]
    lost: int

    @property
    def mean(self) -> float:
        """Mean of the finite values; nan without any."""
        return math.fsum(v / len(self.values) for v in self.values) if self.values else math.nan

    @property
    def low(self) -> float:
        """The least finite value."""
        return min(self.values, default=math.nan)

    @property
    def high(self) -> float:
        """The largest finite value."""
        return max(self.values, default=math.nan)

    @property
    def count(self) -> int:
        """Values, finite or not."""
        return len(self.values) + self.lost


def wanted(name: str, metric: str, patterns: Sequence[str]) -> bool:
    """Whether a value is asked for by its name or its metric's; without patterns all are."""
    if not patterns:
        return metric != "journal" or any(fnmatchcase(name, p) for p in USUAL)
    return any(fnmatchcase(n, p) for p in patterns for n in (name, metric))


def judged(group: Group, patterns: Sequence[str] = ()) -> dict[Subject, dict[Column, Spread]]:
    """What evaluations found, by how the runs were judged.

    Of two evaluations that are alike in everything the newer one counts; those that differ in the
    sampling seed alone are both in the spread.
    """
    found: dict[Subject, dict[Column, dict[tuple[int, str], float | None]]] = {}
    for i, facts in enumerate(group.runs):
        for result in facts.judged[::-1]:  # the oldest first
            subject = leaves(result.subject, 200)
            same = tuple(sorted((k, v) for k, v in subject if k.partition(".")[0] not in APART))
            for number in result.numbers:
                if wanted(number.name, number.metric, patterns):
                    values = found.setdefault(same, {}).setdefault(_column(number), {})
                    values[i, plain(result.subject.get("seed"))] = number.value
    return {
        subject: {c: _spread(values.values()) for c, values in columns.items()}
        for subject, columns in found.items()
    }


def trained(group: Group, patterns: Sequence[str] = ()) -> dict[Column, Spread]:
    """The last values of the journals.

    Losses of different models, data, processes or codecs are of different protocols. A lower
    held-out loss is better only where one player learns; metrics have the order of the evaluation
    that found them, and other values none.
    """
    found: dict[Column, list[float | None]] = {}
    for facts in group.runs:
        for name, column in journal(facts).items():
            if wanted(name, "journal", patterns):
                found.setdefault(column, []).append(float(facts.series(name).values[-1]))
    return {column: _spread(values) for column, values in found.items()}


def journal(facts: Facts) -> dict[str, Column]:
    """The column of every quantity that a run logged.

    Of a metric: by the protocol that the evaluations while training left; where they left none, by
    what the config asks of them, without order.
    """
    single = sum(n.startswith("loss/") for n in facts.names) == 1
    found = {}
    for result in facts.judged[::-1]:
        if result.while_training:
            found = {METRIC + n.name: _column(n) for n in result.numbers}
    columns = {}
    for name in facts.names:
        if (left := found.get(name)) is not None:
            columns[name] = left._replace(name=name, metric="journal")
        elif name.startswith(METRIC):
            columns[name] = Column(name, "journal", _asked(facts), "")
        else:
            better = "low" if name == "heldout/loss" and single else ""
            sense = () if name.startswith(MACHINE) else _meaning(facts, LEARNT)
            columns[name] = Column(name, "journal", sense, better)
    return columns


def _meaning(facts: Facts, groups: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Some groups' components, and the size of the data; the run itself where none is known."""
    nodes = {r: node for r in groups if isinstance(node := facts.config.get(r), dict)}
    found = {r: plain(node["name"]) for r, node in nodes.items() if node.get("name") is not None}
    model = nodes.get("model", {})
    found |= {f"model.{k}": plain(model[k]) for k in OBJECTIVE if k in model}
    if (side := nodes.get("data", {}).get("size")) is not None:
        found["data.size"] = plain(side)
    return tuple(found.items()) or (("run", facts.path.name),)


def _asked(facts: Facts) -> tuple[tuple[str, str], ...]:
    """What a config says of how samples are judged while training."""
    asked = [(r, facts.config[r]) for r in JUDGING if r in facts.config]
    keys = [(f"{r}{k}", value) for r, node in asked for k, value in scalars(node)]
    device = ("device", plain(facts.environment.get("device")))  # auto depends on it
    return (*_meaning(facts, ["data"]), *keys, device)


def _column(number: Number) -> Column:
    protocol = sorted((k.removeprefix("."), v) for k, v in scalars(dict(number.protocol)))
    better = number.better if number.better in ("low", "high") else ""
    return Column(number.name, number.metric, tuple(protocol), better)


def _spread(values: Iterable[float | None]) -> Spread:
    every = list(values)
    finite = tuple(v for v in every if v is not None and math.isfinite(v))
    return Spread(finite, len(every) - len(finite))


def split(columns: Sequence[Column]) -> tuple[dict[Column, str], list[str]]:
    """What sets columns of one name apart: a few words for each, and a sentence about all."""
    words: dict[Column, str] = {}
    said: dict[str, list[str]] = {}
    for name in dict.fromkeys(c.name for c in columns):
        same = {c: _protocol(c) for c in columns if c.name == name}
        if len(same) > 1:
            keys, others = _deciding(list(same.values()))
            for c, own in same.items():
                words[c] = ", ".join(f"{k} {own.get(k, 'none')}" for k in keys)
            values = (dict.fromkeys(own.get(k, "none") for own in same.values()) for k in keys)
            differs = "; ".join(f"{k} {_and(list(v))}" for k, v in zip(keys, values, strict=True))
            also = f"; they differ also in {_and(others)}" if others else ""
            said.setdefault(f"{len(same)} columns: {differs}{also}", []).append(name)
    return words, [
        f"{_and(names)} {'is' if len(names) == 1 else 'are each'} in {differs}"
        for differs, names in said.items()
    ]


def _protocol(column: Column) -> dict[str, str]:
    """All that keeps a column apart from others of its name."""
    return {**dict(column.protocol), "metric": column.metric, "better": column.better or "neither"}


def _deciding(protocols: Sequence[Mapping[str, str]]) -> tuple[list[str], list[str]]:
    """Keys enough to tell all protocols apart, and the others that differ.

    The digest of a thing says nothing new where its name differs.
    """
    keys = [k for k in union(protocols) if len({p.get(k) for p in protocols}) > 1]
    keys = [
        k for k in keys if k.removesuffix("_digest") == k or k.removesuffix("_digest") not in keys
    ]
    chosen = tell_apart(protocols, keys)
    return chosen, [k for k in keys if k not in (*chosen, "metric", "better")]


def _and(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
