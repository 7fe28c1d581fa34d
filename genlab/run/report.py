"""One self-contained page about a run: samples, curves, config with who chose it, commands.

Reads the run directory as data of somebody else: a file may be missing, cut off or hostile. All
text passes through `tag`, which escapes it; the page forbids itself network and foreign scripts.
"""

from __future__ import annotations

import base64
import hashlib
import re
import shlex
from collections.abc import Sequence
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Any

from genlab.errors import ConfigError
from genlab.run.album import Film, Still, films
from genlab.run.curves import chart
from genlab.run.facts import Facts, leaves, plain, read
from genlab.run.files import write_text
from genlab.run.markup import Markup, raw, tag
from genlab.run.promise import promise
from genlab.run.words import count, duration, short

__all__ = ["write_report"]

ROOMS = "model network process codec data sampler guidance optimizer schedule hardware track every"
ROWS = 2000  # of the config table


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
    here = Path(__file__)
    style = here.with_name("page.css").read_text(encoding="utf-8")
    script = here.with_name("page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    policy += f"script-src 'sha256-{digest}'"
    body = tag(
        "main",
        _header(facts),
        _samples(album),
        _learning(album),
        _curves(facts),
        _promise(facts),
        _commands(facts, album),
        _config(facts),
        _environment(facts),
        _problems(facts),
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{facts.title} · {facts.short_id}"),
        tag("style", raw(style)),
    )
    made = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    foot = tag("footer", f"genlab {plain(facts.environment.get('genlab', ''))} · written {made}")
    whole = tag("html", head, tag("body", body, foot, tag("script", raw(script))), lang="en")
    return f"<!doctype html>\n{whole}\n"


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
    cells = [
        tag("div", tag("dt", name), tag("dd", value, " ", tag("small", more)))
        for name, value, more in tiles
    ]
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
        tag("dl", cells, class_="tiles") if cells else None,
    )


def _section(ident: str, title: str, *children: object) -> Markup:
    named = f"{ident}-title"
    return tag("section", tag("h2", title, id=named), *children, id=ident, aria_labelledby=named)


def _samples(album: Sequence[Film]) -> Markup | None:
    drawn = [f for f in album if f.tag != "train"]
    if not drawn:
        train = _training(album)
        if len(train.frames) > 1:
            return None  # the viewer of `_learning` stands first then
        if not train.frames:
            return _section("samples", "Samples", tag("p", "No pictures yet.", class_="empty"))
        images, last = train.frames[-1]
        words = f"drawn while training, after {count(images)} images"
        figure = tag("div", _figure(last, words), class_="alone")
        return _section("samples", _title(train), _beside(train), figure)
    first, *others = drawn
    figures = [_figure(picture, words) for words, picture in first.pictures]
    facts = [
        tag("div", tag("dt", k), tag("dd", plain(v)))
        for k, v in first.made.items()
        if v is not None
    ]
    more = [tag("li", _figure(film.pictures[0][1], film.tag, _made(film.made))) for film in others]
    return _section(
        "samples",
        _title(first),
        tag("div", figures, class_="gallery"),
        tag("dl", tag("div", tag("dt", "folder"), tag("dd", first.tag)), facts, class_="made"),
        tag(
            "details",
            tag("summary", f"{len(more)} more set{'s' * (len(more) > 1)} of pictures"),
            tag("ul", more, class_="others"),
        )
        if more
        else None,
    )


def _made(made: dict[str, Any]) -> str:
    keys = ("sampler", "steps", "guidance", "weights", "seed")
    return ", ".join(f"{k} {plain(made[k])}" for k in keys if made.get(k) is not None)


def _figure(picture: Still, *words: str) -> Markup:
    caption = " · ".join(w for w in words if w)
    return tag("figure", _img(picture, caption), tag("figcaption", caption), class_=picture.shape)


def _img(picture: Still, alt: str) -> Markup:
    return tag(
        "img",
        src=picture.source,
        alt=alt,
        width=picture.width,
        height=picture.height,
        class_="pixels" if picture.small else None,
    )


def _training(album: Sequence[Film]) -> Film:
    return next((f for f in album if f.tag == "train"), Film("train"))


def _title(film: Film) -> str:
    return "Reconstructions" if film.reconstructs else "Samples"


def _beside(film: Film) -> Markup | None:
    """What a picture of reconstructions shows, and how many bits an image was reduced to."""
    if not film.reconstructs:
        return None
    words = "Held-out images, each with its reconstruction on the right"
    bits = film.made.get("bits")
    if isinstance(bits, (int, float)) and 0 < bits < 1e12:
        words += f"; the codes of an image carry {count(bits)} bits"
    return tag("p", f"{words}.", class_="lead")


def _learning(album: Sequence[Film]) -> Markup | None:
    train = _training(album)
    if len(train.frames) < 2:
        return None
    what = _title(train).lower()
    items = [
        tag(
            "li",
            tag(
                "figure",
                _img(picture, f"{what} after {count(images)} images"),
                tag("figcaption", f"{short(images)} images"),
            ),
            data_label=f"{count(images)} images seen",
        )
        for images, picture in train.frames
    ]
    lead = tag("p", "The same noise and labels each time, as training goes on.", class_="lead")
    return _section(
        "learning",
        "How they came about" if len(album) > 1 else _title(train),
        _beside(train) or lead,
        tag("ol", items, class_="film", tabindex=0, aria_label="Grids over training"),
    )


