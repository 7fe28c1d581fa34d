"""`genlab compare`: several runs as a table, as JSON, as a page."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from genlab.core.errors import ConfigError
from genlab.core.files import read_text
from genlab.report.columns import Column
from genlab.report.groups import short_key
from genlab.report.run_data import read_run
from genlab.report.table import Row, Table, image_range, tabulate
from genlab.run.directory import NAME, Run, newest, runs, unknown_run

__all__ = ["as_json", "as_text", "find_runs", "main"]


def main(
    refs: Sequence[str],
    *,
    outputs: str = "outputs",
    metric: str = "",
    sort: str = "",
    page: str = "",
    json: bool,
    width: int,
) -> int:
    """Prints the table of some runs and writes their page.

    page: an .html file, null for none; "" is compare.html in outputs, and none beside JSON.
    """
    if page and page != "null" and not page.endswith((".html", ".htm")):
        raise ConfigError(f"page={page}: give the name of an .html file, or null for no page")
    if page and Path(page).is_dir():
        raise ConfigError(f"page={page} is a folder")
    patterns = [p.strip() for p in metric.strip("[]").split(",") if p.strip()]
    table = tabulate([read_run(path) for path in find_runs(refs, outputs)], patterns, sort)
    print(as_json(table) if json else as_text(table, width, bool(patterns)), flush=True)
    if page != "null" and (page or not json):
        from genlab.report.overview import write_overview

        folder = Path(outputs) if Path(outputs).is_dir() else Path()
        target = write_overview(table, Path(page) if page else folder / "compare.html")
        if not json:
            print(f"\npage: {target}")
    return 0


# --- which runs ----------------------------------------------------------------------------------


def find_runs(refs: Sequence[str], outputs: str) -> list[Path]:
    """The directories of the runs that are named, each once; all under outputs= without any.

    A name is a run directory, a folder of runs or of a sweep, latest, an id, or a part of
    <model>-<data>/<directory> in which * ? [] stand for other letters: every run it fits.
    """
    known = runs(outputs)
    if not refs and not known:
        raise ConfigError(f"no runs in {outputs}; `genlab train` makes one")
    found = [r.path for r in known] if not refs else []
    problems = []
    for ref in refs:
        hits = list(_matching(ref, known))
        found += hits
        if not hits:
            problems.append(_why_none(ref, known, outputs))
    if problems:
        raise ConfigError(*problems)
    each: dict[Path, Path] = {}
    for path in found:
        each.setdefault(path.resolve(), path)
    return list(each.values())


def _matching(ref: str, known: Sequence[Run]) -> Iterator[Path]:
    try:
        path = Path(ref)
        is_dir = path.is_dir()
    except (OSError, ValueError):  # too long for a path
        is_dir = False
    if is_dir:
        inside = {p.parent for g in ("*/config.yaml", "*/*/config.yaml") for p in path.glob(g)}
        if any((path / name).is_file() for name in ("config.yaml", "metrics.jsonl", "STATUS")):
            yield path
        elif (path / "multirun.yaml").is_file():
            yield from _runs_of_sweep(path)
        else:
            yield from sorted((p for p in inside if NAME.fullmatch(p.name)), key=lambda p: p.name)
    elif ref == "latest":
        yield from [newest(known).path] if known else []
    else:
        part = f"*{ref}*" if any(c in ref for c in "*?[") else None
        named = [r for r in known if r.id == ref]
        fits = (r for r in known if (fnmatchcase(r.title, part) if part else ref in r.title))
        yield from (r.path for r in named or fits)


def _runs_of_sweep(folder: Path) -> Iterator[Path]:
    """The runs whose command line began with the overrides of one of the sweep's jobs."""
    import yaml

    from genlab.config import overrides

    try:
        sweep = yaml.safe_load(read_text(folder / "multirun.yaml", limit=1_000_000))
        jobs = overrides.expand(sweep["hydra"]["overrides"]["task"])
    except Exception as e:  # the error trees of YAML and Hydra have no common root
        raise ConfigError(f"{folder}/multirun.yaml does not name the jobs of a sweep") from e
    wanted = {tuple(sorted(job)) for job in jobs}
    lengths = {len(job) for job in jobs}
    for run in runs(folder.resolve().parents[1]):
        try:
            words = read_text(run.path / "overrides.txt").splitlines()
        except (OSError, ValueError):
            continue
        if any(tuple(sorted(words[:n])) in wanted for n in lengths):  # a resume adds more
            yield run.path


def _why_none(ref: str, known: Sequence[Run], outputs: str) -> str:
    path = Path(ref)
    if path.is_dir():
        return f"{ref} holds no runs"
    if path.is_file():
        return f"{ref} is a file; a run is a directory"
    return unknown_run(ref, known, outputs)


