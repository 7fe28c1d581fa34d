"""The tables of a page about several runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from genlab.core.format import number, short
from genlab.report.columns import Column, Spread
from genlab.report.curves import swatch
from genlab.report.facts import plain
from genlab.report.groups import Group, short_key, union
from genlab.report.markup import Markup, tag
from genlab.report.page import section, terms
from genlab.report.table import Row, Table

__all__ = ["keys", "measured", "numbers", "problems", "reach", "runs", "spread"]

ROWS, COLUMNS = 400, 60  # of a table in a page
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
    """The table of rows: what was measured, then how each was trained and judged."""
    columns = table.columns[:COLUMNS]
    spans = [("measured", len(columns)), ("trained", 2), ("judged with", len(table.judged))]
    above = [tag("td"), tag("td", class_="words")]
    above += [tag("th", t, colspan=n, scope="colgroup") for t, n in spans if n]
    heads = [tag("th", "row", scope="col"), tag("th", "group", scope="col", class_="words")]
    heads += [tag("th", c.name, _under(table.apart.get(c)), scope="col") for c in columns]
    heads += [tag("th", n, scope="col") for n in ("runs", "images", *table.judged)]
    body = []
    for row in table.rows[:ROWS]:
        group = row.group
        name = tag("th", swatch(looks[group.label]), " ", row.label, scope="row")
        values = [str(len(group.runs)), reach(group.images)]
        values += [row.subject.get(k, "-") for k in table.judged]
        cells = [_cell(row, c) for c in columns] + [tag("td", _cut(v)) for v in values]
        body.append(tag("tr", name, tag("td", table.words(group), class_="words"), cells))
    left = max(len(table.rows) - ROWS, 0), len(table.columns) - len(columns)
    notes = [tag("li", note) for note in table.notes]
    more = [f"{n} more {what}" for n, what in zip(left, ("rows", "columns"), strict=True) if n]
    words = f"{' and '.join(more)}: genlab compare --json has them all."
    return section(
        "numbers",
        "Numbers",
        _scroll("numbers-title", [tag("tr", above), tag("tr", heads)], body),
        tag("p", words, class_="hint") if any(left) else None,
        tag("ul", notes, class_="notes") if notes else None,
    )


def _scroll(title: str, heads: Sequence[Markup], body: Sequence[Markup]) -> Markup:
    """A table that may be wider than the page; the keyboard can move it, too."""
    whole = tag("table", tag("thead", heads), tag("tbody", body))
    return tag("div", whole, class_="scroll", role="region", tabindex=0, aria_labelledby=title)


def _under(words: str | None) -> Markup | None:
    return tag("small", words) if words else None


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
    same = [k for k in union(subjects) if len({s.get(k) for s in subjects}) == 1]
    if same:
        rows.append(("all judged with", " · ".join(f"{k} {subjects[0][k]}" for k in same)))
    return section("measured", "How they were measured", terms(rows, "protocols"))


def keys(table: Table, looks: Mapping[str, str]) -> Markup | None:
    """Every key that differs: the value of each group, and who chose it."""
    shown, following, apart = table.keys
    parts = [_configs(table, shown, looks), _chosen(table, shown)] if shown else []
    if following:
        words = f"{len(following)} more that go with the members"
        parts.append(tag("details", tag("summary", words), _chosen(table, following)))
    if apart:
        words = f"Places, cadences and notes differ too and do not count: {', '.join(apart[:40])}."
        parts.append(tag("p", words, class_="hint"))
    return section("keys", "Keys that differ", *parts) if parts else None


def _configs(table: Table, chosen: Sequence[str], looks: Mapping[str, str]) -> Markup:
    heads = [tag("th", h, scope="col") for h in ("group", *map(short_key, chosen), "seeds")]
    body = []
    for group in table.groups[:ROWS]:
        name = tag("th", swatch(looks[group.label]), " ", group.label, scope="row")
        values = [_cut(group.values.get(k, "-")) for k in chosen]
        cells = [tag("td", v) for v in (*values, _cut(", ".join(group.seeds)) or "-")]
        body.append(tag("tr", name, cells))
    return _scroll("keys-title", [tag("tr", heads)], body)


def _chosen(table: Table, chosen: Sequence[str]) -> Markup:
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
    return section("runs", "Runs", _scroll("runs-title", [tag("tr", *heads)], rows[:ROWS]))


def problems(table: Table) -> Markup | None:
    """What could not be read."""
    found = [(f.short_id, p) for f in table.runs for p in dict.fromkeys(f.problems)]
    if not found:
        return None
    items = [tag("li", tag("code", run), " ", words) for run, words in found[:50]]
    return section("problems", "Not readable", tag("ul", items, class_="problems"))
