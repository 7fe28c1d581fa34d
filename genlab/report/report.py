"""One self-contained page about a run: samples, curves, metrics, config with who chose it.

Reads the run directory as data of somebody else: a file may be missing, cut off or hostile. All
text passes through `tag`, which escapes it; the page forbids itself network and foreign scripts.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from genlab.core.errors import ConfigError
from genlab.core.format import count, duration, short
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
from genlab.report.page import document, problems_section, section, terms
from genlab.report.run_data import RunData, read_run, value_text
from genlab.report.settings import config_section, environment_section
from genlab.run.files import write_text

__all__ = ["write_report"]


def write_report(run_dir: Path) -> Path:
    """Writes `report.html` of a run directory, whole or not at all; returns its path.

    Works on a young, broken or running run: what is missing is left out, and what could not be
    read is named at the foot of the page. Raises ConfigError if there is no such directory and
    DiskError if the page cannot be written.
    """
    if not run_dir.is_dir():
        raise ConfigError(f"no run directory {run_dir}; `genlab list runs` shows those there are")
    page = _page(read_run(run_dir))
    target = run_dir / "report.html"
    write_text(target, page.encode("utf-8", "replace").decode())  # names of files may be no text
    return target


def _page(run: RunData) -> str:
    sets = image_sets(run.path, run.problems)
    return document(
        f"{run.title} · {run.short_id}",
        f"genlab {value_text(run.environment.get('genlab', ''))}",
        _header(run),
        samples_section(sets),
        training_section(sets),
        curves_section(run),
        evaluations_section(run),
        expected_result_section(run),
        neighbours_section(run),
        _commands_section(run, sets),
        config_section(run),
        environment_section(run),
        problems_section(p[:500] for p in run.problems),  # last: others find some
        stylesheets=("page.css",),
        scripts=("chart.js", "report.js"),
    )


def _header(run: RunData) -> Markup:
    word, _, why = run.state.partition(":")
    pill = tag("span", word, class_=f"pill {word if word.isalpha() else ''}")
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


def _commands_section(run: RunData, sets: Sequence[ImageSet]) -> Markup:
    name = run.short_id if run.has_id else str(run.path)
    ref = f"run={shlex.quote(name)}"
    again = " ".join(["genlab train", *map(shlex.quote, run.overrides)])
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


def _problems(run: RunData) -> Markup | None:
    if not run.problems:
        return None
    items = [tag("li", p[:500]) for p in run.problems[:50]]
    return section("problems", "Not readable", tag("ul", items, class_="problems"))
