"""Curves over images seen as inline SVG, of one run or of several in one chart.

Which values of a journal stand together, and which in front; lines are thinned and smoothed, and
those of several runs differ in colour and in dashes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from genlab.core.format import count
from genlab.report.axes import Floats, Plane, path, segments, value_range
from genlab.report.journal import Series, usable
from genlab.report.markup import Markup, tag
from genlab.report.page import folded, section
from genlab.report.run_data import METRIC, RunData

__all__ = [
    "LINE_STYLES",
    "Line",
    "chart",
    "curves_section",
    "line_style",
    "overlay",
    "smooth",
    "swatch",
    "thin",
]


def curves_section(run: RunData) -> Markup:
    """Losses with their held-out values, then metrics with their intervals; the rest is folded."""
    series = {name: run.series(name) for name in run.names}
    if not series:
        return section("curves", "Curves", tag("p", "No log line yet.", class_="empty"))
    held = {n: series[f"heldout/{n}"] for n in series if f"heldout/{n}" in series}
    players = [n for n in series if n.startswith("loss/")]
    if "heldout/loss" in series and len(players) == 1:
        held[players[0]] = series["heldout/loss"]
    bands = _bands(series)
    inside = {s.name for s in [*held.values(), *(s for pair in bands.values() for s in pair)]}
    # what was measured on held-out data, too, stands before what was not
    front = [n for n in series if n.startswith("loss/") or n.endswith("/loss") or n in held]
    front += [n for n in series if _measured(n, series) and n not in front]
    front += [n for n in ("images_per_second",) if n in series]
    rest = [chart(s) for name, s in series.items() if name not in inside.union(front)]
    return section(
        "curves",
        "Curves",
        tag(
            "div",
            [chart(series[n], held.get(n), bands.get(n)) for n in front if n not in inside],
            class_="charts",
        ),
        folded(
            f"{len(rest)} more: learning rates, gradients, memory and the like",
            tag("div", rest, class_="charts"),
        )
        if rest
        else None,
    )


def _bands(series: Mapping[str, Series]) -> dict[str, tuple[Series, Series]]:
    """Metric -> its lower and upper bound, where both were logged."""
    ends = {n: (f"{n}_low", f"{n}_high") for n in series if n.startswith(METRIC)}
    return {n: (series[a], series[b]) for n, (a, b) in ends.items() if a in series and b in series}


def _measured(name: str, series: Mapping[str, Series]) -> bool:
    """Whether a curve is a metric itself: fid, and not fid_bias, which is named after it."""
    first = (n for n in series if n.startswith(METRIC))
    return name.startswith(METRIC) and not any(name.startswith(f"{n}_") for n in first)


POINTS = 1000  # of one drawn curve
FEW = 24  # points up to which each is marked


def smooth(values: Floats, at: NDArray[np.int_], half: int) -> Floats:
    """Mean of the values around each place of `at`: no lag, and a spike stays local.

    y_i = mean(x_(i-h) ... x_(i+h)),  h = min(half, i)

    Towards the start the window shrinks, because curves are steep there; at the end it is cut.
    """
    windows = [(i, min(half, i)) for i in at.tolist()]
    return np.array([values[i - h : i + h + 1].mean() for i, h in windows])


def thin(x: Floats, y: Floats, most: int = POINTS) -> tuple[Floats, Floats]:
    """At most `most` points that keep every spike: lowest and highest of each stretch."""
    if len(x) <= most:
        return x, y
    keep: set[int] = {0, len(x) - 1}
    edges = np.linspace(0, len(x), (most - 2) // 2 + 1).astype(int)
    for a, b in pairwise(edges.tolist()):
        keep.update((a + int(np.argmin(y[a:b])), a + int(np.argmax(y[a:b]))))
    chosen = np.array(sorted(keep))
    return x[chosen], y[chosen]


def chart(
    main: Series, also: Series | None = None, band: tuple[Series, Series] | None = None
) -> Markup:
    """A figure: the values of `main` faint, their running average strong, `also` dashed.

    band: a lower and an upper bound of `main`, between which the plane is tinted.

    Values that are not finite break the curve and are marked at the foot of the chart. The value
    axis is logarithmic when the values are positive and span a factor above 30.
    """
    good = usable(main.values)
    if not good.any():
        words = "no values yet" if not len(good) else f"none of {len(good)} values is finite"
        return tag("figure", tag("figcaption", tag("b", main.name), " ", tag("span", words)))
    x, y = main.images[good], main.values[good]
    at = np.unique(np.linspace(0, len(y) - 1, min(len(y), POINTS // 2)).astype(int))
    mean = smooth(y if main.means is None else main.means[good], at, len(y) // 60)
    extra = _finite(also)
    ends = [e for s in band or () if (e := _finite(s)) is not None]
    limits = value_range(y, mean, *(e[1] for e in [*ends, extra] if e is not None))
    plane = Plane(main.name, float(main.images[-1]), *limits)
    plot = []
    if len(ends) == 2:
        (x1, y1), (x2, y2) = ends
        edge = np.concatenate([plane.up(y1), plane.up(y2)[::-1]])
        plot.append(path(plane.across(np.concatenate([x1, x2[::-1]])), edge, "band"))
    for a, b in segments(good):  # a value that is not finite is a gap, not a straight line
        px, py = thin(main.images[a:b], main.values[a:b], max(8, POINTS * (b - a) // len(good)))
        plot.append(path(plane.across(px), plane.up(py), "raw"))
    kind = "mean" if len(x) > 1 else "mean point"
    plot.append(path(plane.across(x[at]), plane.up(mean), kind))
    if extra is not None:
        kind = "also" if len(extra[0]) > 1 else "also point"
        plot.append(path(plane.across(extra[0]), plane.up(extra[1]), kind))
    # outside the window of the curves, which would halve the last one
    over = [plane.dots(x, y)] if 1 < len(x) <= FEW else []
    over += plane.marks(main.images[~good][:50])
    bad, text = main.not_usable, plane.text
    note = [tag("b", main.name), " ", tag("span", text(float(mean[-1])), class_="last")]
    if plane.log:
        note.append(tag("span", " log scale", class_="hint"))
    if extra is not None and also is not None:
        note.append(tag("span", f" {also.name} {text(float(extra[1][-1]))}", class_="also"))
    if len(ends) == 2:
        note.append(tag("span", " to ".join(text(float(e[1][-1])) for e in ends), class_="hint"))
    if bad:
        note.append(tag("span", f" not finite {bad} times", class_="warn"))
    picture = plane.picture(plot, over, _description(main.name, x, mean, bad, text))
    return tag("figure", tag("figcaption", *note), picture)


def _finite(also: Series | None) -> tuple[Floats, Floats] | None:
    if also is None:
        return None
    good = usable(also.values)
    return thin(also.images[good], also.values[good]) if good.any() else None


def _description(
    name: str, x: Floats, mean: Floats, bad: int, text: Callable[[float], str]
) -> str:
    """The chart in words, for those who do not see it."""
    values = f"from {text(float(mean[0]))} to {text(float(mean[-1]))}"
    images = f"between {count(float(x[0]))} and {count(float(x[-1]))} images"
    broken = f"; {bad} values are not finite" if bad else ""
    return f"{name}: {values} {images}{broken}"


COLOURS, DASHES = 6, 4  # of the style sheet
LINE_STYLES = COLOURS * DASHES


class Line(NamedTuple):
    """A curve among others: its label in the legend, and the CSS classes of its style."""

    series: Series
    label: str
    style: str


def line_style(i: int) -> str:
    """Classes of the i-th of several curves: neighbours differ in colour and in dashes."""
    # the second half of the combinations is shifted by one dash, or it would repeat the first
    return f"c{i % COLOURS} d{(i + i // (LINE_STYLES // 2)) % DASHES}"


def overlay(name: str, lines: Sequence[Line], hint: str = "") -> Markup:
    """A figure: the running averages of one quantity of several runs, and their last values.

    Lines of one label share its entry in the legend, which then gives the mean of their ends.
    hint: words beside the name. Values that are not finite break a line.
    """
    title = [tag("b", name), tag("span", f" {hint}", class_="hint") if hint else None]
    good = [usable(line.series.values) for line in lines]
    drawn = [(line, g) for line, g in zip(lines, good, strict=True) if g.any()]
    if not drawn:
        return tag("figure", tag("figcaption", title, tag("span", " no finite values")))
    each = max(40, 2 * POINTS // len(drawn))
    averages = [_averages(line.series, g, each) for line, g in drawn]
    pooled = np.concatenate([y for parts in averages for _, y in parts])
    end = max(float(line.series.images[-1]) for line, _ in drawn)
    plane = Plane(name, end, *value_range(pooled, pooled))
    paths, ends, lost = [], dict[str, list[float]](), dict[str, int]()
    for line in lines:
        lost[line.label] = lost.get(line.label, 0) + line.series.not_usable
    for (line, _), parts in zip(drawn, averages, strict=True):
        ends.setdefault(line.label, []).append(float(parts[-1][1][-1]))
        for x, y in parts:
            kind = f"line {line.style}" + (" point" if len(x) == 1 else "")
            paths.append(path(plane.across(x), plane.up(y), kind, data_label=line.label))
    entries, ending = [], []
    for label, style in {line.label: line.style for line, _ in drawn}.items():
        last = plane.text(sum(v / len(ends[label]) for v in ends[label]))
        times = f" not finite {lost[label]} times"
        broken = tag("span", times, class_="warn") if lost[label] else None
        value = tag("span", last, class_="last", data_label=label)
        entries.append(tag("li", swatch(style), " ", label, " ", value, broken))
        ending.append(f"{label} {last}")
    if plane.log:
        title.append(tag("span", " log scale", class_="hint"))
    title.append(tag("span", class_="hint place", role="status"))
    picture = plane.picture(paths, [], f"{name} at the end: {', '.join(ending)}")
    return tag("figure", tag("figcaption", title), picture, tag("ul", entries, class_="keys"))


def swatch(style: str) -> Markup:
    """A short piece of a line, for a legend."""
    line = tag("path", d="M2 5h28", class_=f"line {style}")
    return tag("svg", line, viewBox="0 0 32 10", class_="swatch", aria_hidden="true")


def _averages(series: Series, good: NDArray[np.bool_], most: int) -> list[tuple[Floats, Floats]]:
    """The running average of each stretch of finite values, `most` points of all together."""
    found, half = [], int(good.sum()) // 60
    values = series.values if series.means is None else series.means
    for a, b in segments(good):
        count = min(b - a, max(2, most * (b - a) // int(good.sum())))
        at = np.unique(np.linspace(0, b - a - 1, count).astype(int))
        found.append((series.images[a:b][at], smooth(values[a:b], at, half)))
    return found
