"""Metric columns: a column holds the numbers of one protocol, and no others."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import NamedTuple

from genlab.report.groups import (
    EVALUATION_KEYS,
    SeedGroup,
    all_keys,
    completed,
    distinguishing_keys,
)
from genlab.report.run_data import METRIC, RunData, leaves, value_text
from genlab.run.results import Number

__all__ = [
    "LOSS_GROUPS",
    "Column",
    "Settings",
    "Summary",
    "distinguish",
    "evaluated",
    "journal_columns",
    "last_logged",
    "matches",
]

POOLED = {"run", "id", "seed", "batch", "residual"}
"""Keys of an evaluation's settings in which numbers of one row may differ."""

DEFAULT = ("loss/*", "heldout/loss")
"""Patterns of the journal's values that are shown when none are given."""

MACHINE = ("images_per_second", "memory", "lr/", "grad_norm/")
"""Prefixes of values that mean the same whatever is trained."""

LOSS_GROUPS = ("model", "process", "codec", "data")
"""Config groups that decide what a loss measures."""

OBJECTIVE = ("predict", "density", "location", "scale", "weight", "sd")
"""Keys of models of a path that do so too."""

Pairs = tuple[tuple[str, str], ...]
"""(dotted key, value as text) of several keys."""

Settings = Pairs
"""How a run was evaluated: weights, sampler and the like, without the keys of POOLED."""


class Column(NamedTuple):
    """What numbers must share to be ranked.

    metric: which found the value, "journal" for the last one of a training. better: low, high, or
    "" without order.
    """

    name: str
    metric: str
    protocol: Pairs
    better: str

    @property
    def is_primary(self) -> bool:
        """Whether it is a number of its own: a loss, or one with an order or the metric's name."""
        return self.metric == "journal" or bool(self.better) or self.name == self.metric


@dataclass(frozen=True)
class Summary:
    """A number over the runs of a row: its finite values, and how many were not finite."""

    values: tuple[float, ...]
    not_finite: int

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Summary:
        """None stands for a value that was not finite."""
        every = list(values)
        finite = tuple(v for v in every if v is not None and math.isfinite(v))
        return cls(finite, len(every) - len(finite))

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
        return len(self.values) + self.not_finite


def matches(name: str, metric: str, patterns: Sequence[str]) -> bool:
    """Whether a value or its metric fits a pattern by its name; without any, the defaults."""
    if not patterns:
        return metric != "journal" or any(fnmatchcase(name, p) for p in DEFAULT)
    return any(fnmatchcase(n, p) for p in patterns for n in (name, metric))


def evaluated(
    group: SeedGroup, patterns: Sequence[str] = ()
) -> dict[Settings, dict[Column, Summary]]:
    """What evaluations found, by how the runs were evaluated.

    Of two evaluations that are alike in everything the newer one counts; those that differ in the
    sampling seed alone are both in the summary.
    """
    found: dict[Settings, dict[Column, dict[tuple[int, str], float | None]]] = {}
    for i, run in enumerate(group.runs):
        for result in run.evaluations[::-1]:  # the oldest first
            keys = leaves(result.description, 200)
            settings = tuple(sorted((k, v) for k, v in keys if k.partition(".")[0] not in POOLED))
            for number in result.numbers:
                if matches(number.name, number.metric, patterns):
                    values = found.setdefault(settings, {}).setdefault(_column(number), {})
                    values[i, value_text(result.description.get("seed"))] = number.value
    return {
        settings: {column: Summary.of(values.values()) for column, values in columns.items()}
        for settings, columns in found.items()
    }


def last_logged(group: SeedGroup, patterns: Sequence[str] = ()) -> dict[Column, Summary]:
    """The last values of the journals.

    Losses of different models, data, processes or codecs are of different protocols. A lower
    held-out loss is better only where one player learns; metrics have the order of the evaluation
    that found them, and other values none.
    """
    found: dict[Column, list[float | None]] = {}
    for run in group.runs:
        for name, column in journal_columns(run).items():
            if matches(name, "journal", patterns):
                found.setdefault(column, []).append(float(run.series(name).values[-1]))
    return {column: Summary.of(values) for column, values in found.items()}


