"""What an experiment promises, beside what was measured of it.

A promise's protocol is free text. A number of samples gets a verdict only where that text names
how many images and which features it was measured by; any other only its distance to the promise.
Losses and numbers of held-out data are not of samples and always get one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from genlab.run.columns import METRIC
from genlab.run.facts import Facts, is_number, plain
from genlab.run.markup import Markup, tag
from genlab.run.page import section, terms
from genlab.run.verdicts import Number, Result
from genlab.run.words import count, number

__all__ = ["Promise", "promise", "promised"]

NEAR = 0.01  # of the promised images: a run ends with a whole batch


@dataclass(frozen=True)
class Promise:
    """The promise of a config, of which nothing need be what it should."""

    metric: str
    value: Any
    tolerance: Any
    images: Any
    notes: list[tuple[str, str]]  # protocol and source, where given

    @property
    def words(self) -> str:
        """3.35 ± 0.1"""
        return " ± ".join(plain(v) for v in (self.value, self.tolerance) if v is not None)

    def verdict(
        self, value: object, protocol: Mapping[str, Any] | None, better: str = ""
    ) -> tuple[str, str]:
        """(as promised, or by how much it is off; "kept", "off", or "" where that is no verdict).

        protocol: how it was measured; None where that is not known. Both are "" where it is no
        question of numbers.
        """
        if not (is_number(value) and is_number(self.value) and is_number(self.tolerance)):
            return "", ""
        off = value - self.value
        if not self.names(protocol):
            other = (
                "by a protocol that is not known" if protocol is None else "by another protocol"
            )
            return f"{off:+.4g} from the promise; measured {other}, so not a verdict", ""
        if abs(off) <= self.tolerance:
            return "as promised", "kept"
        good = {"low": off < 0, "high": off > 0}.get(better, False)
        return f"off by {off:+.4g}{', which is better' if good else ''}", "off"

    def names(self, protocol: Mapping[str, Any] | None) -> bool:
        """Whether the text names the images (50000, 50,000 or 50k) and features of a protocol."""
        if protocol is None:
            return False
        asked = [plain(protocol[k]).lower() for k in ("images", "features") if k in protocol]
        text = dict(self.notes).get("protocol", "")
        text = re.sub(r"(?<=\d)[,_](?=\d{3})", "", text.lower())
        text = re.sub(r"(?<![\d.])(\d+)k\b", r"\g<1>000", text)
        return all(re.search(rf"(?<![\w.]){re.escape(word)}(?!\w)", text) for word in asked)


@dataclass(frozen=True)
class _Measured:
    """A value of the promised metric.

    protocol: how it was measured, None where that is not known. notes: where it was found, and all
    that is known of it.
    """

    value: float | None
    protocol: Mapping[str, Any] | None
    images: object
    better: str
    notes: list[tuple[str, str]]


def promised(facts: Facts) -> Promise | None:
    """The promise of a run's config; None where it makes none."""
    made = facts.config.get("promise")
    if not isinstance(made, dict) or not made:
        return None
    notes = [(k, plain(made[k])) for k in ("protocol", "source") if made.get(k) is not None]
    value, tolerance, images = (made.get(k) for k in ("value", "tolerance", "images"))
    return Promise(plain(made.get("metric")), value, tolerance, images, notes)


def promise(facts: Facts) -> Markup | None:
    """What was promised and what was measured side by side; None without a promise."""
    made = promised(facts)
    if made is None:
        return None
    left = [(made.metric, f"{made.words}{_after(made.images)}"), *made.notes]
    found = _measured(facts, made)
    if found is None:
        right, lead = [("measured", "not measured yet")], None
    else:
        value = "not finite" if found.value is None else number(found.value)
        verdict, _ = made.verdict(found.value, found.protocol, found.better)
        words = f"{value}{_after(found.images)}{f': {verdict}' if verdict else ''}"
        right = [("measured", words), *found.notes]
        lead = "The protocol of a promise is free text: read both before you compare."
    columns = [
        tag("div", tag("h3", title), terms(rows, "stack"))
        for title, rows in (("Promised", left), ("Measured", right))
    ]
    return section(
        "promise",
        "Promise",
        tag("p", lead, class_="lead") if lead else None,
        tag("div", columns, class_="beside"),
    )


def _measured(facts: Facts, made: Promise) -> _Measured | None:
    """The newest value, an evaluation before the journal.

    One at the promised images goes before all others, and then one by the promised protocol. The
    journal skips what is not finite: it has the values before it.
    """

    def place(found: _Measured) -> tuple[bool, bool]:
        near = False
        if is_number(made.images) and is_number(found.images):
            near = abs(found.images - made.images) <= NEAR * made.images
        return not near, not made.names(found.protocol)

    every = [*_judged(facts, made.metric), *_logged(facts, made.metric)]
    return min(every, key=place, default=None)


def _judged(facts: Facts, metric: str) -> Iterator[_Measured]:
    for result in facts.judged:
        for n in result.numbers:
            if n.name == metric:
                value = n.value if is_number(n.value) else None
                notes = [("found in", f"evaluation {result.path.name}"), *_how(n, result)]
                yield _Measured(value, n.protocol, result.images, n.better, notes)


def _logged(facts: Facts, metric: str) -> Iterator[_Measured]:
    """Values of the journal, with the protocol that evaluations while training left."""
    last = [r for r in facts.judged if r.while_training]
    name = metric.removeprefix(METRIC)
    n, result = next(((n, r) for r in last for n in r.numbers if n.name == name), (None, None))
    notes = [("found in", "journal"), *(_how(n, result) if n and result else ())]
    for row in reversed(facts.journal):
        for key in dict.fromkeys((metric, METRIC + name)):
            if is_number(row.get(key)):
                of_samples = key.startswith(METRIC)
                how = (n.protocol if n else None) if of_samples else {}
                yield _Measured(row[key], how, row["images"], n.better if n else "", notes)


def _how(n: Number, result: Result) -> Iterator[tuple[str, str]]:
    for title, node in (("protocol", n.protocol), ("judged", result.subject)):
        words = [f"{k.replace('_', ' ')} {plain(v)}" for k, v in islice(node.items(), 40)]
        if words:
            yield title, "; ".join(words)


def _after(images: object) -> str:
    return f" after {count(images)} images" if is_number(images) else ""
