"""Training grids of several runs, those of one seed side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from genlab.run.album import last_grid
from genlab.run.facts import Facts, plain
from genlab.run.groups import Group
from genlab.run.markup import Markup, tag
from genlab.run.overlay import swatch
from genlab.run.page import section
from genlab.run.table import Table
from genlab.run.words import count

__all__ = ["shelves"]

PICTURES, SEEDS = 24, 3  # in a page
BYTES = 6_000_000  # of all pictures of a page


def shelves(table: Table, drawn: Sequence[Group], looks: Mapping[str, str]) -> Markup | None:
    """The last grid of each training; the seed that most groups share comes first."""
    having: dict[str | None, list[tuple[Group, Facts]]] = {}
    for group in drawn:
        for facts in group.runs:
            seed = plain(facts.config["seed"]) if "seed" in facts.config else None
            having.setdefault(seed, []).append((group, facts))

    def sharing(seed: str | None) -> int:
        return len({group.label for group, _ in having[seed]}) if seed is not None else 0

    made: list[tuple[Markup, Markup]] = []
    tried = weight = 0
    for seed in sorted(having, key=sharing, reverse=True)[:SEEDS]:
        figures = []
        for group, facts in having[seed]:
            if tried < PICTURES and weight < BYTES:
                found = _figures(table, group, facts, looks[group.label])
                figures += found
                tried += 1
                weight += sum(map(len, found))
        if figures:
            name = "Seed not known" if seed is None else f"Seed {seed}"
            made.append((tag("h3", name), tag("div", figures, class_="shelf")))
    if not made:
        return None
    lead = "The last grid of each training. "
    if max(map(sharing, having)) > 1:
        lead += "Runs of one seed drew them from the same random numbers."
    elif len(drawn) > 1:
        lead += "No two groups share a seed, so the noise of their samples differs."
    first, *others = made
    words = f"{len(others)} more seed{'s' * (len(others) > 1)}"
    left = sum(map(len, having.values())) - tried
    return section(
        "samples",
        "Samples",
        tag("p", lead, class_="lead"),
        first,
        tag("details", tag("summary", words), others) if others else None,
        tag("p", f"Grids of {left} more runs stay in their folders.", class_="hint")
        if left
        else None,
    )


def _figures(table: Table, group: Group, facts: Facts, look: str) -> list[Markup]:
    film = last_grid(facts.path, facts.problems)
    what = "reconstructions" if film.reconstructs else "samples"
    made = []
    for images, picture in film.frames:
        words = f"{table.words(group)} · {what} after {count(images)} images"
        image = tag(
            "img",
            src=picture.source,
            alt=f"{group.label}: {words}",
            width=picture.width,
            height=picture.height,
            class_="pixels" if picture.small else None,
        )
        caption = tag("figcaption", swatch(look), " ", tag("b", group.label), " ", words)
        made.append(tag("figure", image, caption))
    return made
