"""Evaluations of a run: each a table, every number with its protocol.

Each has a table of its own, so that numbers of different protocols share no column; within it
those measured on the same images, reference and features stand under one line of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Any

from genlab.core.format import count, duration, number
from genlab.report.expected_result import ExpectedResult, expected_result
from genlab.report.markup import Markup, tag
from genlab.report.page import folded, html_table, left_out, section, small, terms
from genlab.report.run_data import RunData, is_number, leaves, value_text
from genlab.run.results import Number, Result

__all__ = ["evaluations_section"]

EVALUATIONS = 24  # in a page; the others stay in the folder
OPEN = 3  # of these
NUMBERS = 100  # of one evaluation
KEYS = 60  # of one protocol
SETTINGS = {
    "of": "evaluated",
    "weights": "weights",
    "sampler": "sampler",
    "evaluations": "NFE",
    "guidance": "guidance",
    "temperature": "temperature",
    "likelihood": "likelihood",
    "seed": "seed",
}
"""Keys of how a run was evaluated that stand in front, as a page calls them."""
BASIS = ("images", "reference", "reference_images", "features", "resizer")
"""Keys of a protocol that name the two sets; so do those that end in DIGEST."""
DIGEST = "_digest"
SUFFIXES = ("low", "high", "bias", "std")
"""Suffixes of values that belong to another: kid_low to kid."""
BETTER = {"low": "lower is better", "high": "higher is better"}


def evaluations_section(run: RunData) -> Markup | None:
    """Every evaluation, the newest first and open; None before the first."""
    if not run.evaluations:
        return None
    expected = expected_result(run)
    shown = run.evaluations[:EVALUATIONS]
    left = len(run.evaluations) - len(shown)
    lead = "Numbers compare only where their protocols agree; each evaluation names its own."
    return section(
        "metrics",
        "Metrics",
        tag("p", lead, class_="lead") if len(shown) > 1 else None,
        [
            _evaluation(r, expected, i == 0 or (i < OPEN and not r.while_training))
            for i, r in enumerate(shown)
        ],
        left_out(left, "{} older ones are in eval/.", "empty"),
    )


def _evaluation(result: Result, expected: ExpectedResult | None, is_open: bool) -> Markup:
    images = result.images
    title = f"After {count(images)} images" if is_number(images) else "Of an unknown checkpoint"
    when = _when(result.when) + (", while training" if result.while_training else "")
    settings = [
        (words, value_text(result.description[key]))
        for key, words in SETTINGS.items()
        if result.description.get(key) is not None
    ]
    left = len(result.numbers) - NUMBERS
    return tag(
        "details",
        tag("summary", tag("h3", title), " ", tag("small", _summary(result, when))),
        terms(settings) if settings else None,
        _table(result.numbers[:NUMBERS], expected, result.description),
        tag("p", f"{left} more numbers are in its result.json.") if left > 0 else None,
        folded("All of the protocols, and where it was computed", _details(result)),
        class_="evaluation",
        open=is_open,
    )


def _summary(result: Result, when: str) -> str:
    """How an evaluation of a checkpoint differs from another: a few words for its folded line."""
    keys = {"weights": "", "sampler": "", "guidance": "guidance "}
    given = {
        k: value_text(result.description[k]) for k in keys if result.description.get(k) is not None
    }
    return " · ".join([*(keys[k] + words for k, words in given.items()), when])


def _table(
    numbers: Sequence[Number], expected: ExpectedResult | None, description: Mapping[str, Any]
) -> Markup:
    shown = expected if expected and any(n.name == expected.metric for n in numbers) else None
    heads = ["metric", "value", *(["expected"] if shown else []), "took"]
    bodies = []
    for shared, rows in _groups(numbers):
        line = [(k.replace("_", " "), v) for k, v in shared.items() if not k.endswith(DIGEST)]
        cell = tag("th", terms(line), colspan=len(heads), scope="rowgroup")
        lead = tag("tr", cell, class_="with") if line else None
        bodies.append(
            tag("tbody", lead, [_row(n, parts, shared, shown, description) for n, parts in rows])
        )
    return html_table(heads, bodies, class_="numbers")


Row = tuple[Number, dict[str, Number]]
"""A value with those that belong to it, by the suffix of their name."""


def _groups(numbers: Sequence[Number]) -> list[tuple[dict[str, str], list[Row]]]:
    """(what all protocols of a group have in common, its values), as found."""
    named = {(n.metric, n.name): n for n in numbers}
    groups: dict[object, list[Row]] = {}
    for n in numbers:
        base, _, suffix = n.name.rpartition("_")
        if suffix in SUFFIXES and (n.metric, base) in named:
            continue
        parts = {s: named[key] for s in SUFFIXES if (key := (n.metric, f"{n.name}_{s}")) in named}
        basis = {k: v for k, v in _protocol(n).items() if k in BASIS or k.endswith(DIGEST)}
        groups.setdefault(frozenset(basis.items()), []).append((n, parts))
    return [(_common(rows), rows) for rows in groups.values()]


def _common(rows: Sequence[Row]) -> dict[str, str]:
    first, *others = [_protocol(n) for n, _ in rows]
    return {k: v for k, v in first.items() if all(o.get(k) == v for o in others)}


def _protocol(n: Number) -> dict[str, str]:
    """Key -> value as text."""
    return {k: _protocol_text(k, v) for k, v in islice(n.protocol.items(), KEYS)}


def _row(
    n: Number,
    parts: Mapping[str, Number],
    shared: Mapping[str, str],
    expected: ExpectedResult | None,
    description: Mapping[str, Any],
) -> Markup:
    notes = ["" if f"{n.name}_".startswith(f"{n.metric}_") else n.metric, BETTER.get(n.better, "")]
    notes += [f"{k.replace('_', ' ')} {v}" for k, v in _protocol(n).items() if k not in shared]
    cells = [
        tag("th", n.name, small(" · ".join(w for w in notes if w)), scope="row"),
        tag("td", tag("b", _value(n)), [small(w) for w in _parts(n, parts)]),
    ]
    if expected is not None:
        shown = n.name == expected.metric
        beside = _beside(n, expected, description) if shown else []
        cells.append(tag("td", beside, data_head="expected") if shown else tag("td"))
    return tag("tr", *cells, tag("td", _seconds(n.seconds)))


def _seconds(value: float | None) -> str:
    if not is_number(value):
        return ""
    return duration(value) if value >= 60 else f"{value:.1f}s"


def _beside(
    n: Number, expected: ExpectedResult, description: Mapping[str, Any]
) -> list[Markup | None]:
    comparison, kind = expected.compare(n.value, n.protocol, description, n.better)
    after = f"after {count(expected.images)} images" if is_number(expected.images) else None
    return [tag("span", expected.text), small(after), small(comparison, kind or None)]


def _value(n: Number) -> Markup:
    if not is_number(n.value):
        return tag("span", "not finite", class_="warn")
    whole = n.value.is_integer() and 1e4 <= abs(n.value) < 1e15
    return tag("span", count(n.value) if whole else number(n.value))


def _parts(n: Number, parts: Mapping[str, Number]) -> Iterator[str]:
    """Interval, bias and deviation of a value, in words."""
    values = {suffix: part.value for suffix, part in parts.items()}
    if "low" in values or "high" in values:
        yield "interval " + " to ".join(_finite(values[s]) for s in ("low", "high") if s in values)
    bias = values.get("bias")
    if is_number(bias) and is_number(n.value) and 0 < bias < n.value:
        yield f"of which about {bias:.2g} is from few samples"
    elif "bias" in values:
        yield f"bias by few samples about {_finite(bias)}"
    if "std" in values:
        yield f"standard deviation {_finite(values['std'])}"


def _finite(value: float | None) -> str:
    return number(value) if is_number(value) else "not finite"


def _details(result: Result) -> list[Markup]:
    """Everything recorded: protocols, how it was evaluated, environment."""
    protocols = {n.metric: _protocol(n) for n in result.numbers[:NUMBERS]}
    parts = [(name, list(node.items())) for name, node in protocols.items()]
    parts += [("evaluated", leaves(result.description, KEYS))]
    parts += [
        ("computed on", leaves({k: v for k, v in result.environment.items() if v != {}}, KEYS))
    ]
    return [tag("div", tag("h4", name), terms(rows)) for name, rows in parts if rows]


def _protocol_text(key: str, value: object) -> str:
    return count(value) if key.endswith("images") and is_number(value) else value_text(value)


def _when(text: str) -> str:
    try:
        return datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M")
    except ValueError:
        return text[:40]
