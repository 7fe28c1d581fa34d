"""The tables of a page about several runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from genlab.run.columns import Column, Spread
from genlab.run.facts import plain
from genlab.run.groups import Group, short_key, union
from genlab.run.markup import Markup, tag
from genlab.run.overlay import swatch
from genlab.run.page import section, terms
from genlab.run.table import Row, Table
from genlab.run.words import number, short

__all__ = ["keys", "measured", "numbers", "problems", "reach", "runs", "spread"]

ROWS = 400  # of a table in a page
GROUPS = 12  # labels beside a value


def spread(cell: Spread | None) -> tuple[str, str]:
    """A number as people read it: (mean, what belongs to it in brackets)."""
    if cell is None:
        return "-", ""
    if not cell.values:
        return "not finite", ""
    more = []
    if cell.low < cell.high:
        more.append(f"{number(cell.low)} to {number(cell.high)}")
    if cell.lost:
        more.append(f"{cell.lost} of {cell.count} not finite")
    return number(cell.mean), ", ".join(more)


def reach(values: Sequence[float]) -> str:
    """Counts as one, or from the least to the largest."""
    ends = dict.fromkeys(short(v) for v in (min(values), max(values)))
    return " to ".join(ends)


def numbers(table: Table, looks: Mapping[str, str]) -> Markup:
    """The table of rows: what differs, then what was measured."""
    shown = [short_key(k) for k in table.keys.shown]
    spans = [("", 1), ("config", len(shown)), ("judged with", len(table.judged))]
    spans += [("trained", 2), ("measured", len(table.columns))]
    above = [tag("th", t, colspan=n, scope="colgroup" if t else None) for t, n in spans if n]
    names = [*shown, *table.judged, "runs", "images"]
    heads = [tag("th", "row", scope="col"), *(tag("th", n, scope="col") for n in names)]
    heads += [tag("th", c.name, _under(table.apart.get(c)), scope="col") for c in table.columns]
    body = [_row(table, row, looks) for row in table.rows[:ROWS]]
    left = len(table.rows) - ROWS
    scroll = {
        "class_": "scroll",
        "role": "region",
        "tabindex": 0,
        "aria_labelledby": "numbers-title",
    }
    return section(
        "numbers",
        "Numbers",
        tag(
            "div",
            tag("table", tag("thead", tag("tr", above), tag("tr", heads)), tag("tbody", body)),
            **scroll,
        ),
        tag("p", f"{left} more rows: genlab compare --json has them all.") if left > 0 else None,
        tag("ul", [tag("li", note) for note in table.notes], class_="notes")
        if table.notes
        else None,
    )


def _under(words: str | None) -> Markup | None:
    return tag("small", words) if words else None


def _row(table: Table, row: Row, looks: Mapping[str, str]) -> Markup:
    group = row.group
    name = tag("th", swatch(looks[group.label]), " ", row.label, scope="row")
    values = [group.values.get(k, "-") for k in table.keys.shown]
    values += [row.subject.get(k, "-") for k in table.judged]
    values += [str(len(group.runs)), reach(group.images)]
    cells = [_cell(row, column) for column in table.columns]
    return tag("tr", name, [tag("td", _cut(v)) for v in values], cells)


def _cell(row: Row, column: Column) -> Markup:
    cell = row.cells.get(column)
    mean, more = spread(cell)
    if cell is not None and cell.count != len(row.group.runs):
        more = ", ".join(filter(None, [more, f"n = {cell.count}"]))
    best = column in row.best
    value = [tag("b", mean), " ", tag("span", "best", class_="best")] if best else mean
    return tag("td", value, _under(more), class_="number")


def _cut(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


def measured(table: Table) -> Markup | None:
    """The protocol of every column, once for those who share it."""
    shared: dict[tuple[str, str], list[str]] = {}
    for column in table.columns:
        words = " · ".join(f"{k} {v}" for k, v in column.protocol)
        how = "last line of the journal" if column.metric == "journal" else "genlab eval"
        shared.setdefault((how, words), []).append(column.name)
    if not shared:
        return None
    rows = [(", ".join(names), f"{how}: {words}") for (how, words), names in shared.items()]
    subjects = [row.subject for row in table.rows if row.subject]
    same = {k: subjects[0][k] for k in union(subjects) if k not in table.judged}
    if same:
        rows.append(("judged with", " · ".join(f"{k} {v}" for k, v in same.items())))
    return section("measured", "How they were measured", terms(rows, "protocols"))


def keys(table: Table) -> Markup | None:
    """Every key that differs, its values, who has them and who chose them."""
    shown, following, apart = table.keys
    parts = [_keys(table, shown)] if shown else []
    if following:
        words = f"{len(following)} more that go with the members"
        parts.append(tag("details", tag("summary", words), _keys(table, following)))
    if apart:
        words = f"Places, cadences and notes differ too and do not count: {', '.join(apart[:40])}."
        parts.append(tag("p", words, class_="hint"))
    return section("keys", "Keys that differ", *parts) if parts else None


def _keys(table: Table, chosen: Sequence[str]) -> Markup:
    rows = []
    for key in chosen:
        having: dict[tuple[str, str], list[Group]] = {}
        for group in table.groups:
            if group.values:
                who = group.who(key) if key in group.values else ""
                having.setdefault((group.values.get(key, "-"), who), []).append(group)
        for i, ((value, who), groups) in enumerate(having.items()):
            head = tag("th", key, scope="rowgroup", rowspan=len(having)) if not i else None
            labels = [g.label for g in groups]
            left = len(labels) - GROUPS
            names = ", ".join(labels[:GROUPS]) + (f" and {left} more" if left > 0 else "")
            cells = [tag("td", tag("code", _cut(value))), tag("td", names)]
            rows.append(tag("tr", head, cells, tag("td", who, class_="who")))
        if len(rows) > ROWS:
            break
    heads = (tag("th", h, scope="col") for h in ("key", "value", "of", "chosen by"))
    return tag("table", tag("thead", tag("tr", *heads)), tag("tbody", rows), class_="differ")


def runs(table: Table) -> Markup:
    """Every run: how its id is typed, and how it ended."""
    heads = (tag("th", h, scope="col") for h in ("run", "of", "seed", "state", "images", "folder"))
    rows = [
        tag(
            "tr",
            tag("th", tag("code", facts.short_id), scope="row"),
            tag("td", group.label),
            tag("td", plain(facts.config["seed"]) if "seed" in facts.config else "-"),
            tag("td", _cut(facts.state)),
            tag("td", short(facts.last("images") or 0)),
            tag("td", tag("code", str(facts.path))),
        )
        for group in table.groups
        for facts in group.runs
    ]
    whole = tag("table", tag("thead", tag("tr", *heads)), tag("tbody", rows[:ROWS]))
    scroll = {"class_": "scroll", "role": "region", "tabindex": 0, "aria_labelledby": "runs-title"}
    return section("runs", "Runs", tag("div", whole, **scroll))


def problems(table: Table) -> Markup | None:
    """What could not be read."""
    found = [(f.short_id, p) for f in table.runs for p in dict.fromkeys(f.problems)]
    if not found:
        return None
    items = [tag("li", tag("code", run), " ", words) for run, words in found[:50]]
    return section("problems", "Not readable", tag("ul", items, class_="problems"))
