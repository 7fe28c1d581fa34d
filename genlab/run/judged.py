"""The numbers of `genlab eval`, each under the protocol by which it was measured.

An evaluation is a table of its own, so that numbers of different protocols never share a column;
within it those measured on the same images, reference and features stand under one line of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice

from genlab.run.facts import Facts, is_number, leaves, plain
from genlab.run.markup import Markup, tag
from genlab.run.page import section, terms
from genlab.run.promise import Promise, promised
from genlab.run.verdicts import Number, Result
from genlab.run.words import count, duration, number

__all__ = ["metrics"]

EVALUATIONS = 24  # in a page; the others stay in the folder
OPEN = 3  # of these
NUMBERS = 100  # of one evaluation
KEYS = 60  # of one protocol
SUBJECT = {
    "of": "judged",
    "weights": "weights",
    "sampler": "sampler",
    "evaluations": "NFE",
    "guidance": "guidance",
    "temperature": "temperature",
    "likelihood": "likelihood",
    "seed": "seed",
}
"""Keys of a subject that stand in front, as a page calls them."""
BASIS = ("images", "reference", "reference_images", "features", "resizer")
"""Keys of a protocol that say what was compared; so do those that end in DIGEST."""
DIGEST = "_digest"
ENDS = ("low", "high", "bias", "std")
"""Ends of the names of values that belong to another: kid_low to kid."""
BETTER = {"low": "lower is better", "high": "higher is better"}


def metrics(facts: Facts) -> Markup | None:
    """Every evaluation, the newest first and open; None before the first."""
    if not facts.judged:
        return None
    made = promised(facts)
    shown = facts.judged[:EVALUATIONS]
    left = len(facts.judged) - len(shown)
    lead = "Numbers compare only where their protocols agree; each evaluation names its own."
    return section(
        "metrics",
        "Metrics",
        tag("p", lead, class_="lead") if len(shown) > 1 else None,
        [
            _evaluation(r, made, i == 0 or (i < OPEN and not r.while_training))
            for i, r in enumerate(shown)
        ],
        tag("p", f"{left} older ones are in eval/.", class_="empty") if left else None,
    )


def _evaluation(result: Result, made: Promise | None, is_open: bool) -> Markup:
    images = result.images
    title = f"After {count(images)} images" if is_number(images) else "Of an unknown checkpoint"
    when = _when(result.when) + (", while training" if result.while_training else "")
    subject = [
        (words, plain(result.subject[key]))
        for key, words in SUBJECT.items()
        if result.subject.get(key) is not None
    ]
    left = len(result.numbers) - NUMBERS
    return tag(
        "details",
        tag("summary", tag("h3", title), " ", tag("small", _brief(result, when))),
        terms(subject) if subject else None,
        _table(result.numbers[:NUMBERS], made),
        tag("p", f"{left} more numbers are in its result.json.") if left > 0 else None,
        tag(
            "details",
            tag("summary", "All of the protocols, and where it was computed"),
            _whole(result),
        ),
        class_="judged",
        open=is_open,
    )


def _brief(result: Result, when: str) -> str:
    """What tells one evaluation of a checkpoint from another, for its summary."""
    keys = {"weights": "", "sampler": "", "guidance": "guidance "}
    given = {k: plain(result.subject[k]) for k in keys if result.subject.get(k) is not None}
    return " · ".join([*(keys[k] + words for k, words in given.items()), when])


def _table(numbers: Sequence[Number], made: Promise | None) -> Markup:
    kept = made if made and any(n.name == made.metric for n in numbers) else None
    heads = ["metric", "value", *(["promised"] if kept else []), "took"]
    bodies = []
    for shared, rows in _groups(numbers):
        line = [(k.replace("_", " "), v) for k, v in shared.items() if not k.endswith(DIGEST)]
        cell = tag("th", terms(line), colspan=len(heads), scope="rowgroup")
        lead = tag("tr", cell, class_="with") if line else None
        bodies.append(tag("tbody", lead, [_row(n, ends, shared, kept) for n, ends in rows]))
    head = tag("tr", *(tag("th", h, scope="col") for h in heads))
    return tag("table", tag("thead", head), bodies, class_="numbers")


Row = tuple[Number, dict[str, Number]]
"""A value with those that belong to it, by the end of their name."""


def _groups(numbers: Sequence[Number]) -> list[tuple[dict[str, str], list[Row]]]:
    """(what all protocols of a group say alike, its values), as found."""
    named = {(n.metric, n.name): n for n in numbers}
    groups: dict[object, list[Row]] = {}
    for n in numbers:
        base, _, end = n.name.rpartition("_")
        if end in ENDS and (n.metric, base) in named:
            continue
        ends = {e: named[key] for e in ENDS if (key := (n.metric, f"{n.name}_{e}")) in named}
        basis = {k: v for k, v in _protocol(n).items() if k in BASIS or k.endswith(DIGEST)}
        groups.setdefault(frozenset(basis.items()), []).append((n, ends))
    return [(_alike(rows), rows) for rows in groups.values()]


def _alike(rows: Sequence[Row]) -> dict[str, str]:
    first, *others = [_protocol(n) for n, _ in rows]
    return {k: v for k, v in first.items() if all(o.get(k) == v for o in others)}


def _protocol(n: Number) -> dict[str, str]:
    """Key -> value as text."""
    return {k: _say(k, v) for k, v in islice(n.protocol.items(), KEYS)}


def _row(
    n: Number, ends: Mapping[str, Number], shared: Mapping[str, str], made: Promise | None
) -> Markup:
    notes = ["" if f"{n.name}_".startswith(f"{n.metric}_") else n.metric, BETTER.get(n.better, "")]
    notes += [f"{k.replace('_', ' ')} {v}" for k, v in _protocol(n).items() if k not in shared]
    cells = [
        tag("th", n.name, _small(" · ".join(w for w in notes if w)), scope="row"),
        tag("td", tag("b", _value(n)), [_small(w) for w in _ends(n, ends)]),
    ]
    if made is not None:
        kept = n.name == made.metric
        cells.append(tag("td", _kept(n, made), data_head="promised") if kept else tag("td"))
    return tag("tr", *cells, tag("td", _seconds(n.seconds)))


def _small(words: str | None, class_: str | None = None) -> Markup | None:
    return tag("small", words, class_=class_) if words else None


def _seconds(value: float | None) -> str:
    if not is_number(value):
        return ""
    return duration(value) if value >= 60 else f"{value:.1f}s"


def _kept(n: Number, made: Promise) -> list[Markup | None]:
    verdict, kind = made.verdict(n.value, n.protocol, n.better)
    after = f"after {count(made.images)} images" if is_number(made.images) else None
    return [tag("span", made.words), _small(after), _small(verdict, kind or None)]


def _value(n: Number) -> Markup:
    if not is_number(n.value):
        return tag("span", "not finite", class_="warn")
    whole = n.value.is_integer() and 1e4 <= abs(n.value) < 1e15
    return tag("span", count(n.value) if whole else number(n.value))


def _ends(n: Number, ends: Mapping[str, Number]) -> Iterator[str]:
    """What belongs to a value, in words."""
    values = {e: m.value for e, m in ends.items()}
    if "low" in values or "high" in values:
        yield "interval " + " to ".join(_finite(values[e]) for e in ("low", "high") if e in values)
    bias = values.get("bias")
    if is_number(bias) and is_number(n.value) and 0 < bias < n.value:
        yield f"of which about {bias:.2g} is from few samples"
    elif "bias" in values:
        yield f"bias by few samples about {_finite(bias)}"
    if "std" in values:
        yield f"standard deviation {_finite(values['std'])}"


def _finite(value: float | None) -> str:
    return number(value) if is_number(value) else "not finite"


def _whole(result: Result) -> list[Markup]:
    """Everything recorded: protocols, subject, environment."""
    protocols = {n.metric: _protocol(n) for n in result.numbers[:NUMBERS]}
    parts = [(name, list(node.items())) for name, node in protocols.items()]
    parts += [("judged", leaves(result.subject, KEYS))]
    parts += [("computed on", leaves(result.environment, KEYS))]
    return [tag("div", tag("h4", name), terms(rows)) for name, rows in parts if rows]


def _say(key: str, value: object) -> str:
    return count(value) if key.endswith("images") and is_number(value) else plain(value)


def _when(text: str) -> str:
    try:
        return datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M")
    except ValueError:
        return text[:40]
