"""Samples beside the training images they are closest to: what a model may have memorised."""

from __future__ import annotations

from genlab.run.album import UNREADABLE, still
from genlab.run.facts import Facts, is_number
from genlab.run.gallery import figure
from genlab.run.markup import Markup, tag
from genlab.run.page import section
from genlab.run.verdicts import Result
from genlab.run.words import count, number

__all__ = ["closest"]

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