def journal_columns(run: RunData) -> dict[str, Column]:
    """The column of every quantity that a run logged.

    Of a metric: by the protocol that the evaluations during training left; where they left none,
    by what the config says of them, without order.
    """
    single = sum(n.startswith("loss/") for n in run.names) == 1
    found = {}
    for result in run.evaluations[::-1]:
        if result.while_training:
            found = {METRIC + n.name: _column(n) for n in result.numbers}
    columns = {}
    for name in run.names:
        if (column := found.get(name)) is not None:
            columns[name] = column._replace(name=name, metric="journal")
        elif name.startswith(METRIC):
            columns[name] = Column(name, "journal", _configured_protocol(run), "")
        else:
            better = "low" if name == "heldout/loss" and single else ""
            protocol = () if name.startswith(MACHINE) else _loss_protocol(run, LOSS_GROUPS)
            if name.startswith("heldout/") and protocol:
                n = completed(run.config).get("eval", {}).get("held_out")
                protocol += (("eval.held_out", value_text(n)),)
            columns[name] = Column(name, "journal", protocol, better)
    return columns


def _loss_protocol(run: RunData, groups: Sequence[str]) -> Pairs:
    """The components of some config groups, the objective, and the size of the data.

    The run itself where none of them is known: such values are ranked with no others.
    """
    nodes = {g: node for g in groups if isinstance(node := run.config.get(g), dict)}
    found = {
        g: value_text(node["name"]) for g, node in nodes.items() if node.get("name") is not None
    }
    model = nodes.get("model", {})
    found |= {f"model.{k}": value_text(model[k]) for k in OBJECTIVE if k in model}
    if (side := nodes.get("data", {}).get("size")) is not None:
        found["data.size"] = value_text(side)
    return tuple(found.items()) or (("run", run.path.name),)


def _configured_protocol(run: RunData) -> Pairs:
    """What a config says of how samples are evaluated during training."""
    config = completed(run.config)
    node = {k: config[k] for k in EVALUATION_KEYS if k in config}
    if isinstance(node.get("eval"), dict):  # which losses are of, not metrics
        node["eval"] = {k: v for k, v in node["eval"].items() if k != "held_out"}
    device = ("device", value_text(run.environment.get("device")))  # auto depends on it
    return (*_loss_protocol(run, ["data"]), *leaves(node, lists=True), device)


def _column(number: Number) -> Column:
    protocol = tuple(sorted(leaves(number.protocol, lists=True)))
    better = number.better if number.better in ("low", "high") else ""
    return Column(number.name, number.metric, protocol, better)


def distinguish(columns: Sequence[Column]) -> tuple[dict[Column, str], list[str]]:
    """How columns of one name differ: a few words for each, and a sentence about all."""
    words: dict[Column, str] = {}
    sentences: dict[str, list[str]] = {}
    for name in dict.fromkeys(c.name for c in columns):
        same = {c: _protocol(c) for c in columns if c.name == name}
        if len(same) > 1:
            keys, others = _deciding(list(same.values()))
            for c, own in same.items():
                words[c] = ", ".join(f"{k} {own.get(k, 'none')}" for k in keys)
            values = (dict.fromkeys(own.get(k, "none") for own in same.values()) for k in keys)
            differs = "; ".join(f"{k} {_and(list(v))}" for k, v in zip(keys, values, strict=True))
            also = f"; they differ also in {_and(others)}" if others else ""
            sentences.setdefault(f"{len(same)} columns: {differs}{also}", []).append(name)
    return words, [
        f"{_and(names)} {'is' if len(names) == 1 else 'are each'} in {differs}"
        for differs, names in sentences.items()
    ]


def _protocol(column: Column) -> dict[str, str]:
    """All that keeps a column apart from others of its name."""
    return {**dict(column.protocol), "metric": column.metric, "better": column.better or "neither"}


def _deciding(protocols: Sequence[Mapping[str, str]]) -> tuple[list[str], list[str]]:
    """Keys enough to distinguish all protocols, and the others that differ.

    A digest adds nothing where the name of the same thing differs.
    """
    keys = [k for k in all_keys(protocols) if len({p.get(k) for p in protocols}) > 1]
    keys = [
        k for k in keys if k.removesuffix("_digest") == k or k.removesuffix("_digest") not in keys
    ]
    chosen = distinguishing_keys(protocols, keys)
    return chosen, [k for k in keys if k not in (*chosen, "metric", "better")]


def _and(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
