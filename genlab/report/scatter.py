"""Points by any two of several numbers; the page's script moves them when others are chosen.

Every axis is drawn here, with its ticks, and every point carries its place along each of them: the
script only shows two of the axes and moves the points.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import NamedTuple

from genlab.core.format import number, short
from genlab.report.axes import WIDE, ticks
from genlab.report.markup import Markup, tag

__all__ = ["Axis", "Point", "scatter"]

WIDTH, HEIGHT = 520, 340
LEFT, RIGHT, TOP, BOTTOM = 64, 28, 24, 44
FOOT, END = HEIGHT - BOTTOM, WIDTH - RIGHT

Interval = tuple[float, float, float]
"""The lowest, the mean and the highest value of a point along an axis."""


class Axis(NamedTuple):
    """A number of every point, all finite; None where a point has none."""

    title: str
    values: Sequence[Interval | None]


class Point(NamedTuple):
    """What is drawn at a place: its name, what it is, and the CSS classes that colour it."""

    label: str
    description: str
    style: str


def scatter(points: Sequence[Point], axes: Sequence[Axis]) -> Markup:
    """A figure with the points by the first two axes, and a choice of others for the script.

    Bars reach from the lowest to the highest value of a point. An axis is logarithmic when its
    values are positive and span a factor above 30. Each axis has a value.
    """
    scales = [_Scale(axis) for axis in axes]
    spots = [_disc(p, [scale.places[i] for scale in scales]) for i, p in enumerate(points)]
    lacking = sum(None in pair for pair in zip(axes[0].values, axes[1].values, strict=True))
    svg = tag(
        "svg",
        [_ticks(scale, i, False) for i, scale in enumerate(scales)],
        [_ticks(scale, i, True) for i, scale in enumerate(scales)],
        tag("path", d=f"M{LEFT} {TOP - 10}V{FOOT}H{END + 10}", class_="axis"),
        spots,
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_label=f"{axes[1].title} against {axes[0].title}; the numbers stand in the table",
        class_="chart scatter",
        data_box=json.dumps([LEFT, END, FOOT, TOP]),
    )
    choices = [_choice("across", axes, 0), _choice("up", axes, 1)]
    hint = f"not shown, for lack of one of the two: {lacking}" if lacking else ""
    return tag(
        "figure",
        tag("div", choices, class_="choices", hidden=True),
        svg,
        tag("p", hint, class_="hint", aria_live="polite"),
        class_="plane",
    )


class _Scale:
    """Turns values into shares of an axis, 0 at its beginning and 1 at its end."""

    def __init__(self, axis: Axis) -> None:
        self.title = axis.title
        every = [end for v in axis.values if v is not None for end in v]
        low, high = min(every), max(every)
        self.log = low > 0 and high / low > WIDE
        if self.log:
            low, high = low / 1.15, high * 1.15
        else:
            margin = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
            low, high = (0.0 if 0 <= low < margin else low - margin), high + margin
        self.low, self.high = low, high
        self.places = [v and [round(self.share(end), 4) for end in v] for v in axis.values]

    def share(self, value: float) -> float:
        ends = (value, self.low, self.high)
        v, low, high = map(math.log10, ends) if self.log else ends
        return (v - low) / (high - low)


def _ticks(scale: _Scale, i: int, up: bool) -> Markup:
    parts = []
    for value in ticks(scale.low, scale.high, scale.log):
        at, text = scale.share(value), short(value) if abs(value) >= 1000 else number(value)
        if up:
            y = f"{FOOT + at * (TOP - FOOT):.1f}"
            parts.append(tag("line", x1=LEFT, x2=END, y1=y, y2=y, class_="rule"))
            parts.append(tag("text", text, x=LEFT - 8, y=y, dy=4, class_="value"))
        else:
            x = f"{LEFT + at * (END - LEFT):.1f}"
            parts.append(tag("line", x1=x, x2=x, y1=FOOT, y2=FOOT + 4, class_="axis"))
            parts.append(tag("text", text, x=x, y=FOOT + 18, text_anchor="middle"))
    title = scale.title + (" (log scale)" if scale.log else "")
    if up:
        parts.append(tag("text", title, x=4, y=11, class_="name"))
    else:
        parts.append(tag("text", title, x=END, y=HEIGHT - 6, text_anchor="end", class_="name"))
    return tag("g", parts, data_axis=f"{'up' if up else 'across'} {i}", class_=_away(i != int(up)))


def _disc(point: Point, at: Sequence[Sequence[float] | None]) -> Markup:
    """A disc with its label; the script repeats this arithmetic for other axes."""
    first, second = at[0], at[1]
    there = first is not None and second is not None
    x1, x, x2 = (LEFT + v * (END - LEFT) for v in first or (0, 0, 0))
    y1, y, y2 = (FOOT + v * (TOP - FOOT) for v in second or (0, 0, 0))
    bars = f"M{x1:.1f} {y:.1f}H{x2:.1f}M{x:.1f} {y1:.1f}V{y2:.1f}"
    return tag(
        "g",
        tag("title", f"{point.label}: {point.description}"),
        tag("path", d=bars, class_="bars"),
        tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=5),
        tag("text", point.label, x=f"{x + 8:.1f}", y=f"{y - 7:.1f}"),
        data_at=json.dumps(at, separators=(",", ":")),
        class_=" ".join(filter(None, ("spot", point.style, _away(not there)))),
    )


def _away(hidden: bool) -> str | None:
    return "away" if hidden else None


def _choice(ident: str, axes: Sequence[Axis], chosen: int) -> Markup:
    options = [
        tag("option", axis.title, value=i, selected=i == chosen) for i, axis in enumerate(axes)
    ]
    words = {"across": "across", "up": "up"}[ident]
    return tag("label", f"{words} ", tag("select", options, data_way=ident))
