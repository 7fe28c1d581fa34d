"""Curves over images seen as inline SVG: thinned, smoothed, with ticks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from genlab.run.markup import Markup, tag
from genlab.run.words import count, number, short, size

__all__ = ["Series", "chart", "smooth", "thin", "ticks"]

WIDTH, HEIGHT = 460, 240  # viewBox; text is set for a width of about 350 pixels and more
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 14, 40
POINTS = 1000  # of one drawn curve
FEW = 24  # points up to which each is marked
WIDE = 30.0  # ratio of largest to smallest from which the value axis is logarithmic


class Series(NamedTuple):
    """One named quantity: images [n] (increasing) and values [n], which may not be finite."""

    name: str
    images: NDArray[np.float64]
    values: NDArray[np.float64]


def smooth(values: NDArray[np.float64], at: NDArray[np.int_], half: int) -> NDArray[np.float64]:
    """Mean of the values around each place of `at`: no lag, and a spike stays local.

    y_i = mean(x_(i-h) ... x_(i+h)),  h = min(half, i)

    Towards the start the window shrinks, because curves are steep there; at the end it is cut.
    """
    reach = [(i, min(half, i)) for i in at.tolist()]
    return np.array([values[i - h : i + h + 1].mean() for i, h in reach])


def thin(
    x: NDArray[np.float64], y: NDArray[np.float64], most: int = POINTS
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
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
    good = _usable(main.values)
    if not good.any():
        words = "no values yet" if not len(good) else f"none of {len(good)} values is finite"
        return tag("figure", tag("figcaption", tag("b", main.name), " ", tag("span", words)))
    x, y = main.images[good], main.values[good]
    at = np.unique(np.linspace(0, len(y) - 1, min(len(y), POINTS // 2)).astype(int))
    mean = smooth(y, at, len(y) // 60)
    extra = _finite(also)
    ends = [e for s in band or () if (e := _finite(s)) is not None]
    low, high, log = _range(y, mean, *(e[1] for e in [*ends, extra] if e is not None))
    across = _scale(0.0, max(float(main.images[-1]), 1.0), LEFT, WIDTH - RIGHT)
    if log:
        upright = _scale(math.log10(low), math.log10(high), HEIGHT - BOTTOM, TOP)
    else:
        upright = _scale(low, high, HEIGHT - BOTTOM, TOP)

    def height(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return upright(np.log10(np.maximum(values, low * 1e-3)) if log else values)

    say = _unit(main.name)
    parts = [*_value_ticks(low, high, log, upright, say), *_image_ticks(across)]
    plot = []
    if len(ends) == 2:
        (x1, y1), (x2, y2) = ends
        edge = np.concatenate([height(y1), height(y2)[::-1]])
        plot.append(_path(across(np.concatenate([x1, x2[::-1]])), edge, "band"))
    for a, b in _stretches(good):  # a value that is not finite is a gap, not a straight line
        px, py = thin(main.images[a:b], main.values[a:b], max(8, POINTS * (b - a) // len(good)))
        plot.append(_path(across(px), height(py), "raw"))
    kind = "mean" if len(x) > 1 else "mean point"
    plot.append(_path(across(x[at]), height(mean), kind))
    if extra is not None:
        plot.append(_path(across(extra[0]), height(extra[1]), "also"))
    box = {"x": LEFT, "y": TOP - 4, "width": WIDTH - LEFT - RIGHT}
    parts.append(tag("svg", *plot, **box, height=HEIGHT - TOP - BOTTOM + 8, **_view(box)))
    foot = HEIGHT - BOTTOM
    if 1 < len(x) <= FEW:  # outside that window, which would halve the last one
        parts.append(_dots(across(x), height(y)))
    for at in across(main.images[~good][:50]):
        parts.append(tag("path", d=f"M{at:.1f} {foot}l-4 -8h8z", class_="bad"))
    bad = int((~good).sum())
    told = _told(main.name, x, mean, bad, say)
    reach = (math.log10(low), math.log10(high)) if log else (low, high)
    svg = tag(
        "svg",
        *parts,
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_label=told,
        class_="chart",
        **_ruler(float(main.images[-1]), *reach, log),
    )
    last = say(float(mean[-1]))
    note = [tag("b", main.name), " ", tag("span", last, class_="last")]
    if log:
        note.append(tag("span", " log scale", class_="hint"))
    if extra is not None and also is not None:
        note.append(tag("span", f" {also.name} {say(float(extra[1][-1]))}", class_="also"))
    if len(ends) == 2:
        note.append(tag("span", " to ".join(say(float(e[1][-1])) for e in ends), class_="hint"))
    if bad:
        note.append(tag("span", f" not finite {bad} times", class_="warn"))
    return tag("figure", tag("figcaption", *note), svg)


Scale = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def _scale(low: float, high: float, start: float, end: float) -> Scale:
    span = (high - low) or 1.0
    return lambda values: start + (np.asarray(values) - low) / span * (end - start)


def _view(box: dict[str, int]) -> dict[str, object]:
    """The inner window keeps the coordinates of the outer one and cuts what leaves it."""
    top, tall = box["y"], HEIGHT - TOP - BOTTOM + 8
    return {"viewBox": f"{box['x']} {top} {box['width']} {tall}"}


def _ruler(end: float, low: float, high: float, log: bool) -> dict[str, object]:
    """What the script of the page needs to turn a place into numbers."""
    place = {"data_left": LEFT, "data_right": WIDTH - RIGHT, "data_top": TOP}
    return place | {
        "data_foot": HEIGHT - BOTTOM,
        "data_end": max(end, 1.0),
        "data_low": low,
        "data_high": high,
        "data_log": log or None,
    }


def _finite(also: Series | None) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    if also is None:
        return None
    good = _usable(also.values)
    return thin(also.images[good], also.values[good]) if good.any() else None


def _range(
    y: NDArray[np.float64], mean: NDArray[np.float64], *extra: NDArray[np.float64]
) -> tuple[float, float, bool]:
    """(low, high, logarithmic): holds the average and 98 % of the values; spikes are cut."""
    every = np.concatenate([np.quantile(y, [0.01, 0.99]), mean, *extra])
    low, high = float(every.min()), float(every.max())
    if low > 0 and high / low > WIDE and float(y.min()) > 0:
        return low / 1.15, high * 1.15, True
    if high - low <= max(
        1e-9 * max(abs(high), abs(low)), 1e-300
    ):  # a constant gets room on both sides
        room = abs(high) * 0.1 if abs(high) > 1e-290 else 1.0
        return low - room, high + room, False
    room = (high - low) * 0.05
    return (0.0 if 0 <= low < 0.35 * high else low - room), high + room, False


def _usable(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Finite, and small enough that differences are too."""
    return np.asarray(np.abs(values) < 1e100)  # False for nan


