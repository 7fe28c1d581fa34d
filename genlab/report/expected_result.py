"""The expected result of an experiment (its key `promise`) beside what was measured.

The protocol of an expected result is free text. Whether a number of samples agrees is said only
where that text names how many images and which features it was measured by, and where all else
that it names is so: the size of the reference, network evaluations, guidance, weights. Else it is
said how far apart the two are, and in what they differ. Losses and numbers of held-out data are
not of samples: of them it is said unless they are of other weights.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from genlab.core.format import count, number
from genlab.report.markup import Markup, tag
from genlab.report.page import section, terms
from genlab.report.run_data import METRIC, RunData, is_number, value_text
from genlab.run.results import Number, Result

__all__ = ["ExpectedResult", "expected_result", "expected_result_section"]

NEAR = 0.01  # of the expected number of images: a run ends with a whole batch


@dataclass(frozen=True)
class ExpectedResult:
    """The expected result of a config, of which nothing need be of the right type."""

    metric: str
    value: Any
    tolerance: Any
    images: Any
    notes: list[tuple[str, str]]  # protocol and source, where given

    @property
    def text(self) -> str:
        """3.35 ± 0.1"""
        return " ± ".join(value_text(v) for v in (self.value, self.tolerance) if v is not None)

    def compare(
        self,
        value: object,
        protocol: Mapping[str, Any] | None,
        description: Mapping[str, Any],
        better: str = "",
    ) -> tuple[str, str]:
        """("as expected", or how far off; "met", "off", or "" where the protocols differ).

        protocol: how it was measured; None where that is not known. description: of what it is.
        Both are "" where one of the two is no number.
        """
        if not (is_number(value) and is_number(self.value) and is_number(self.tolerance)):
            return "", ""
        off = value - self.value
        if differences := self.differences(protocol, description):
            apart = f"{off:+.4g} from the expected value, but measured by"
            return f"{apart} {differences[0]}{'; '.join(['', *differences[1:]])}", ""
        if abs(off) <= self.tolerance:
            return "as expected", "met"
        is_better = {"low": off < 0, "high": off > 0}.get(better, False)
        return f"off by {off:+.4g}{', which is better' if is_better else ''}", "off"

    def differences(
        self, protocol: Mapping[str, Any] | None, description: Mapping[str, Any]
    ) -> list[str]:
        """In what a measurement is not what the text names, in words; [] where it is."""
        if protocol is None:
            return ["a protocol that is not known"]
        text = " ".join(dict(self.notes).get("protocol", "").lower().split())
        text = re.sub(r"(?<=\d)[,_](?=\d{3})", "", text)  # 50,000, 50_000 and 50k are 50000
        text = re.sub(r"(?<![\d.])(\d+)k\b", r"\g<1>000", text)
        drawn = {
            k: value_text(protocol[k]).lower() for k in ("images", "features") if k in protocol
        }
        found = [f"{k} {word}" for k, word in drawn.items() if not _names(text, word)]
        found += [*_other_reference(text, protocol), *_other_drawing(text, description)]
        return ["another protocol: " + found[0], *found[1:]] if found else []


@dataclass(frozen=True)
class _Measured:
    """A value of the expected metric.

    protocol: how it was measured, None where that is not known. description: of what it is. notes:
    where it was found, and all that is known of it.
    """

    value: float | None
    protocol: Mapping[str, Any] | None
    description: Mapping[str, Any]
    images: object
    better: str
    notes: list[tuple[str, str]]


def expected_result(run: RunData) -> ExpectedResult | None:
    """The expected result of a run's config; None without one."""
    node = run.config.get("promise")
    if not isinstance(node, dict) or not node:
        return None
    notes = [(k, value_text(node[k])) for k in ("protocol", "source") if node.get(k) is not None]
    value, tolerance, images = (node.get(k) for k in ("value", "tolerance", "images"))
    return ExpectedResult(value_text(node.get("metric")), value, tolerance, images, notes)


def expected_result_section(run: RunData) -> Markup | None:
    """What is expected and what was measured side by side; None where nothing is expected."""
    expected = expected_result(run)
    if expected is None:
        return None
    left = [(expected.metric, f"{expected.text}{_after(expected.images)}"), *expected.notes]
    found = _best_match(run, expected)
    if found is None:
        right, lead = [("measured", "not measured yet")], None
    else:
        value = "not finite" if found.value is None else number(found.value)
        comparison, _ = expected.compare(
            found.value, found.protocol, found.description, found.better
        )
        words = f"{value}{_after(found.images)}{f': {comparison}' if comparison else ''}"
        right = [("measured", words), *found.notes]
        lead = "The expected protocol is free text: read both before you compare."
    columns = [
        tag("div", tag("h3", title), terms(rows, "stack"))
        for title, rows in (("Expected", left), ("Measured", right))
    ]
    return section(
        "expected",
        "Expected result",
        tag("p", lead, class_="lead") if lead else None,
        tag("div", columns, class_="beside"),
    )