def _curves(facts: Facts) -> Markup:
    series = {name: facts.series(name) for name in facts.names}
    if not series:
        return _section("curves", "Curves", tag("p", "No log line yet.", class_="empty"))
    held = {n: series[f"heldout/{n}"] for n in series if f"heldout/{n}" in series}
    players = [n for n in series if n.startswith("loss/")]
    if "heldout/loss" in series and len(players) == 1:
        held[players[0]] = series["heldout/loss"]
    inside = {s.name for s in held.values()}
    # what was also measured on held-out data says more than what was not
    front = [n for n in series if n.startswith("loss/") or n.endswith("/loss") or n in held]
    front += [n for n in ("images_per_second",) if n in series]
    rest = [chart(s) for name, s in series.items() if name not in inside.union(front)]
    return _section(
        "curves",
        "Curves",
        tag(
            "div",
            [chart(series[n], held.get(n)) for n in front if n not in inside],
            class_="charts",
        ),
        tag(
            "details",
            tag("summary", f"{len(rest)} more: learning rates, gradients, memory and the like"),
            tag("div", rest, class_="charts"),
        )
        if rest
        else None,
    )


def _promise(facts: Facts) -> Markup | None:
    made = promise(facts)
    return _section("promise", "Promise", made) if made else None


def _commands(facts: Facts, album: Sequence[Film]) -> Markup:
    name = facts.short_id if facts.has_id else str(facts.path)
    run = f"run={shlex.quote(name)}"
    again = " ".join(["genlab train", *map(shlex.quote, facts.overrides)])
    rows = []
    if facts.checkpoint is not None and _training(album).reconstructs:
        rows.append(("encode and decode a folder of images", f"genlab sample {run} from=photos"))
        call = f"genlab.load({name!r}).reconstruct(images)"
        rows.append(("in Python, after import genlab", call))
    elif facts.checkpoint is not None:
        rows.append(("draw 64 samples", f"genlab sample {run} n=64"))
        rows.append(("in Python, after import genlab", f"genlab.load({name!r}).sample(16)"))
    if facts.state.startswith("done") and facts.total:
        rows.append(("train it longer", f"genlab resume {run} schedule.images={2 * facts.total}"))
    elif facts.state != "running":
        rows.append(("go on where it stopped", f"genlab resume {run}"))
    rows.append(("train the same from the start", again))
    cells = [tag("div", tag("dt", words), tag("dd", tag("code", line))) for words, line in rows]
    return _section("commands", "Go on from here", tag("dl", cells, class_="commands"))


def _config(facts: Facts) -> Markup | None:
    rows = leaves(facts.config, ROWS)
    if not rows:
        return None
    order = ROOMS.split()

    def room(row: tuple[str, str]) -> str:
        head, dot, _ = row[0].partition(".")
        return head if dot else ""

    def place(name: str) -> tuple[int, str]:
        return (-1 if not name else order.index(name) if name in order else len(order), name)

    rooms = []
    for name, group in groupby(sorted(rows, key=lambda r: place(room(r))), key=room):
        lines = [_row(facts, key, value, name) for key, value in group]
        member = facts.config.get(name)
        title = [name or "run"]
        own = plain(member["name"]) if isinstance(member, dict) and "name" in member else ""
        title += [" ", tag("code", own)] if own else []
        head = tag("tr", *(tag("th", h, scope="col") for h in ("key", "value", "chosen by")))
        table = tag("table", tag("thead", head), tag("tbody", lines))
        rooms.append(tag("section", tag("h3", title), table, class_="room"))
    typed = [tag("li", tag("code", o)) for o in facts.overrides]
    lead = tag("ul", typed, class_="typed") if typed else tag("p", "nothing: all defaults")
    return _section(
        "config",
        "Config",
        tag("div", tag("h3", "Typed on the command line"), lead, class_="overrides"),
        tag("div", rooms, class_="rooms"),
    )


def _row(facts: Facts, key: str, value: str, room: str) -> Markup:
    who = facts.who(key)
    name = key[len(room) + 1 :] if room else key
    return tag(
        "tr",
        tag("th", name, scope="row"),
        tag("td", tag("code", value)),
        tag("td", who, class_="who"),
        class_="chosen" if re.match(r"command|experiment", who) else None,
    )


def _environment(facts: Facts) -> Markup | None:
    cells = [tag("div", tag("dt", k), tag("dd", v)) for k, v in leaves(facts.environment, 200)]
    if not cells:
        return None
    return _section("environment", "Environment", tag("dl", cells, class_="made"))


def _problems(facts: Facts) -> Markup | None:
    if not facts.problems:
        return None
    items = [tag("li", p) for p in facts.problems[:50]]
    return _section("problems", "Not readable", tag("ul", items, class_="problems"))
