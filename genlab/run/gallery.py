"""The pictures of a page: the newest samples first, then how they came about in training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from genlab.run.album import Film, Still
from genlab.run.facts import plain
from genlab.run.markup import Markup, tag
from genlab.run.page import section, terms
from genlab.run.words import count, short

__all__ = ["figure", "learning", "samples", "training"]


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