def _best_match(run: RunData, expected: ExpectedResult) -> _Measured | None:
    """The newest value, an evaluation before the journal.

    One at the expected number of images goes before all others, and then one by the expected
    protocol. The journal lacks what was not finite: the value before it stands there.
    """

    def place(found: _Measured) -> tuple[bool, bool]:
        near = False
        if is_number(expected.images) and is_number(found.images):
            near = abs(found.images - expected.images) <= NEAR * expected.images
        return not near, bool(expected.differences(found.protocol, found.description))

    every = [*_from_evaluations(run, expected.metric), *_from_journal(run, expected.metric)]
    return min(every, key=place, default=None)


def _from_evaluations(run: RunData, metric: str) -> Iterator[_Measured]:
    for result in run.evaluations:
        for n in result.numbers:
            if n.name == metric:
                value = n.value if is_number(n.value) else None
                notes = [("found in", f"evaluation {result.path.name}"), *_details(n, result)]
                of = result.description
                yield _Measured(value, n.protocol, of, result.images, n.better, notes)


def _from_journal(run: RunData, metric: str) -> Iterator[_Measured]:
    """Values of the journal, with the protocol that evaluations during training left.

    Its losses, held-out ones too, are of the weights as they were.
    """
    last = [r for r in run.evaluations if r.while_training]
    name = metric.removeprefix(METRIC)
    n, result = next(((n, r) for r in last for n in r.numbers if n.name == name), (None, None))
    notes = [("found in", "journal"), *(_details(n, result) if n and result else ())]
    for images, key, value in run.journal.backwards((metric, METRIC + name)):
        of_samples = key.startswith(METRIC)
        protocol = (n.protocol if n else None) if of_samples else {}
        of = (result.description if result else {}) if of_samples else {"weights": "raw"}
        yield _Measured(value, protocol, of, images, n.better if n else "", notes)


def _details(n: Number, result: Result) -> Iterator[tuple[str, str]]:
    for title, node in (("protocol", n.protocol), ("evaluated", result.description)):
        words = [f"{k.replace('_', ' ')} {value_text(v)}" for k, v in islice(node.items(), 40)]
        if words:
            yield title, "; ".join(words)


def _names(text: str, word: str) -> bool:
    return re.search(rf"(?<![\w.]){re.escape(word)}(?!\w)", text) is not None


def _other_reference(text: str, protocol: Mapping[str, Any]) -> Iterator[str]:
    """In what the reference is not the one named: against the 50000, or all, training images."""
    said = re.search(
        r"\bagainst (?P<whole>(?:the |all )*)(?:(?P<n>\d+) )?(?P<split>train|test)?"
        r"(?P<images>(?:ing)? images)?",
        text,
    )
    if said is None or "reference_images" not in protocol:
        return
    have = value_text(protocol["reference_images"])
    used, *total = re.findall(r"\d+", have) or [have]
    if said["n"]:
        if used != said["n"]:
            yield f"reference images {have}, not {said['n']}"
    elif ("all" in said["whole"] or said["images"]) and total and used != total[0]:
        yield f"reference images {have}, not all"
    name = value_text(protocol.get("reference"))
    if said["split"] and said["split"] not in name.split():
        yield f"reference {name}, not of {said['split']}"


def _other_drawing(text: str, description: Mapping[str, Any]) -> Iterator[str]:
    """In what evaluations, guidance and weights are not those named."""
    if said := re.search(r"\b(\d+) (?:network |function )?evaluations\b", text):
        have = value_text(description.get("evaluations"))
        if have != said[1]:
            yield f"evaluations {have}, not {said[1]}"
    plain = re.search(r"\b(?:without|no) guidance\b|\bunguided\b", text)
    scaled = re.search(r"\bguidance (?:scale |weight |of |by )*(\d+(?:\.\d+)?)", text)
    if plain or scaled:
        wanted = float(scaled[1]) if scaled else 1.0
        node = description.get("guidance")
        scale = node.get("scale", 1) if isinstance(node, Mapping) else 1
        if not is_number(scale) or scale != wanted:
            yield f"guidance {value_text(scale)}, not {wanted:g}"
    weights = value_text(description.get("weights"))
    if re.search(r"\bnot averaged\b|\braw weights\b|\bweights as they are\b", text):
        if weights != "raw":
            yield f"weights {weights}, not raw"
    elif re.search(r"\baveraged weights\b|\bema\b", text) and weights in ("raw", "null"):
        yield f"weights {weights}, not averaged"


def _after(images: object) -> str:
    return f" after {count(images)} images" if is_number(images) else ""
