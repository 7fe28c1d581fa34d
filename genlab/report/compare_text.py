"""The table of `genlab compare` as text: one block that is as wide as the terminal at most."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from genlab.core.format import cut, fitting
from genlab.report.columns import Column
from genlab.report.groups import SeedGroup, short_key
from genlab.report.table import Row, Table, image_range

__all__ = ["as_text"]

WIDE = 160  # columns of a terminal from which long values are shown longer
HEAD = 16  # letters of a line that says how a column differs from others of its name


class _Column(NamedTuple):
    """A column of the text. rank: where there is no room for all, low ones stay."""

    kind: str
    name: str
    differs: list[str]  # lines: how it differs from others of its name
    cells: list[str]
    rank: int

    @property
    def width(self) -> int:
        return max(map(len, (self.kind, self.name, *self.differs, *self.cells)))


def as_text(table: Table, width: int, every: bool = False) -> str:
    """The table and its notes. What has no room is named below: nothing is folded or wrapped.

    What sets the runs apart stands first, then how and with which result they were measured.
    width: of the terminal. every: also the bounds, biases and the like that belong to other
    numbers.
    """
    shown = table.columns if every else [c for c in table.columns if c.is_primary]
    columns = list(_columns(table, shown, 32 if width >= WIDE else 20))
    order = sorted(range(len(columns)), key=lambda i: columns[i].rank)
    kept = fitting([column.width for column in columns], order, width)
    notes = ["* the best of its column"] if any(row.best for row in table.rows) else []
    if left := [c.name for i, c in enumerate(columns) if i not in kept]:
        named = ", ".join(dict.fromkeys(left))
        notes.append(f"not in {width} columns: {named}; the page, --json and a pipe have them")
    if hidden := list(dict.fromkeys(c.name for c in table.columns if c not in shown)):
        notes.append(f"metric='*' shows also {', '.join(hidden)}")
    notes += table.notes
    lines = _lines([columns[i] for i in kept])
    folded = [line for note in notes for line in _folded(_printable(note), width)]
    return "\n".join([*map(_printable, lines), *([""] if folded else []), *folded])


def _columns(table: Table, shown: Sequence[Column], most: int) -> Iterator[_Column]:
    """Every column of the table; `most` letters of a value."""
    rows, apart = table.rows, table.distinguishing
    yield _Column("", "", [], [row.label for row in rows], 0)
    yield _Column("", "run", [], [_ids(row.group) for row in rows], 0)
    for key in [*apart, *(k for k in table.keys.shown if k not in apart)]:
        cells = [cut(row.group.values.get(key, "-"), most) for row in rows]
        rank = 1 if key == table.sorted_by else 3 if key in apart else 6
        yield _Column("config", short_key(key), [], cells, rank)
    for key in table.settings:
        cells = [cut(row.settings.get(key, "-"), most) for row in rows]
        rank = 1 if key == table.sorted_by else 3 if _within_a_group(rows, key) else 6
        yield _Column("eval", key, [], cells, rank)
    there = {c: sum(c in row.cells for row in rows) for c in shown}
    first = max(shown, key=lambda c: there[c], default=None)
    for column in shown:
        cells = []
        for row in rows:
            mean, notes = row.cell_text(column)
            cells.append(mean + (f" ({notes})" if notes else "") + " *" * (column in row.best))
        rank = 1 if table.title(column) == table.sorted_by else 2 if column is first else 4
        differs = textwrap.wrap(table.distinctions.get(column, ""), HEAD)
        yield _Column("measured", column.name, differs, cells, rank)
    seeds = [cut(",".join(row.group.seeds), most) or "-" for row in rows]
    yield _Column("trained", "seeds", [], seeds, 5 if len(set(seeds)) > 1 else 7)
    images = [image_range(row.group.images) for row in rows]
    yield _Column("trained", "images", [], images, 5 if len(set(images)) > 1 else 7)


def _within_a_group(rows: Sequence[Row], key: str) -> bool:
    """Whether rows of one group differ in a setting."""
    found: dict[int, set[str | None]] = {}
    for row in rows:
        found.setdefault(id(row.group), set()).add(row.settings.get(key))
    return any(len(values) > 1 for values in found.values())


def _ids(group: SeedGroup) -> str:
    """What to type: the id of the only run, else of the first, and how many more there are."""
    first, *others = [run.short_id for run in group.runs]
    return cut(first, 20) + (f" +{len(others)}" if others else "")


def _lines(columns: Sequence[_Column]) -> list[str]:
    """Aligned lines: the kinds, the names, how columns differ, the rows."""
    tall = max(len(column.differs) for column in columns)
    kinds = ["", *(column.kind for column in columns)]
    cells = [
        [kind * (kind != before), c.name, *c.differs, *[""] * (tall - len(c.differs)), *c.cells]
        for c, before, kind in zip(columns, kinds, kinds[1:], strict=False)
    ]
    wide = [column.width for column in columns]
    return [
        "  ".join(cell.ljust(w) for cell, w in zip(line, wide, strict=True)).rstrip()
        for line in zip(*cells, strict=True)
    ]


def _folded(note: str, width: int) -> list[str]:
    return textwrap.wrap(note, width, subsequent_indent="  ", break_on_hyphens=False)


def _printable(words: str) -> str:
    """Names on a disk may hold what moves the cursor of a terminal."""
    return "".join(c if c.isprintable() else "?" for c in words)
