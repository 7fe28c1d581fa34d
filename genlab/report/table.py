"""Runs side by side as one table: what differs, what was measured, and which value is best."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from genlab.core.errors import ConfigError
from genlab.core.format import number, short
from genlab.core.registry import suggest
from genlab.report.columns import (
    LOSS_GROUPS,
    Column,
    Summary,
    distinguish,
    evaluated,
    last_logged,
    matches,
)
from genlab.report.groups import (
    DifferingKeys,
    SeedGroup,
    all_keys,
    differing_keys,
    distinguishing_keys,
    group_by_seed,
    letters,
    short_key,
)
from genlab.report.run_data import METRIC, RunData

__all__ = ["Row", "Table", "few", "image_range", "tabulate"]


@dataclass
class Row:
    """A seed group evaluated in one way; cells by column; best: the columns it is the best of."""

    label: str
    group: SeedGroup
    settings: dict[str, str]
    cells: dict[Column, Summary]
    best: set[Column] = field(default_factory=set)

    def cell_text(self, column: Column) -> tuple[str, str]:
        """A cell as people read it: (mean, what belongs to it in brackets)."""
        cell = self.cells.get(column)
        if cell is None:
            return "-", ""
        notes = []
        if cell.values and cell.low < cell.high:
            notes.append(f"{number(cell.low)} to {number(cell.high)}")
        if cell.values and cell.not_finite:
            notes.append(f"{cell.not_finite} of {cell.count} not finite")
        if cell.count != len(self.group.runs):
            notes.append(f"n={cell.count}")
        return number(cell.mean) if cell.values else "not finite", ", ".join(notes)


@dataclass
class Table:
    """Rows, columns, the keys in which rows differ, and what a reader must know.

    settings: keys of the evaluations' settings that differ. distinctions: how a column differs
    from others of its name. notes: sentences. sorted_by: the key or the title of the column that
    decides the order of the rows.
    """

    groups: list[SeedGroup]
    keys: DifferingKeys
    settings: list[str]
    rows: list[Row]
    columns: list[Column]
    distinctions: dict[Column, str]
    notes: list[str]
    sorted_by: str = ""

    @property
    def runs(self) -> list[RunData]:
        """Every run, group by group."""
        return [run for group in self.groups for run in group.runs]

    def title(self, column: Column) -> str:
        """The name of a column, and how it differs from others of that name."""
        distinction = self.distinctions.get(column)
        return column.name if distinction is None else f"{column.name} ({distinction})"

    @cached_property
    def distinguishing(self) -> list[str]:
        """Of the keys that differ a few by which every group differs from all others."""
        readable = [g.values for g in self.groups if g.values]
        components = [k for k in self.keys.shown if k in ("model.name", "data.name")]
        return distinguishing_keys(readable, self.keys.shown, components)

    def description(self, group: SeedGroup) -> str:
        """How a group differs from all others: flow_matching, lr 0.001."""
        if not group.values:
            return group.runs[0].short_id
        lasts = [k.rpartition(".")[2] for k in self.distinguishing]
        parts = []
        for key, last in zip(self.distinguishing, lasts, strict=True):
            value = group.values.get(key)
            name = last if lasts.count(last) == 1 else key
            if value is not None:
                parts.append(value if last == "name" else f"{name} {value}")
        return ", ".join(parts) or group.runs[0].title


def image_range(values: Sequence[float]) -> str:
    """Counts as one, or from the least to the largest."""
    ends = dict.fromkeys(short(v) for v in (min(values), max(values)))
    return " to ".join(ends)


def tabulate(runs: Sequence[RunData], metric: Sequence[str] = (), sort: str = "") -> Table:
    """Every number of some runs, beside what differs between them.

    metric: patterns of values or metrics (fid, kid*, heldout/*); without, all that evaluations
    found and the losses. sort: a value, a key or images; the best first where something is
    better, else the least; -sort turns it round. Raises ConfigError for a name no run has.
    """
    groups = group_by_seed(runs)
    metric, rows = _patterns(metric, groups), []
    for group in groups:
        journal = last_logged(group, metric)
        found = evaluated(group, metric) or {(): {}}
        rows += [Row("", group, dict(how), cells | journal) for how, cells in found.items()]
    columns = _in_order(all_keys(row.cells for row in rows))
    keys, (distinctions, notes) = differing_keys(groups), distinguish(columns)
    table = Table(groups, keys, _differing_settings(rows), rows, columns, distinctions, notes)
    _mark_best(table)
    if sort:
        _sort(table, sort)
    _label(table)
    table.notes += [*_cautions(table), *_states(table)]
    return table


def _differing_settings(rows: Sequence[Row]) -> list[str]:
    """The keys of settings that differ, without those that repeat another column."""
    rows = [row for row in rows if row.settings]
    seen: set[tuple[str | None, ...]] = set()
    keys = []
    for key in sorted(all_keys(row.settings for row in rows), key=lambda k: k.count(".")):
        values = tuple(row.settings.get(key) for row in rows)
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
        group.label = letters(i)
        own = [row for row in table.rows if row.group is group]
        for n, row in enumerate(own, 1):
            row.label = f"{group.label}{n}" if len(own) > 1 else group.label
    table.groups = groups


def _in_order(columns: Sequence[Column]) -> list[Column]:
    """Evaluations first, those of one name together."""
    names = list(dict.fromkeys(c.name for c in columns))
    return sorted(columns, key=lambda c: (c.metric == "journal", names.index(c.name)))


def _patterns(metric: Sequence[str], groups: Sequence[SeedGroup]) -> list[str]:
    """The patterns of `metric=`, each fitting something; ConfigError for those that nothing fits.

    What was measured has two names, fid and metric/fid: one that nothing has stands for the other.
    """
    if not metric:
        return []
    found = all_keys(
        cells
        for group in groups
        for cells in (last_logged(group, ["*"]), *evaluated(group, ["*"]).values())
    )
    names = list(dict.fromkeys(c.name for c in found))
    patterns, problems = [], []
    for given in metric:
        called = (given, _other_name(given))
        fits = [p for p in called if any(matches(c.name, c.metric, [p]) for c in found)]
        patterns += fits[:1]
        if not fits:
            hint = suggest(given, names) or f"There are: {', '.join(names) or 'none'}."
            problems.append(f"metric={given}: no run has it. {hint}")
    if problems:
        raise ConfigError(*problems)
    return patterns


def _other_name(name: str) -> str:
    """metric/fid of fid and the reverse: what a journal calls that which an evaluation found."""
    return name.removeprefix(METRIC) if name.startswith(METRIC) else METRIC + name


def _mark_best(table: Table) -> None:
    """Marks the best mean of each column that compares two groups or two evaluations."""
    for column in table.columns:
        rows = [row for row in table.rows if column in row.cells]
        ranked = {id(row.group) if column.metric == "journal" else id(row) for row in rows}
        whole = [row for row in rows if not row.cells[column].not_finite]
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
            prefixes = tuple(f"{group}." for group in LOSS_GROUPS)
            keys = [*table.keys.shown, *table.keys.following]
            keys = [k for k in keys if k.startswith(prefixes)]
            if own := [k for k in keys if len({v.get(k) for v in values}) > 1]:
                differ = f"{table.title(column)} ranks runs that differ in {', '.join(own)}"
                notes.append(f"{differ}, which may change what it measures")
    for group in table.groups:
        low, high = min(group.images), max(group.images)
        if low < high:
            between = f"{short(low)} and {short(high)} images"
            notes.append(f"the runs of {group.label} stand between {between}")
    return notes


def _states(table: Table) -> list[str]:
    notes = []
    if len(table.runs) == 1:
        notes.append("one run: there is nothing to compare it with")
    elif len(table.groups) == 1:
        notes.append(f"the {len(table.runs)} runs differ in nothing but seeds and folders")
    for word in ("running", "failed", "interrupted"):
        ids = [run.short_id for run in table.runs if run.state.startswith(word)]
        if ids:
            notes.append(f"{word}: {few(ids)}")
    if bare := [run.short_id for run in table.runs if not run.config]:
        notes.append(f"no config to read, so each stands alone: {few(bare)}")
    if problems := [p for run in table.runs for p in run.problems]:
        notes.append(f"not readable: {few(list(dict.fromkeys(problems)), 3)}")
    return notes


def few(words: Sequence[str], most: int = 8) -> str:
    """The first of some words, and how many more there are."""
    left = len(words) - most
    return ", ".join(words[:most]) + (f" and {left} more" if left > 0 else "")


def _sort(table: Table, sort: str) -> None:
    key = sort.removeprefix("-")
    texts = {short_key(k): k for k in table.keys.shown} | {k: k for k in table.keys.shown}
    column, alike = _column_to_sort_by(table, key)

    def place(row: Row) -> tuple[bool, float, str]:
        if column is not None:
            mean = row.cells[column].mean if column in row.cells else math.nan
            return math.isnan(mean), _last(-mean if column.better == "high" else mean), ""
        if key == "images":
            return False, max(row.group.images), ""
        if key in table.settings:
            text = row.settings.get(key)
        else:
            text = row.group.values.get(texts[key])
        return text is None, _last(_number(text)), text or ""

    if column is None and key not in {*table.settings, *texts, "images"}:
        known = [*dict.fromkeys(c.name for c in table.columns), *texts, *table.settings, "images"]
        hint = suggest(key, known) or f"There are: {', '.join(known)}."
        raise ConfigError(f"sort={sort}: no column of that name. {hint}")
    table.sorted_by = table.title(column) if column else texts.get(key, key)
    if alike and column is not None:
        table.notes.append(f"sorted by {table.title(column)}")
    if sort.startswith("-"):  # what has no value stays last
        table.rows.sort(key=lambda r: place(r)[1:], reverse=True)
        table.rows.sort(key=lambda r: place(r)[0])
    else:
        table.rows.sort(key=place)


def _column_to_sort_by(table: Table, key: str) -> tuple[Column | None, bool]:
    """The column that a name means, and whether others could be meant; of them most rows have it.

    What was measured has two names, that of its metric and that of the journal, as `keep.best`
    takes it: fid and metric/fid. A column that is called so comes first.
    """
    found = [c for c in table.columns if key in (c.name, table.title(c))]
    found = found or [c for c in table.columns if c.name == _other_name(key)]
    best = max(found, key=lambda c: sum(c in r.cells for r in table.rows), default=None)
    return best, len(found) > 1


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan


def _last(value: float) -> float:
    """What is no number stands behind all that are."""
    return math.inf if math.isnan(value) else value
