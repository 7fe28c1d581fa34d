"""One page about several runs: the table, samples, curves, and any number against another.

Run directories are data of somebody else: as in the report, all text passes through `tag`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from genlab import __version__
from genlab.report.columns import Column, journal, split
from genlab.report.curves import LOOKS, Line, look, overlay, swatch
from genlab.report.facts import is_number
from genlab.report.gallery import shelves
from genlab.report.groups import Group
from genlab.report.markup import Markup, tag
from genlab.report.page import document, section
from genlab.report.scatter import Axis, Point, Reach, scatter
from genlab.report.table import Row, Table
from genlab.report.tables import keys, measured, numbers, problems, runs
from genlab.run.files import write_text

__all__ = ["write_overview"]

CHARTS, FOLDED = 12, 36  # charts in front, and folded
AXES = 40


def write_overview(table: Table, target: Path) -> Path:
    """Writes the page whole or not at all; DiskError if it cannot. Returns its path."""
    looks = {group.label: look(i % LOOKS) for i, group in enumerate(table.groups)}
    drawn = table.groups[:LOOKS]
    page = document(
        f"{_groups(table)} · genlab compare",
        f"genlab {__version__}",
        _header(table, drawn, looks),
        numbers(table, looks),
        shelves(table, drawn, looks),
        _curves(table, drawn, looks),
        _against(table, looks),
        measured(table),
        keys(table, looks),
        runs(table),
        problems(table),
        styles=("page.css", "overview.css"),
        script="overview.js",
    )
    write_text(target, page.encode("utf-8", "replace").decode())  # names of files may be no text
    return target


def _header(table: Table, drawn: Sequence[Group], looks: Mapping[str, str]) -> Markup:
    items = [
        tag("li", swatch(looks[g.label]), " ", tag("b", g.label), " ", table.words(g), _seeds(g))
        for g in drawn
    ]
    left = len(table.groups) - len(drawn)
    return tag(
        "header",
        tag("p", "genlab compare", class_="eyebrow"),
        tag("h1", _groups(table)),
        tag("ul", items, class_="legend"),
        tag("p", f"{left} more stand in the table but are not drawn.", class_="hint")
        if left
        else None,
    )


def _groups(table: Table) -> str:
    n, of = len(table.runs), len(table.groups)
    words = f"{n} runs" if n != 1 else "One run"
    return words if of == n else f"{words} in {of} group{'s' * (of > 1)}"


def _seeds(group: Group) -> Markup | None:
    if len(group.runs) < 2:
        return None
    seeds = ", ".join([*group.seeds[:8], *(["..."] if len(group.seeds) > 8 else [])])
    return tag("small", f" {len(group.runs)} runs, seeds {seeds}")


# --- curves --------------------------------------------------------------------------------------


def _curves(table: Table, drawn: Sequence[Group], looks: Mapping[str, str]) -> Markup | None:
    """A chart for every quantity; one that means different things has several."""
    lines: dict[Column, list[Line]] = {}
    for group in drawn:
        for facts in group.runs:
            for name, column in journal(facts).items():
                line = Line(facts.series(name), group.label, looks[group.label])
                lines.setdefault(column, []).append(line)
    if not lines:
        return None
    apart, _ = split(list(lines))

    def shared(column: Column) -> int:
        return -len({line.label for line in lines[column]})

    front = [c for c in lines if c.name.startswith(("loss/", "heldout/", "metric/"))]
    front = sorted(front, key=lambda c: (shared(c), c.name != "heldout/loss"))[:CHARTS]
    rest = sorted((c for c in lines if c not in front), key=shared)
    made = {c: overlay(c.name, lines[c], apart.get(c, "")) for c in [*front, *rest[:FOLDED]]}
    left = len(rest) - FOLDED
    folded = tag("div", [made[c] for c in rest[:FOLDED]], class_="charts")
    more = f"{len(rest)} more: learning rates, gradients, memory and the like"
    return section(
        "curves",
        "Curves",
        tag("div", [made[c] for c in front], class_="charts"),
        tag("details", tag("summary", more), folded) if rest else None,
        tag("p", f"{left} more are not drawn.", class_="hint") if left > 0 else None,
    )


# --- any number against another ------------------------------------------------------------------


def _against(table: Table, looks: Mapping[str, str]) -> Markup | None:
    """Numbers and numeric keys of all rows, any two of them as a plane."""
    measured = [_axis(table, table.title(c), _cell(c)) for c in table.columns]
    judged = [_axis(table, f"judged with {k}", _subject(k)) for k in table.judged]
    configured = [_axis(table, k, _config(k)) for k in table.keys.shown]
    seen = _axis(table, "images seen", _images)
    several = [a for a in [*judged, *configured, seen] if _varied(a)]
    there = [a for a in measured if any(a.values)]
    if not there or len(there) + len(several) < 2 or len(table.rows) < 2:
        return None
    # what was chosen across, what came of it upwards: the first number that can be drawn so
    pairs = [max(((a, b) for a in several or there if a is not b), key=_common) for b in there]
    first = next((pair for pair in pairs if _common(pair) > 1), pairs[0])
    axes = [*first, *(a for a in [*several, *there] if a not in first)][:AXES]
    points = [Point(r.label, table.words(r.group), looks[r.group.label]) for r in table.rows]
    return section("against", "Any two numbers", scatter(points, axes))


def _axis(table: Table, title: str, value: Callable[[Row], Reach | None]) -> Axis:
    return Axis(title, [value(row) for row in table.rows])


def _common(pair: tuple[Axis, Axis]) -> int:
    """Rows that have both numbers."""
    return sum(None not in both for both in zip(pair[0].values, pair[1].values, strict=True))


def _varied(axis: Axis) -> bool:
    """Whether rows have different numbers of it."""
    return len(set(axis.values) - {None}) > 1


def _cell(column: Column) -> Callable[[Row], Reach | None]:
    def value(row: Row) -> Reach | None:
        cell = row.cells.get(column)
        return (cell.low, cell.mean, cell.high) if cell is not None and cell.values else None

    return value


def _subject(key: str) -> Callable[[Row], Reach | None]:
    return lambda row: _point(row.subject.get(key))


def _config(key: str) -> Callable[[Row], Reach | None]:
    return lambda row: _point(row.group.values.get(key))


def _images(row: Row) -> Reach | None:
    seen = row.group.images
    return min(seen), sum(seen) / len(seen), max(seen)


def _point(text: str | None) -> Reach | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return (value, value, value) if is_number(value) else None
