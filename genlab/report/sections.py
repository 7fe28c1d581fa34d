"""Sections of a run's page: its settings, what its experiment expects, what was measured.

Settings are the config with who chose each value, and where the run computed.

The protocol of an expected result is free text. A number of samples gets a verdict only where that
text names how many images and which features it was measured by; any other only its distance.
Losses and numbers of held-out data are not of samples and always get one.

An evaluation is a table of its own, so that numbers of different protocols share no column;
within it those measured on the same images, reference and features stand under one line of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby, islice
from typing import Any

from genlab.core.format import count, duration, number
from genlab.report.columns import METRIC
from genlab.report.facts import Facts, is_number, leaves, plain
from genlab.report.markup import Markup, tag
from genlab.report.page import section, terms
from genlab.run.results import Number, Result

__all__ = ["Promise", "config", "environment", "metrics", "promise", "promised"]

ROOMS = "model network process codec data sampler guidance optimizer schedule hardware track every"
ROWS = 2000  # of the config table


def config(facts: Facts) -> Markup | None:
    """What was typed, then every key by room with who chose it."""
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
        lines = [_setting(facts, key, value, name) for key, value in group]
        member = facts.config.get(name)
        title = [name or "run"]
        own = plain(member["name"]) if isinstance(member, dict) and "name" in member else ""
        title += [" ", tag("code", own)] if own else []
        head = tag("tr", *(tag("th", h, scope="col") for h in ("key", "value", "chosen by")))
        table = tag("table", tag("thead", head), tag("tbody", lines))
        rooms.append(tag("section", tag("h3", title), table, class_="room"))
    typed = [tag("li", tag("code", o)) for o in facts.overrides]
    lead = tag("ul", typed, class_="typed") if typed else tag("p", "nothing: all defaults")
    return section(
        "config",
        "Config",
        tag("div", tag("h3", "Typed on the command line"), lead, class_="overrides"),
        tag("div", rooms, class_="rooms"),
    )


def environment(facts: Facts) -> Markup | None:
    """Versions, device and the like."""
    rows = leaves(facts.environment, 200)
    return section("environment", "Environment", terms(rows)) if rows else None


def _setting(facts: Facts, key: str, value: str, room: str) -> Markup:
    who = facts.who(key)
    name = key[len(room) + 1 :] if room else key
    return tag(
        "tr",
        tag("th", name, scope="row"),
        tag("td", tag("code", value)),
        tag("td", who, class_="who"),
        class_="chosen" if re.match(r"command|experiment", who) else None,
    )


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