# --- as text -------------------------------------------------------------------------------------


def as_text(table: Table, width: int, every: bool = False) -> str:
    """The table, folded into blocks that fit the width, and its notes.

    every: also the bounds, biases and the like that belong to other numbers.
    """
    shown = table.columns if every else [c for c in table.columns if c.is_primary]
    columns = [[_printable(cell) for cell in column] for column in _columns(table, shown)]
    lines = "\n\n".join(_block(block, i) for i, block in enumerate(_fold(columns, width)))
    notes = ["* the best of its column"] if any(row.best for row in table.rows) else []
    if hidden := list(dict.fromkeys(c.name for c in table.columns if c not in shown)):
        notes.append(f"metric='*' shows also {', '.join(hidden)}")
    notes += [_printable(note) for note in table.notes]
    return "\n".join([lines, *([""] if notes else []), *notes])


def _columns(table: Table, shown: Sequence[Column]) -> Iterator[list[str]]:
    """Each column with three heads: its kind, its name, how it differs from others of the name."""
    rows = table.rows
    yield ["", "", "", *(row.label for row in rows)]
    kind = "config"
    for key in table.keys.shown:
        yield [kind, short_key(key), "", *(_cut(r.group.values.get(key, "-")) for r in rows)]
        kind = ""
    kind = "evaluated with"
    for key in table.settings:
        yield [kind, key, "", *(_cut(row.settings.get(key, "-")) for row in rows)]
        kind = ""
    yield ["trained", "runs", "", *(str(len(row.group.runs)) for row in rows)]
    yield ["", "seeds", "", *(_cut(",".join(row.group.seeds)) or "-" for row in rows)]
    yield ["", "images", "", *(image_range(row.group.images) for row in rows)]
    kind = "measured"
    for column in shown:
        cells = []
        for row in rows:
            mean, notes = row.cell_text(column)
            cells.append(mean + (f" ({notes})" if notes else "") + " *" * (column in row.best))
        yield [kind, column.name, _cut(table.distinctions.get(column, ""), 48), *cells]
        kind = ""


def _fold(columns: Sequence[list[str]], width: int) -> Iterator[list[list[str]]]:
    first, *others = columns
    block, used = [first], max(map(len, first))
    for column in others:
        wide = 2 + max(map(len, column))
        if used + wide > width and len(block) > 1:
            yield block
            block, used = [first], max(map(len, first))
        block.append(column)
        used += wide
    yield block


def _block(columns: Sequence[list[str]], number: int) -> str:
    """Aligned lines; heads without words are left out, after the first block also empty rows."""
    lines = list(zip(*columns, strict=True))
    filled = [line for line in lines[:3] if any(line)]
    filled += [line for line in lines[3:] if not number or {*line[1:]} - {"-"}]
    widths = [max(map(len, column)) for column in zip(*filled, strict=True)]
    return "\n".join(
        "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip()
        for line in filled
    )


def _cut(words: str, most: int = 32) -> str:
    return words if len(words) <= most else f"{words[: most - 3]}..."


def _printable(words: str) -> str:
    """Names on a disk may hold what moves the cursor of a terminal."""
    return "".join(c if c.isprintable() else "?" for c in words)


# --- as JSON -------------------------------------------------------------------------------------


def as_json(table: Table) -> str:
    """Groups, columns and rows; a number has mean, low, high, n and how many were not finite."""
    shown = [*table.keys.shown, *table.keys.following]
    return json.dumps(
        {
            "groups": [
                {
                    "label": group.label,
                    "config": {k: group.values[k] for k in shown if k in group.values},
                    "runs": [
                        {
                            "id": run.short_id,
                            "path": str(run.path),
                            "state": run.state,
                            "seed": run.seed or "null",
                            "images": run.last("images"),
                        }
                        for run in group.runs
                    ],
                }
                for group in table.groups
            ],
            "columns": [
                {
                    "name": column.name,
                    "metric": column.metric,
                    "better": column.better or None,
                    "protocol": dict(column.protocol),
                }
                for column in table.columns
            ],
            "rows": [
                {
                    "label": row.label,
                    "group": row.group.label,
                    "subject": row.settings,
                    "values": [_value(row, column) for column in table.columns],
                }
                for row in table.rows
            ],
            "notes": table.notes,
        },
        indent=1,
    )


def _value(row: Row, column: Column) -> dict[str, Any] | None:
    cell = row.cells.get(column)
    if cell is None:
        return None
    ends = (cell.mean, cell.low, cell.high) if cell.values else (None, None, None)
    found = dict(zip(("mean", "low", "high"), ends, strict=True))
    return {**found, "n": cell.count, "not_finite": cell.not_finite, "best": column in row.best}
