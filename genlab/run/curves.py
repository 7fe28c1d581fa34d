"""Curves over images seen as inline SVG, thinned and smoothed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from genlab.run.axes import Plane, path, span, stretches, usable
from genlab.run.markup import Markup, tag
from genlab.run.words import count

__all__ = ["Series", "chart", "smooth", "thin"]

POINTS = 1000  # of one drawn curve
FEW = 24  # points up to which each is marked


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
    good = usable(main.values)
    if not good.any():
        words = "no values yet" if not len(good) else f"none of {len(good)} values is finite"
        return tag("figure", tag("figcaption", tag("b", main.name), " ", tag("span", words)))
    x, y = main.images[good], main.values[good]
    at = np.unique(np.linspace(0, len(y) - 1, min(len(y), POINTS // 2)).astype(int))
    mean = smooth(y, at, len(y) // 60)
    extra = _finite(also)
    ends = [e for s in band or () if (e := _finite(s)) is not None]
    reach = span(y, mean, *(e[1] for e in [*ends, extra] if e is not None))
    plane = Plane(main.name, float(main.images[-1]), *reach)
    plot = []
    if len(ends) == 2:
        (x1, y1), (x2, y2) = ends
        edge = np.concatenate([plane.up(y1), plane.up(y2)[::-1]])
        plot.append(path(plane.across(np.concatenate([x1, x2[::-1]])), edge, "band"))
    for a, b in stretches(good):  # a value that is not finite is a gap, not a straight line
        px, py = thin(main.images[a:b], main.values[a:b], max(8, POINTS * (b - a) // len(good)))
        plot.append(path(plane.across(px), plane.up(py), "raw"))
    kind = "mean" if len(x) > 1 else "mean point"
    plot.append(path(plane.across(x[at]), plane.up(mean), kind))
    if extra is not None:
        plot.append(path(plane.across(extra[0]), plane.up(extra[1]), "also"))
    # outside the window of the curves, which would halve the last one
    over = [plane.dots(x, y)] if 1 < len(x) <= FEW else []
    over += plane.marks(main.images[~good][:50])
    bad, say = int((~good).sum()), plane.say
    note = [tag("b", main.name), " ", tag("span", say(float(mean[-1])), class_="last")]
    if plane.log:
        note.append(tag("span", " log scale", class_="hint"))
    if extra is not None and also is not None:
        note.append(tag("span", f" {also.name} {say(float(extra[1][-1]))}", class_="also"))
    if len(ends) == 2:
        note.append(tag("span", " to ".join(say(float(e[1][-1])) for e in ends), class_="hint"))
    if bad:
        note.append(tag("span", f" not finite {bad} times", class_="warn"))
    picture = plane.picture(plot, over, _told(main.name, x, mean, bad, say))
    return tag("figure", tag("figcaption", *note), picture)


def _finite(also: Series | None) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    if also is None:
        return None
    good = usable(also.values)
    return thin(also.images[good], also.values[good]) if good.any() else None


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
