"""Images of a page: the newest samples first, then how they came about in training.

Of several runs the training grids of one seed stand side by side; samples may stand beside the
training images they are closest to, which a model may have memorised.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from genlab.core.format import count, number, short
from genlab.report.curves import swatch
from genlab.report.facts import Facts, is_number, plain
from genlab.report.groups import Group
from genlab.report.images import UNREADABLE, Film, Still, last_grid, still
from genlab.report.markup import Markup, tag
from genlab.report.page import section, terms
from genlab.report.table import Table
from genlab.run.results import Result

__all__ = ["closest", "figure", "learning", "samples", "shelves", "training"]

METRIC = "nearest"
PAIRS = 24  # in a page; the others stay in the folder
WORDS = {
    "nearest": "their median distance to the closest training image is {}",
    "nearest_ratio": "that is {} times what reference images have",
    "nearest_closer": "a sample is closer than a reference image with chance {}, "
    "where new images have 0.5 and copies 1",
}
LIMIT = 200_000  # bytes of a picture; a larger one is embedded smaller


def closest(facts: Facts) -> Markup | None:
    """The pairs of the newest evaluation that looked for them; None without any."""
    result = next((r for r in facts.judged if METRIC in r.captions), None)
    if result is None:
        return None
    pairs = result.pairs(METRIC)
    where = f"{result.path.name}/{METRIC}"
    missing = len(result.captions[METRIC]) - len(pairs)
    if missing:
        facts.problems.append(f"{where}: {missing} of its pictures are not there")
    figures = []
    for path, caption in pairs[:PAIRS]:
        try:
            figures.append(tag("li", figure(still(path, LIMIT), caption[:300])))
        except UNREADABLE as e:
            facts.problems.append(f"{where}/{path.name}: {e}")
    if not figures:
        return None
    lead = "Each sample, and on its right the training image it is closest to, the closest first."
    left = len(pairs) - len(figures)
    return section(
        "closest",
        "Closest training images",
        tag("p", f"{_numbers(result)} {lead}", class_="lead"),
        tag("ul", figures, class_="pairs"),
        tag("p", f"{left} more are in eval/{where}.", class_="empty") if left > 0 else None,
    )


def _numbers(result: Result) -> str:
    """The numbers of the metric in a sentence; those not known here by their names."""
    found = [n for n in result.numbers if n.metric == METRIC][:12]
    if not found:
        return ""
    words = []
    for n in found:
        value = number(n.value) if is_number(n.value) else "not finite"
        words.append(WORDS[n.name].format(value) if n.name in WORDS else f"{n.name} is {value}")
    samples = found[0].protocol.get("images")
    of = f"Of {count(samples)} samples" if is_number(samples) else "Of the samples"
    after = f" after {count(result.images)} images" if is_number(result.images) else ""
    return f"{of}{after}: {'; '.join(words)}."


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


def samples(album: Sequence[Film]) -> Markup | None:
    """The newest set of samples large, older ones folded; without any, the last training grid."""
    drawn = [f for f in album if f.tag != "train"]
    if not drawn:
        train = training(album)
        if len(train.frames) > 1:
            return None  # the viewer of `learning` stands first then
        if not train.frames:
            return section("samples", "Samples", tag("p", "No pictures yet.", class_="empty"))
        images, last = train.frames[-1]
        words = f"drawn while training, after {count(images)} images"
        alone = tag("div", figure(last, words), class_="alone")
        return section("samples", _title(train), _beside(train), alone)
    first, *others = drawn
    figures = [figure(picture, words) for words, picture in first.pictures]
    facts = [(k, plain(v)) for k, v in first.made.items() if v is not None]
    more = [tag("li", figure(film.pictures[0][1], film.tag, _made(film.made))) for film in others]
    return section(
        "samples",
        _title(first),
        tag("div", figures, class_="gallery"),
        terms([("folder", first.tag), *facts]),
        tag(
            "details",
            tag("summary", f"{len(more)} more set{'s' * (len(more) > 1)} of pictures"),
            tag("ul", more, class_="others"),
        )
        if more
        else None,
    )


def learning(album: Sequence[Film]) -> Markup | None:
    """The grids over training as a strip, which the script makes a viewer; None below two."""
    train = training(album)
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
    return section(
        "learning",
        "How they came about" if len(album) > 1 else _title(train),
        _beside(train) or lead,
        tag("ol", items, class_="film", tabindex=0, aria_label="Grids over training"),
    )


def training(album: Sequence[Film]) -> Film:
    """The grids drawn while training."""
    return next((f for f in album if f.tag == "train"), Film("train"))


def figure(picture: Still, *words: str) -> Markup:
    """A picture whose caption is also what is read out in its place."""
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


def _made(made: dict[str, Any]) -> str:
    keys = ("sampler", "steps", "guidance", "weights", "seed")
    return ", ".join(f"{k} {plain(made[k])}" for k in keys if made.get(k) is not None)


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
