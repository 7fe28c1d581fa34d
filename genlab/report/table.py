"""Runs side by side as one table: what differs, what was measured, and who leads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from genlab.core.errors import ConfigError
from genlab.core.format import short
from genlab.core.registry import suggest
from genlab.report.columns import METRIC, Column, Spread, judged, split, trained, wanted
from genlab.report.facts import Facts
from genlab.report.groups import (
    Group,
    Keys,
    differing,
    grouped,
    label,
    short_key,
    tell_apart,
    union,
)

__all__ = ["Row", "Table", "tabulate"]


@dataclass
class Row:
    """A group judged in one way; cells by column; best: the columns it leads."""

    label: str
    group: Group
    subject: dict[str, str]
    cells: dict[Column, Spread]
    best: set[Column] = field(default_factory=set)


@dataclass
class Table:
    """Rows, columns, the keys in which rows differ, and what a reader must know.

    judged: keys of subjects that differ. apart: what sets a column apart from others of its name.
    notes: sentences.
    """

    groups: list[Group]
    keys: Keys
    judged: list[str]
    rows: list[Row]
    columns: list[Column]
    apart: dict[Column, str]
    notes: list[str]

    @property
    def runs(self) -> list[Facts]:
        """Every run, group by group."""
        return [f for g in self.groups for f in g.runs]

    def title(self, column: Column) -> str:
        """The name of a column, and what sets it apart."""
        return f"{column.name} ({self.apart[column]})" if column in self.apart else column.name

    @cached_property
    def telling(self) -> list[str]:
        """Of the keys that differ those that tell every group from all others."""
        readable = [g.values for g in self.groups if g.values]
        members = [k for k in self.keys.shown if k in ("model.name", "data.name")]
        return tell_apart(readable, self.keys.shown, members)

    def words(self, group: Group) -> str:
        """What sets a group apart from all others: flow_matching, lr 0.001."""
        if not group.values:
            return group.runs[0].short_id
        lasts = [k.rpartition(".")[2] for k in self.telling]
        parts = []
        for key, last in zip(self.telling, lasts, strict=True):
            value = group.values.get(key)
            name = last if lasts.count(last) == 1 else key
            if value is not None:
                parts.append(value if last == "name" else f"{name} {value}")
        return ", ".join(parts) or group.runs[0].title


def tabulate(runs: Sequence[Facts], metric: Sequence[str] = (), sort: str = "") -> Table:
    """Every number of some runs, beside what differs between them.

    metric: patterns of values or metrics (fid, kid*, heldout/*); without, all that evaluations
    found and the losses. sort: a value, a key or images; the best first where something is
    better, else the least; -sort turns it round. Raises ConfigError for a name no run has.
    """
    groups = grouped(runs)
    rows = []
    for group in groups:
        journal = trained(group, metric)
        found = judged(group, metric) or {(): {}}
        rows += [
            Row("", group, dict(subject), cells | journal) for subject, cells in found.items()
        ]
    columns = _in_order(union(row.cells for row in rows))
    _check(metric, columns, groups)
    apart, sentences = split(columns)
    table = Table(groups, differing(groups), _judged(rows), rows, columns, apart, sentences)
    _mark(table)
    if sort:
        _sort(table, sort)
    _label(table)
    table.notes += [*_cautions(table), *_states(table)]
    return table


def _judged(rows: Sequence[Row]) -> list[str]:
    """The keys of subjects that differ, without those that say what stands elsewhere."""
    rows = [row for row in rows if row.subject]
    seen: set[tuple[str | None, ...]] = set()
    keys = []
    for key in sorted(union(row.subject for row in rows), key=lambda k: k.count(".")):
        values = tuple(row.subject.get(key) for row in rows)
        config = tuple(row.group.values.get(key) for row in rows)
        ends = tuple({f"{v:.0f}" for v in row.group.images} for row in rows)
        finished = key == "checkpoint" and all({v} == e for v, e in zip(values, ends, strict=True))
        if len(set(values)) > 1 and values not in seen and values != config and not finished:
            keys.append(key)
        seen.add(values)
    return keys


def _label(table: Table) -> None:
    """A, B, ... in the order of the rows; A1, A2, ... where a group has several."""
    groups = list({id(row.group): row.group for row in table.rows}.values())
    for i, group in enumerate(groups):
        group.label = label(i)
        own = [row for row in table.rows if row.group is group]
        for n, row in enumerate(own, 1):
            row.label = f"{group.label}{n}" if len(own) > 1 else group.label
    table.groups = groups


def _in_order(columns: Sequence[Column]) -> list[Column]:
    """Evaluations first, those of one name together."""
    names = list(dict.fromkeys(c.name for c in columns))
    return sorted(columns, key=lambda c: (c.metric == "journal", names.index(c.name)))


def _check(metric: Sequence[str], columns: Sequence[Column], groups: Sequence[Group]) -> None:
    """ConfigError for the patterns that nothing fits."""
    missing = [p for p in metric if not any(wanted(c.name, c.metric, [p]) for c in columns)]
    if missing:
        found = union(c for g in groups for c in (trained(g, ["*"]), *judged(g, ["*"]).values()))
        there = list(dict.fromkeys(c.name for c in found))
        hints = (suggest(p, there) or f"There are: {', '.join(there) or 'none'}." for p in missing)
        raise ConfigError(
            *(f"metric={p}: no run has it. {h}" for p, h in zip(missing, hints, strict=True))
        )


def _mark(table: Table) -> None:
    """Marks the best mean of each column that compares two groups or two ways of judging."""
    for column in table.columns:
        rows = [row for row in table.rows if column in row.cells]
        ranked = {id(row.group) if column.metric == "journal" else id(row) for row in rows}
        whole = [row for row in rows if not row.cells[column].lost]
        if column.better and len(ranked) > 1 and whole:
            pick = min if column.better == "low" else max
            best = pick(row.cells[column].mean for row in whole)
            for row in whole:
                if row.cells[column].mean == best:
                    row.best.add(column)


def _cautions(table: Table) -> list[str]:
    """Where a ranking may mislead though the protocol is one."""
    notes = []
    for column in dict.fromkeys(c for row in table.rows for c in row.best):
        if column.metric == "journal" and not column.name.startswith(METRIC):
            values = [row.group.values for row in table.rows if column in row.cells]
            rooms = ("model.", "process.", "codec.", "data.")
            keys = [k for k in (*table.keys.shown, *table.keys.following) if k.startswith(rooms)]
            if own := [k for k in keys if len({v.get(k) for v in values}) > 1]:
                differ = f"{table.title(column)} ranks runs that differ in {', '.join(own)}"
                notes.append(f"{differ}, which may change what it measures")
    for group in table.groups:
        low, high = min(group.images), max(group.images)
        if low < high:
            reach = f"{short(low)} and {short(high)} images"
            notes.append(f"the runs of {group.label} stand between {reach}")
    return notes


def _states(table: Table) -> list[str]:
    notes = []
    if len(table.runs) == 1:
        notes.append("one run: there is nothing to compare it with")
    elif len(table.groups) == 1:
        notes.append(f"the {len(table.runs)} runs differ in nothing but seeds and places")
    for word in ("running", "failed", "interrupted"):
        ids = [f.short_id for f in table.runs if f.state.startswith(word)]
        if ids:
            notes.append(f"{word}: {_few(ids)}")
    if bare := [f.short_id for f in table.runs if not f.config]:
        notes.append(f"no config to read, so each stands alone: {_few(bare)}")
    if problems := [p for f in table.runs for p in f.problems]:
        notes.append(f"not readable: {_few(list(dict.fromkeys(problems)), 3)}")
    return notes


def _few(words: Sequence[str], most: int = 8) -> str:
    left = len(words) - most
    return ", ".join(words[:most]) + (f" and {left} more" if left > 0 else "")


def _sort(table: Table, sort: str) -> None:
    key = sort.removeprefix("-")
    texts = {short_key(k): k for k in table.keys.shown} | {k: k for k in table.keys.shown}
    columns = [c for c in table.columns if key in (c.name, table.title(c))]
    column = max(columns, key=lambda c: sum(c in r.cells for r in table.rows), default=None)

    def place(row: Row) -> tuple[bool, float, str]:
        if column is not None:
            mean = row.cells[column].mean if column in row.cells else math.nan
            return math.isnan(mean), _last(-mean if column.better == "high" else mean), ""
        if key == "images":
            return False, max(row.group.images), ""
        text = row.subject.get(key) if key in table.judged else row.group.values.get(texts[key])
        return text is None, _last(_number(text)), text or ""

    if column is None and key not in {*table.judged, *texts, "images"}:
        there = [*dict.fromkeys(c.name for c in table.columns), *texts, *table.judged, "images"]
        near = suggest(key, there) or f"There are: {', '.join(there)}."
        raise ConfigError(f"sort={sort}: no column of that name. {near}")
    if len(columns) > 1 and column is not None:
        table.notes.append(f"sorted by {table.title(column)}")
    if sort.startswith("-"):  # what has no value stays last
        table.rows.sort(key=lambda r: place(r)[1:], reverse=True)
        table.rows.sort(key=lambda r: place(r)[0])
    else:
        table.rows.sort(key=place)


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan


def _last(value: float) -> float:
    """What is no number stands behind all that are."""
    return math.inf if math.isnan(value) else value
