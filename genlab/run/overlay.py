"""Curves of several runs in one chart, told apart by colour and by dashes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from genlab.run.curves import (
    BOTTOM,
    HEIGHT,
    LEFT,
    POINTS,
    RIGHT,
    TOP,
    WIDTH,
    Series,
    _image_ticks,
    _path,
    _range,
    _ruler,
    _scale,
    _stretches,
    _unit,
    _usable,
    _value_ticks,
    _view,
    smooth,
)
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
    good = [_usable(line.series.values) for line in lines]
    drawn = [(line, g) for line, g in zip(lines, good, strict=True) if g.any()]
    if not drawn:
        return tag("figure", tag("figcaption", title, tag("span", " no finite values")))
    each = max(40, 2 * POINTS // len(drawn))
    parts = [_averages(line.series, g, each) for line, g in drawn]
    pooled = np.concatenate([y for stretches in parts for _, y in stretches])
    low, high, log = _range(pooled, pooled, pooled)
    reach = (math.log10(low), math.log10(high)) if log else (low, high)
    end = max(float(line.series.images[-1]) for line, _ in drawn)
    across = _scale(0.0, max(end, 1.0), LEFT, WIDTH - RIGHT)
    upright = _scale(*reach, HEIGHT - BOTTOM, TOP)
    say = _unit(name)
    paths, ends = [], dict[str, list[float]]()
    for (line, _), stretches in zip(drawn, parts, strict=True):
        ends.setdefault(line.label, []).append(float(stretches[-1][1][-1]))
        for x, y in stretches:
            up = upright(np.log10(np.maximum(y, low * 1e-3)) if log else y)
            kind = f"line {line.look}" + (" point" if len(x) == 1 else "")
            paths.append(_path(across(x), up, kind, data_label=line.label))
    box = {"x": LEFT, "y": TOP - 4, "width": WIDTH - LEFT - RIGHT}
    inner = tag("svg", *paths, **box, height=HEIGHT - TOP - BOTTOM + 8, **_view(box))
    entries, told = [], []
    for label, look in {line.label: line.look for line, _ in drawn}.items():
        last = say(sum(v / len(ends[label]) for v in ends[label]))
        lost = sum(
            int((~g).sum()) for line, g in zip(lines, good, strict=True) if line.label == label
        )
        broken = tag("span", f" not finite {lost} times", class_="warn") if lost else None
        value = tag("span", last, class_="last", data_label=label)
        entries.append(tag("li", swatch(look), " ", label, " ", value, broken))
        told.append(f"{label} {last}")
    svg = tag(
        "svg",
        *_value_ticks(low, high, log, upright, say),
        *_image_ticks(across),
        inner,
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_label=f"{name} at the end: {', '.join(told)}",
        class_="chart",
        **_ruler(end, *reach, log),
    )
    if log:
        title.append(tag("span", " log scale", class_="hint"))
    title.append(tag("span", class_="hint place"))
    return tag("figure", tag("figcaption", title), svg, tag("ul", entries, class_="keys"))


def swatch(look: str) -> Markup:
    """A short piece of a line, for a legend."""
    line = tag("path", d="M2 5h28", class_=f"line {look}")
    return tag("svg", line, viewBox="0 0 32 10", class_="swatch", aria_hidden="true")


def _averages(
    series: Series, good: NDArray[np.bool_], most: int
) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """The running average of each stretch of finite values, `most` points of all together."""
    found, half = [], int(good.sum()) // 60
    for a, b in _stretches(good):
        count = min(b - a, max(2, most * (b - a) // int(good.sum())))
        at = np.unique(np.linspace(0, b - a - 1, count).astype(int))
        found.append((series.images[a:b][at], smooth(series.values[a:b], at, half)))
    return found
