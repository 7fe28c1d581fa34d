"""The page about several runs: its tables, samples, curves, and any number against another.

Run directories are data of somebody else: as in the report, all text passes through `tag`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from genlab import __version__
from genlab.core.format import count, short
from genlab.report.columns import Column, distinguish, journal_columns
from genlab.report.curves import LINE_STYLES, Line, line_style, overlay, swatch
from genlab.report.gallery import image
from genlab.report.groups import SeedGroup, all_keys, short_key
from genlab.report.images import last_training_grid
from genlab.report.markup import Markup, tag
from genlab.report.page import (
    document,
    folded,
    html_table,
    left_out,
    problems_section,
    section,
    small,
    terms,
    write_page,
)
from genlab.report.run_data import RunData, is_number
from genlab.report.scatter import Axis, Interval, Point, scatter
from genlab.report.table import Row, Table, few, image_range

__all__ = ["write_overview"]

CHARTS, FOLDED = 12, 36  # charts in front, and folded
AXES = 40
ROWS, COLUMNS = 400, 60  # of a table
LABELS = 12  # of groups beside a value
PICTURES, SEEDS = 24, 3
BYTES = 6_000_000  # of all pictures

Styles = Mapping[str, str]
"""Label of a group -> the CSS classes of its lines and points."""


def write_overview(table: Table, target: Path) -> Path:
    """Writes the page whole or not at all; DiskError if it cannot. Returns its path."""
    styles = {group.label: line_style(i % LINE_STYLES) for i, group in enumerate(table.groups)}
    drawn = table.groups[:LINE_STYLES]
    page = document(
        f"{_title(table)} · genlab compare",
        f"genlab {__version__}",
        _header(table, drawn, styles),
        _numbers_section(table, styles),
        _samples_section(table, drawn, styles),
        _curves_section(table, drawn, styles),
        _scatter_section(table, styles),
        _protocols_section(table),
        _keys_section(table, styles),
        _runs_section(table),
        problems_section(
            [tag("code", run.short_id), " ", problem]
            for run in table.runs
            for problem in dict.fromkeys(run.problems)
        ),
        stylesheets=("page.css", "overview.css"),
        scripts=("chart.js", "overview.js"),
    )
    return write_page(target, page)


def _header(table: Table, drawn: Sequence[SeedGroup], styles: Styles) -> Markup:
    items = []
    for group in drawn:
        name = [swatch(styles[group.label]), " ", tag("b", group.label)]
        items.append(tag("li", name, " ", table.description(group), _seeds(group)))
    left = len(table.groups) - len(drawn)
    return tag(
        "header",
        tag("p", "genlab compare", class_="eyebrow"),
        tag("h1", _title(table)),
        tag("ul", items, class_="legend"),
        left_out(left, "{} more stand in the table but are not drawn."),
    )


def _title(table: Table) -> str:
    n, of = len(table.runs), len(table.groups)
    words = f"{n} runs" if n != 1 else "One run"
    return words if of == n else f"{words} in {of} group{'s' * (of > 1)}"


def _seeds(group: SeedGroup) -> Markup | None:
    if len(group.runs) < 2:
        return None
    seeds = ", ".join([*group.seeds[:8], *(["..."] if len(group.seeds) > 8 else [])])
    return tag("small", f" {len(group.runs)} runs, seeds {seeds}")


# --- numbers -------------------------------------------------------------------------------------


def _numbers_section(table: Table, styles: Styles) -> Markup:
    """The table of rows: what was measured, then how each was trained and evaluated."""
    columns = table.columns[:COLUMNS]
    spans = [
        ("measured", len(columns)),
        ("trained", 2),
        ("evaluated with", len(table.settings)),
    ]
    above = [tag("td"), tag("td", class_="words")]
    above += [tag("th", t, colspan=n, scope="colgroup") for t, n in spans if n]
    heads = [tag("th", "row", scope="col"), tag("th", "group", scope="col", class_="words")]
    heads += [
        tag("th", c.name, small(table.distinctions.get(c, "")), scope="col") for c in columns
    ]
    heads += [tag("th", n, scope="col") for n in ("runs", "images", *table.settings)]
    body = []
    for row in table.rows[:ROWS]:
        group = row.group
        name = tag("th", swatch(styles[group.label]), " ", row.label, scope="row")
        values = [str(len(group.runs)), image_range(group.images)]
        values += [row.settings.get(k, "-") for k in table.settings]
        cells = [_number_cell(row, c) for c in columns] + [tag("td", _cut(v)) for v in values]
        body.append(tag("tr", name, tag("td", table.description(group), class_="words"), cells))
    head = tag("thead", tag("tr", above), tag("tr", heads))
    left = max(len(table.rows) - ROWS, 0), len(table.columns) - len(columns)
    notes = [tag("li", note) for note in table.notes]
    more = [f"{n} more {what}" for n, what in zip(left, ("rows", "columns"), strict=True) if n]
    words = f"{' and '.join(more)}: genlab compare --json has them all."
    return section(
        "numbers",
        "Numbers",
        _scrolling("numbers-title", tag("table", head, tag("tbody", body))),
        tag("p", words, class_="hint") if any(left) else None,
        tag("ul", notes, class_="notes") if notes else None,
    )


def _scrolling(title: str, table: Markup) -> Markup:
    """A table that may be wider than the page; the keyboard can move it, too."""
    return tag("div", table, class_="scroll", role="region", tabindex=0, aria_labelledby=title)


def _number_cell(row: Row, column: Column) -> Markup:
    mean, notes = row.cell_text(column)
    best = column in row.best
    value = [tag("b", mean), " ", tag("span", "best", class_="best")] if best else mean
    return tag("td", value, small(notes), class_="number")


def _cut(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


def _protocols_section(table: Table) -> Markup | None:
    """The protocol of every column, once for those who share it."""
    shared: dict[tuple[str, str], list[str]] = {}
    for column in table.columns:
        words = " · ".join(f"{k} {v}" for k, v in column.protocol)
        how = "last line of the journal" if column.metric == "journal" else "genlab eval"
        shared.setdefault((how, words), []).append(column.name)
    if not shared:
        return None
    rows = [(", ".join(names), f"{how}: {words}") for (how, words), names in shared.items()]
    settings = [row.settings for row in table.rows if row.settings]
    same = [k for k in all_keys(settings) if len({s.get(k) for s in settings}) == 1]
    if same:
        rows.append(("all evaluated with", " · ".join(f"{k} {settings[0][k]}" for k in same)))
    return section("measured", "How they were measured", terms(rows, "protocols"))


# --- samples -------------------------------------------------------------------------------------


def _samples_section(table: Table, drawn: Sequence[SeedGroup], styles: Styles) -> Markup | None:
    """The last grid of each training, a row a seed; the one that most groups share comes first."""
    having: dict[str, list[tuple[SeedGroup, RunData]]] = {}
    for group in drawn:
        for run in group.runs:
            having.setdefault(run.seed, []).append((group, run))

    def sharing(seed: str) -> int:
        return len({group.label for group, _ in having[seed]}) if seed else 0

    image_rows: list[tuple[Markup, Markup]] = []
    tried = size = 0
    for seed in sorted(having, key=sharing, reverse=True)[:SEEDS]:
        figures = []
        for group, run in having[seed]:
            if tried < PICTURES and size < BYTES:
                found = _last_grid(table, group, run, styles[group.label])
                figures += found
                tried += 1
                size += sum(map(len, found))
        if figures:
            name = tag("h3", f"Seed {seed or 'not known'}")
            image_rows.append((name, tag("div", figures, class_="image-row")))
    if not image_rows:
        return None
    lead = "The last grid of each training. "
    if max(map(sharing, having)) > 1:
        lead += "Runs of one seed drew them from the same random numbers."
    elif len(drawn) > 1:
        lead += "No two groups share a seed, so the noise of their samples differs."
    first, *others = image_rows
    more = f"{len(others)} more seed{'s' * (len(others) > 1)}"
    left = sum(map(len, having.values())) - tried
    return section(
        "samples",
        "Samples",
        tag("p", lead, class_="lead"),
        first,
        folded(more, others) if others else None,
        left_out(left, "Grids of {} more runs stay in their folders."),
    )


def _last_grid(table: Table, group: SeedGroup, run: RunData, style: str) -> list[Markup]:
    grids = last_training_grid(run.path, run.problems)
    what = "reconstructions" if grids.reconstructs else "samples"
    figures = []
    for images, picture in grids.frames:
        words = f"{table.description(group)} · {what} after {count(images)} images"
        caption = tag("figcaption", swatch(style), " ", tag("b", group.label), " ", words)
        figures.append(tag("figure", image(picture, f"{group.label}: {words}"), caption))
    return figures


# --- curves --------------------------------------------------------------------------------------


def _curves_section(table: Table, drawn: Sequence[SeedGroup], styles: Styles) -> Markup | None:
    """A chart for every quantity; one that means different things has several."""
    lines: dict[Column, list[Line]] = {}
    for group in drawn:
        for run in group.runs:
            for name, column in journal_columns(run).items():
                line = Line(run.series(name), group.label, styles[group.label])
                lines.setdefault(column, []).append(line)
    if not lines:
        return None
    distinctions, _ = distinguish(list(lines))

    def shared(column: Column) -> int:
        return -len({line.label for line in lines[column]})

    front = [c for c in lines if c.name.startswith(("loss/", "heldout/", "metric/"))]
    front = sorted(front, key=lambda c: (shared(c), c.name != "heldout/loss"))[:CHARTS]
    rest = sorted((c for c in lines if c not in front), key=shared)
    charts = {
        c: overlay(c.name, lines[c], distinctions.get(c, "")) for c in [*front, *rest[:FOLDED]]
    }
    behind = tag("div", [charts[c] for c in rest[:FOLDED]], class_="charts")
    more = f"{len(rest)} more: learning rates, gradients, memory and the like"
    return section(
        "curves",
        "Curves",
        tag("div", [charts[c] for c in front], class_="charts"),
        folded(more, behind) if rest else None,
        left_out(len(rest) - FOLDED, "{} more are not drawn."),
    )


# --- any number against another ------------------------------------------------------------------


def _scatter_section(table: Table, styles: Styles) -> Markup | None:
    """Numbers and numeric keys of all rows, any two of them as a plane."""
    rows = table.rows
    measured = [Axis(table.title(c), [_cell(row, c) for row in rows]) for c in table.columns]
    settings = [
        Axis(f"evaluated with {k}", [_interval(row.settings.get(k)) for row in rows])
        for k in table.settings
    ]
    configured = [
        Axis(k, [_interval(row.group.values.get(k)) for row in rows]) for k in table.keys.shown
    ]
    seen = Axis("images seen", [_images(row) for row in rows])
    several = [a for a in [*settings, *configured, seen] if _varies(a)]
    there = [a for a in measured if any(a.values)]
    if not there or len(there) + len(several) < 2 or len(rows) < 2:
        return None
    # what was chosen across, what came of it upwards: the first number that can be drawn so
    pairs = [max(((a, b) for a in several or there if a is not b), key=_common) for b in there]
    first = next((pair for pair in pairs if _common(pair) > 1), pairs[0])
    axes = [*first, *(a for a in [*several, *there] if a not in first)][:AXES]
    points = [Point(r.label, table.description(r.group), styles[r.group.label]) for r in rows]
    return section("against", "Any two numbers", scatter(points, axes))


def _common(pair: tuple[Axis, Axis]) -> int:
    """Rows that have both numbers."""
    return sum(None not in both for both in zip(pair[0].values, pair[1].values, strict=True))


def _varies(axis: Axis) -> bool:
    return len(set(axis.values) - {None}) > 1


def _cell(row: Row, column: Column) -> Interval | None:
    cell = row.cells.get(column)
    return (cell.low, cell.mean, cell.high) if cell is not None and cell.values else None


def _images(row: Row) -> Interval | None:
    seen = row.group.images
    return min(seen), sum(seen) / len(seen), max(seen)


def _interval(text: str | None) -> Interval | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return (value, value, value) if is_number(value) else None


# --- keys and runs -------------------------------------------------------------------------------


def _keys_section(table: Table, styles: Styles) -> Markup | None:
    """Every key that differs: the value of each group, and who chose it."""
    shown, following, ignored = table.keys
    parts = [_values_of_groups(table, shown, styles), _chosen(table, shown)] if shown else []
    if following:
        words = f"{len(following)} more that go with the components"
        parts.append(folded(words, _chosen(table, following)))
    if ignored:
        words = (
            f"Folders, intervals and notes differ too and do not count: {', '.join(ignored[:40])}."
        )
        parts.append(tag("p", words, class_="hint"))
    return section("keys", "Keys that differ", *parts) if parts else None


def _values_of_groups(table: Table, keys: Sequence[str], styles: Styles) -> Markup:
    body = []
    for group in table.groups[:ROWS]:
        name = tag("th", swatch(styles[group.label]), " ", group.label, scope="row")
        values = [_cut(group.values.get(k, "-")) for k in keys]
        cells = [tag("td", v) for v in (*values, _cut(", ".join(group.seeds)) or "-")]
        body.append(tag("tr", name, cells))
    heads = ("group", *map(short_key, keys), "seeds")
    return _scrolling("keys-title", html_table(heads, tag("tbody", body)))


def _chosen(table: Table, keys: Sequence[str]) -> Markup:
    rows = []
    for key in keys:
        having: dict[tuple[str, str], list[SeedGroup]] = {}
        for group in table.groups:
            if group.values:
                who = group.chosen_by(key) if key in group.values else ""
                having.setdefault((group.values.get(key, "-"), who), []).append(group)
        for i, ((value, who), groups) in enumerate(having.items()):
            head = tag("th", key, scope="rowgroup", rowspan=len(having)) if not i else None
            names = few([g.label for g in groups], LABELS)
            cells = [tag("td", tag("code", _cut(value))), tag("td", names)]
            rows.append(tag("tr", head, cells, tag("td", who, class_="who")))
        if len(rows) > ROWS:
            break
    heads = ("key", "value", "of", "chosen by")
    return html_table(heads, tag("tbody", rows), class_="differ")


def _runs_section(table: Table) -> Markup:
    """Every run: the id to type, and how it ended."""
    rows = [
        tag(
            "tr",
            tag("th", tag("code", run.short_id), scope="row"),
            tag("td", group.label),
            tag("td", run.seed or "-"),
            tag("td", _cut(run.state)),
            tag("td", short(run.last("images") or 0)),
            tag("td", tag("code", str(run.path))),
        )
        for group in table.groups
        for run in group.runs
    ]
    heads = ("run", "of", "seed", "state", "images", "folder")
    table_of_runs = html_table(heads, tag("tbody", rows[:ROWS]))
    return section("runs", "Runs", _scrolling("runs-title", table_of_runs))
