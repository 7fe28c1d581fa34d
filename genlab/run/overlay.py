"""Curves of several runs in one chart, told apart by colour and by dashes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from genlab.run.axes import Plane, path, span, stretches, usable
from genlab.run.curves import POINTS, Series, smooth
from genlab.run.markup import Markup, tag

__all__ = ["LOOKS", "Line", "look", "overlay", "swatch"]

COLOURS, DASHES = 6, 4  # of the style sheet
LOOKS = COLOURS * DASHES


class Line(NamedTuple):
    """A curve among others: the label it has in the legend, and the classes that tell it apart."""

    series: Series
    label: str
    look: str


def look(i: int) -> str:
    """Classes of the i-th of several curves: neighbours differ in colour and in dashes."""
    # the second half of the combinations is shifted by one dash, or it would repeat the first
    return f"c{i % COLOURS} d{(i + i // (LOOKS // 2)) % DASHES}"


def overlay(name: str, lines: Sequence[Line], hint: str = "") -> Markup:
    """A figure: the running averages of one quantity of several runs, and their last values.

    Lines of one label share its entry in the legend, which then tells the mean of their ends.
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
    plane = Plane(name, end, *span(pooled, pooled))
    paths, ends, lost = [], dict[str, list[float]](), dict[str, int]()
    for line, g in zip(lines, good, strict=True):
        lost[line.label] = lost.get(line.label, 0) + int((~g).sum())
    for (line, _), parts in zip(drawn, averages, strict=True):
        ends.setdefault(line.label, []).append(float(parts[-1][1][-1]))
        for x, y in parts:
            kind = f"line {line.look}" + (" point" if len(x) == 1 else "")
            paths.append(path(plane.across(x), plane.up(y), kind, data_label=line.label))
    entries, told = [], []
    for label, look in {line.label: line.look for line, _ in drawn}.items():
        last = plane.say(sum(v / len(ends[label]) for v in ends[label]))
        times = f" not finite {lost[label]} times"
        broken = tag("span", times, class_="warn") if lost[label] else None
        value = tag("span", last, class_="last", data_label=label)
        entries.append(tag("li", swatch(look), " ", label, " ", value, broken))
        told.append(f"{label} {last}")
    if plane.log:
        title.append(tag("span", " log scale", class_="hint"))
    title.append(tag("span", class_="hint place", role="status"))
    picture = plane.picture(paths, [], f"{name} at the end: {', '.join(told)}")
    return tag("figure", tag("figcaption", title), picture, tag("ul", entries, class_="keys"))


def swatch(look: str) -> Markup:
    """A short piece of a line, for a legend."""
    line = tag("path", d="M2 5h28", class_=f"line {look}")
    return tag("svg", line, viewBox="0 0 32 10", class_="swatch", aria_hidden="true")


def _averages(
    series: Series, good: NDArray[np.bool_], most: int
) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """The running average of each stretch of finite values, `most` points of all together."""
    found, half = [], int(good.sum()) // 60
    for a, b in stretches(good):
        count = min(b - a, max(2, most * (b - a) // int(good.sum())))
        at = np.unique(np.linspace(0, b - a - 1, count).astype(int))
        found.append((series.images[a:b][at], smooth(series.values[a:b], at, half)))
    return found
