"""`genlab compare`: several runs as a table, as JSON, as a page."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from genlab.core.errors import ConfigError
from genlab.core.files import read_text
from genlab.report.columns import Column
from genlab.report.compare_text import as_text
from genlab.report.run_data import read_run
from genlab.report.table import Row, Table, tabulate
from genlab.run.directory import NAME, Run, newest, runs, unknown_run

__all__ = ["as_json", "find_runs", "main", "page_name"]


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

    page: an .html file, null for none; "" is one in outputs that is called as what was compared,
    and none beside JSON.
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
        name = page_name([*refs, *([f"metric={metric}"] if metric else [])])
        target = write_overview(table, Path(page) if page else folder / name)
        if not json:
            print(f"\npage: {target}")
    return 0


def page_name(words: Sequence[str]) -> str:
    """The file name of a comparison: compare.html of all runs, compare-a1b2c3+gan.html of some.

    words: what was asked for. Other words make another name: where one is no part of a file name,
    or long, a hash of all of them says which.
    """
    plain = [re.sub(r"[^A-Za-z0-9_.=-]+", "-", word.rstrip("/")).strip("-.") for word in words]
    stem = "+".join(["compare", *filter(None, plain)]).replace("+", "-", 1)
    if plain != words or len(stem) > LONGEST:
        digest = hashlib.sha256("\0".join(words).encode(errors="surrogateescape")).hexdigest()
        stem = f"{stem[:LONGEST]}-{digest[:6]}"
    return f"{stem}.html"


LONGEST = 80  # letters of what a page is called by


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