def _stretches(good: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Half-open ranges of neighbouring finite values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], good.astype(int), [0]])))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def _path(x: NDArray[np.float64], y: NDArray[np.float64], kind: str, **more: object) -> Markup:
    far = np.clip(y, -1e4, 1e4)
    points = [f"{a:.1f} {b:.1f}" for a, b in zip(x.tolist(), far.tolist(), strict=True)]
    return tag(
        "path", d="M" + "L".join(points if len(points) > 1 else points * 2), class_=kind, **more
    )


def ticks(low: float, high: float, log: bool) -> list[float]:
    """Round numbers from low to high to be written at an axis."""
    return _decades(low, high) if log else _steps(low, high, 5)


def _dots(x: NDArray[np.float64], y: NDArray[np.float64]) -> Markup:
    """Strokes of no length, whose round ends are dots, where the values are in the picture."""
    seen = (y >= TOP - 4) & (y <= HEIGHT - BOTTOM + 4)
    places = zip(x[seen].tolist(), y[seen].tolist(), strict=True)
    points = (f"M{a:.1f} {b:.1f}h0" for a, b in places)
    return tag("path", d="".join(points), class_="dots")


def _steps(low: float, high: float, about: int) -> list[float]:
    """Round numbers from low to high, about so many."""
    power = 10.0 ** math.floor(math.log10((high - low) / about))
    step = next(m * power for m in (1, 2, 2.5, 5, 10, 20) if (high - low) / (m * power) <= about)
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _decades(low: float, high: float) -> list[float]:
    """Powers of ten, with 2 and 5 between them if there are few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1,), (1, 3), (1, 2, 5)):
        ticks = [d * 10.0**k for k in powers for d in digits if low <= d * 10.0**k <= high]
        if len(ticks) >= 3:
            break
    return ticks[:: -(-len(ticks) // 7)]


def _value_ticks(
    low: float, high: float, log: bool, upright: Scale, say: Callable[[float], str]
) -> list[Markup]:
    out = []
    for value in ticks(low, high, log):
        at = float(upright(np.array(math.log10(value) if log else value)))
        right = WIDTH - RIGHT
        out.append(tag("line", x1=LEFT, x2=right, y1=f"{at:.1f}", y2=f"{at:.1f}", class_="rule"))
        out.append(tag("text", say(value), x=LEFT - 7, y=f"{at + 4:.1f}", class_="value"))
    return out


def _image_ticks(across: Scale) -> list[Markup]:
    end = _invert(across)
    foot = HEIGHT - BOTTOM
    out = [tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=foot, y2=foot, class_="axis")]
    for value in _steps(0.0, end, 5):
        at = float(across(np.array(value)))
        out.append(
            tag("line", x1=f"{at:.1f}", x2=f"{at:.1f}", y1=foot, y2=foot + 4, class_="axis")
        )
        anchor = "end" if at > WIDTH - RIGHT - 14 else "middle"
        out.append(tag("text", short(value), x=f"{at:.1f}", y=foot + 17, text_anchor=anchor))
    middle = (LEFT + WIDTH - RIGHT) / 2
    out.append(tag("text", "images seen", x=middle, y=HEIGHT - 6, text_anchor="middle"))
    return out


def _invert(across: Scale) -> float:
    one = float(across(np.array(1.0))) - float(across(np.array(0.0)))
    return (WIDTH - RIGHT - LEFT) / one


def _unit(name: str) -> Callable[[float], str]:
    if name == "memory":
        return size
    return short if name == "images_per_second" else number


def _told(
    name: str,
    x: Sequence[float] | NDArray[np.float64],
    mean: NDArray[np.float64],
    bad: int,
    say: Callable[[float], str],
) -> str:
    """The chart in words, for those who do not see it."""
    text = f"{name}: from {say(float(mean[0]))} to {say(float(mean[-1]))}"
    text += f" between {count(float(x[0]))} and {count(float(x[-1]))} images"
    return text + (f"; {bad} values are not finite" if bad else "")
