"""Images of a run's page: the newest samples, the grids over training, nearest neighbours.

Nearest neighbours are samples beside the training images closest to them, which they may
copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from genlab.core.format import count, number, short
from genlab.report.images import UNREADABLE, EmbeddedImage, ImageSet, embed
from genlab.report.markup import Markup, tag
from genlab.report.page import folded, section, terms
from genlab.report.run_data import RunData, is_number, value_text
from genlab.run.results import Result

__all__ = ["image", "neighbours_section", "samples_section", "training_grids", "training_section"]


def samples_section(sets: Sequence[ImageSet]) -> Markup | None:
    """The newest set of samples large, older ones folded; without any, the last training grid."""
    drawn = [s for s in sets if s.name != "train"]
    if not drawn:
        train = training_grids(sets)
        if len(train.frames) > 1:
            return None  # the viewer of the training grids stands first then
        if not train.frames:
            return section("samples", "Samples", tag("p", "No pictures yet.", class_="empty"))
        images, last = train.frames[-1]
        caption = f"drawn while training, after {count(images)} images"
        alone = tag("div", _figure(last, caption), class_="alone")
        return section("samples", _title(train), _lead(train), alone)
    first, *others = drawn
    record = [(k, value_text(v)) for k, v in first.record.items() if v is not None]
    more, seen = [], {first.pictures[0][1].source: first.name}
    for s in others:
        picture, words = s.pictures[0][1], (s.name, _summary(s.record))
        same = seen.setdefault(picture.source, s.name)
        if same == s.name:
            more.append(tag("li", _figure(picture, *words)))
        else:  # a page has each picture once
            caption = _caption(*words, f"the same picture as {same}")
            more.append(tag("li", tag("figure", tag("figcaption", caption))))
    return section(
        "samples",
        _title(first),
        tag("div", [_figure(p, caption) for caption, p in first.pictures], class_="gallery"),
        terms([("folder", first.name), *record]),
        folded(
            f"{len(more)} more set{'s' * (len(more) > 1)} of pictures",
            tag("ul", more, class_="others"),
        )
        if more
        else None,
    )


def training_section(sets: Sequence[ImageSet]) -> Markup | None:
    """The grids over training as a strip, which the script makes a viewer; None below two."""
    train = training_grids(sets)
    if len(train.frames) < 2:
        return None
    what = _title(train).lower()
    items = [
        tag(
            "li",
            tag(
                "figure",
                image(picture, f"{what} after {count(images)} images"),
                tag("figcaption", f"{short(images)} images"),
            ),
            data_label=f"{count(images)} images seen",
        )
        for images, picture in train.frames
    ]
    lead = tag("p", "The same noise and labels each time, as training goes on.", class_="lead")
    return section(
        "learning",
        "How they came about" if len(sets) > 1 else _title(train),
        _lead(train) or lead,
        tag("ol", items, class_="film", tabindex=0, aria_label="Grids over training"),
    )


def training_grids(sets: Sequence[ImageSet]) -> ImageSet:
    """The grids drawn during training; an empty set without any."""
    return next((s for s in sets if s.name == "train"), ImageSet("train"))


def image(picture: EmbeddedImage, alt: str) -> Markup:
    """An image of a page, its pixels kept sharp where it is small."""
    return tag(
        "img",
        src=picture.source,
        alt=alt,
        width=picture.width,
        height=picture.height,
        class_="pixels" if picture.small else None,
    )


def _figure(picture: EmbeddedImage, *words: str) -> Markup:
    """A picture whose caption is also its text for those who do not see it."""
    caption = _caption(*words)
    return tag("figure", image(picture, caption), tag("figcaption", caption), class_=picture.shape)


def _caption(*words: str) -> str:
    return " · ".join(w for w in words if w)


def _summary(record: dict[str, Any]) -> str:
    keys = ("sampler", "steps", "guidance", "weights", "seed")
    return ", ".join(f"{k} {value_text(record[k])}" for k in keys if record.get(k) is not None)


def _title(images: ImageSet) -> str:
    return "Reconstructions" if images.reconstructs else "Samples"


def _lead(images: ImageSet) -> Markup | None:
    """What a picture of reconstructions shows, and to how many bits an image was reduced."""
    if not images.reconstructs:
        return None
    words = "Held-out images, each with its reconstruction on the right"
    bits = images.record.get("bits")
    if isinstance(bits, (int, float)) and 0 < bits < 1e12:
        words += f"; the codes of an image carry {count(bits)} bits"
    return tag("p", f"{words}.", class_="lead")


# --- nearest neighbours --------------------------------------------------------------------------

NEAREST = "nearest"  # the metric that finds them
PAIRS = 24  # in a page; the others stay in the folder
WORDS = {
    "nearest": "their median distance to the closest training image is {}",
    "nearest_ratio": "that is {} times what reference images have",
    "nearest_closer": "a sample is closer than a reference image with chance {}, "
    "where new images have 0.5 and copies 1",
}
LIMIT = 200_000  # bytes of a picture; a larger one is embedded smaller


def neighbours_section(run: RunData) -> Markup | None:
    """The pairs of the newest evaluation that has some; None without any."""
    result = next((r for r in run.evaluations if NEAREST in r.captions), None)
    if result is None:
        return None
    pairs = result.pairs(NEAREST)
    where = f"{result.path.name}/{NEAREST}"
    missing = len(result.captions[NEAREST]) - len(pairs)
    if missing:
        run.problems.append(f"{where}: {missing} of its pictures are not there")
    figures = []
    for path, caption in pairs[:PAIRS]:
        try:
            figures.append(tag("li", _figure(embed(path, LIMIT), caption[:300])))
        except UNREADABLE as e:
            run.problems.append(f"{where}/{path.name}: {e}")
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
    found = [n for n in result.numbers if n.metric == NEAREST][:12]
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
