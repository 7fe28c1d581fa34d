"""One self-contained page about a run: samples, curves, metrics, config with who chose it.

Reads the run directory as data of somebody else: a file may be missing, cut off or hostile. All
text passes through `tag`, which escapes it; the page forbids itself network and foreign scripts.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from genlab.core.errors import ConfigError
from genlab.core.format import count, duration, number, short
from genlab.report.curves import curves_section
from genlab.report.evaluations import evaluations_section
from genlab.report.expected_result import expected_result_section
from genlab.report.gallery import (
    neighbours_section,
    samples_section,
    training_grids,
    training_section,
)
from genlab.report.images import ImageSet, image_sets
from genlab.report.markup import Markup, tag
from genlab.report.page import (
    document,
    html_table,
    left_out,
    problems_section,
    section,
    terms,
    write_page,
)
from genlab.report.run_data import RunData, leaves, read_run, value_text
from genlab.run.directory import Run
from genlab.run.spike import spikes

__all__ = ["write_report"]


def write_report(run_dir: Path, links: bool = False) -> Path:
    """Writes `report.html` of a run directory, whole or not at all; returns its path.

    Works on a young, broken or running run: what is missing is left out, and what could not be
    read is named at the foot of the page. links: follow those to folders of one's own. Raises
    ConfigError if there is no such directory and DiskError if the page cannot be written.
    """
    if not run_dir.is_dir():
        raise ConfigError(f"no run directory {run_dir}; `genlab list runs` shows those there are")
    Run(run_dir).check_links(links)
    return write_page(run_dir / "report.html", _page(read_run(run_dir)))


def _page(run: RunData) -> str:
    sets = image_sets(run.path, run.problems)
    return document(
        f"{run.title} · {run.short_id}",
        f"genlab {value_text(run.environment.get('genlab', ''))}",
        _header(run),
        samples_section(sets),
        training_section(sets),
        curves_section(run),
        _spikes_section(run),
        evaluations_section(run),
        expected_result_section(run),
        neighbours_section(run),
        _commands_section(run, sets),
        _config_section(run),
        _environment_section(run),
        problems_section(p[:500] for p in run.problems),  # last: others find some
        stylesheets=("page.css",),
        scripts=("chart.js", "report.js"),
    )


def _header(run: RunData) -> Markup:
    word, _, why = run.state.partition(":")
    kind = "warn" if (word, bool(why)) == ("done", True) else word  # done, but not as it should
    pill = tag("span", word, class_=f"pill {kind if kind.isalpha() else ''}")
    images = run.last("images")
    seconds = run.last("seconds")
    tiles: list[tuple[str, str, str]] = []
    if images is not None:
        of = f"of {count(run.total_images)}" if run.total_images else ""
        tiles.append(("images seen", count(images), of))
    if seconds is not None:
        tiles.append(("training time", duration(seconds), ""))
    if images and seconds:
        pace = images / seconds
        tiles.append(("images / s", short(round(pace, 1 if pace < 100 else 0)), "mean"))
    for player, n in run.parameters.items():
        if n:
            tiles.append(("parameters", short(n), player))
    if run.checkpoint is not None:
        tiles.append(("last checkpoint", short(run.checkpoint), "images"))
    rows = [(name, [value, " ", tag("small", more)]) for name, value, more in tiles]
    progress = None
    if run.total_images and images is not None and images < run.total_images:
        label = f"{images / run.total_images:.0%} of the images"
        progress = tag("progress", label, value=images, max=run.total_images, aria_label=label)
    return tag(
        "header",
        tag("p", "genlab run ", tag("code", run.path.resolve().name), class_="eyebrow"),
        tag("h1", run.title, " ", pill),
        tag("p", why.strip(), class_="why") if why.strip() else None,
        progress,
        terms(rows, "tiles") if rows else None,
    )


def _spikes_section(run: RunData) -> Markup | None:
    """Steps whose loss or gradient norm was far above those before; None where none was."""
    found = spikes(run.journal.spiked)
    if not found:
        return None
    rows = [
        tag("tr", [tag("td", cell) for cell in cells])
        for cells in (
            (s.name, count(s.step), count(s.images), number(s.value), number(s.before))
            for s in found[:SPIKES]
        )
    ]
    return section(
        "spikes",
        "Spikes",
        html_table(("value", "step", "image", "it was", "before"), tag("tbody", rows)),
        left_out(len(found) - SPIKES, "{} later ones are in metrics.jsonl."),
    )


SPIKES = 50  # of the table


def _commands_section(run: RunData, sets: Sequence[ImageSet]) -> Markup:
    name = Run(run.path).reference
    ref = f"run={shlex.quote(name)}"
    again = shlex.join(["genlab", "train", *run.overrides, "fresh=true"])
    rows = []
    if run.checkpoint is not None and training_grids(sets).reconstructs:
        rows.append(("encode and decode a folder of images", f"genlab sample {ref} from=photos"))
        call = f"genlab.load({name!r}).reconstruct(images)"
        rows.append(("in Python, after import genlab", call))
    elif run.checkpoint is not None:
        rows.append(("draw 64 samples", f"genlab sample {ref} n=64"))
        rows.append(("measure it", f"genlab eval {ref}"))
        rows.append(("in Python, after import genlab", f"genlab.load({name!r}).sample(16)"))
    if run.state.startswith("done") and run.total_images:
        rows.append(
            ("train it longer", f"genlab resume {ref} schedule.images={2 * run.total_images}")
        )
    elif run.state != "running":
        rows.append(("go on where it stopped", f"genlab resume {ref}"))
    rows.append(("train the same from the start", again))
    listed = terms([(what, tag("code", line)) for what, line in rows], "commands")
    return section("commands", "Go on from here", listed)


# --- settings ----------------------------------------------------------------------------------

ORDER = "model network process codec data sampler guidance optimizer schedule hardware track every"
"""Config groups in the order of the page; others follow by name, keys of none stand first."""

ROWS = 2000  # of the config table


def _config_section(run: RunData) -> Markup | None:
    """What was typed, then every key by config group with who chose it."""
    rows = leaves(run.config, ROWS)
    if not rows:
        return None
    order = ORDER.split()

    def group(row: tuple[str, str]) -> str:
        head, dot, _ = row[0].partition(".")
        return head if dot else ""

    def place(name: str) -> tuple[int, str]:
        return (-1 if not name else order.index(name) if name in order else len(order), name)

    tables = []
    for name, keys in groupby(sorted(rows, key=lambda r: place(group(r))), key=group):
        node = run.config.get(name)
        component = value_text(node["name"]) if isinstance(node, dict) and "name" in node else ""
        title = [name or "run", *([" ", tag("code", component)] if component else [])]
        body = tag("tbody", [_key_row(run, key, value, name) for key, value in keys])
        table = html_table(("key", "value", "chosen by"), body)
        tables.append(tag("section", tag("h3", title), table, class_="group"))
    typed = [tag("li", tag("code", o)) for o in run.overrides]
    lead = tag("ul", typed, class_="typed") if typed else tag("p", "nothing: all defaults")
    return section(
        "config",
        "Config",
        tag("div", tag("h3", "Typed on the command line"), lead, class_="overrides"),
        tag("div", tables, class_="groups"),
    )


def _environment_section(run: RunData) -> Markup | None:
    """Versions, device and the like."""
    rows = leaves({k: v for k, v in run.environment.items() if v != {}}, 200)
    return section("environment", "Environment", terms(rows)) if rows else None


def _key_row(run: RunData, key: str, value: str, group: str) -> Markup:
    who = run.chosen_by(key)
    return tag(
        "tr",
        tag("th", key[len(group) + 1 :] if group else key, scope="row"),
        tag("td", tag("code", value)),
        tag("td", who, class_="who"),
        class_="chosen" if re.match(r"command|experiment", who) else None,
    )
