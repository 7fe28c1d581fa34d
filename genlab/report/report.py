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
from genlab.report.curves import curves
from genlab.report.facts import Facts, plain, read
from genlab.report.gallery import closest, learning, samples, training
from genlab.report.images import Film, films
from genlab.report.markup import Markup, tag
from genlab.report.page import document, section, terms
from genlab.report.sections import config, environment, metrics, promise
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
    page = _page(read(run_dir))
    target = run_dir / "report.html"
    write_text(target, page.encode("utf-8", "replace").decode())  # names of files may be no text
    return target


def _page(facts: Facts) -> str:
    album = films(facts.path, facts.problems)
    return document(
        f"{facts.title} · {facts.short_id}",
        f"genlab {plain(facts.environment.get('genlab', ''))}",
        _header(facts),
        samples(album),
        learning(album),
        curves(facts),
        metrics(facts),
        promise(facts),
        closest(facts),
        _commands(facts, album),
        config(facts),
        environment(facts),
        _problems(facts),  # last: the sections before it find some
    )


def _header(facts: Facts) -> Markup:
    word, _, why = facts.state.partition(":")
    pill = tag("span", word, class_=f"pill {word if word.isalpha() else ''}")
    images = facts.last("images")
    seconds = facts.last("seconds")
    tiles: list[tuple[str, str, str]] = []
    if images is not None:
        of = f"of {count(facts.total)}" if facts.total else ""
        tiles.append(("images seen", count(images), of))
    if seconds is not None:
        tiles.append(("training time", duration(seconds), ""))
    if images and seconds:
        pace = images / seconds
        tiles.append(("images / s", short(round(pace, 1 if pace < 100 else 0)), "mean"))
    for player, n in facts.parameters.items():
        if n:
            tiles.append(("parameters", short(n), player))
    if facts.checkpoint is not None:
        tiles.append(("last checkpoint", short(facts.checkpoint), "images"))
    rows = [(name, [value, " ", tag("small", more)]) for name, value, more in tiles]
    progress = None
    if facts.total and images is not None and images < facts.total:
        label = f"{images / facts.total:.0%} of the images"
        progress = tag("progress", label, value=images, max=facts.total, aria_label=label)
    return tag(
        "header",
        tag("p", "genlab run ", tag("code", facts.path.resolve().name), class_="eyebrow"),
        tag("h1", facts.title, " ", pill),
        tag("p", why.strip(), class_="why") if why.strip() else None,
        progress,
        terms(rows, "tiles") if rows else None,
    )


def _commands(facts: Facts, album: Sequence[Film]) -> Markup:
    name = facts.short_id if facts.has_id else str(facts.path)
    run = f"run={shlex.quote(name)}"
    again = " ".join(["genlab train", *map(shlex.quote, facts.overrides)])
    rows = []
    if facts.checkpoint is not None and training(album).reconstructs:
        rows.append(("encode and decode a folder of images", f"genlab sample {run} from=photos"))
        call = f"genlab.load({name!r}).reconstruct(images)"
        rows.append(("in Python, after import genlab", call))
    elif facts.checkpoint is not None:
        rows.append(("draw 64 samples", f"genlab sample {run} n=64"))
        rows.append(("measure it", f"genlab eval {run}"))
        rows.append(("in Python, after import genlab", f"genlab.load({name!r}).sample(16)"))
    if facts.state.startswith("done") and facts.total:
        rows.append(("train it longer", f"genlab resume {run} schedule.images={2 * facts.total}"))
    elif facts.state != "running":
        rows.append(("go on where it stopped", f"genlab resume {run}"))
    rows.append(("train the same from the start", again))
    listed = terms([(words, tag("code", line)) for words, line in rows], "commands")
    return section("commands", "Go on from here", listed)


def _problems(facts: Facts) -> Markup | None:
    if not facts.problems:
        return None
    items = [tag("li", p[:500]) for p in facts.problems[:50]]
    return section("problems", "Not readable", tag("ul", items, class_="problems"))
