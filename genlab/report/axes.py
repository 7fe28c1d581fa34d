"""The plane of a chart: images seen across, values upwards; its axes, and what is drawn in it."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from genlab.core.format import number, short, size
from genlab.report.markup import Markup, tag

__all__ = [
    "WIDE",
    "Floats",
    "Plane",
    "formatter",
    "path",
    "segments",
    "ticks",
    "value_range",
]

WIDTH, HEIGHT = 460, 240  # viewBox; text is set for a width of about 350 pixels and more
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 14, 40
FOOT, END = HEIGHT - BOTTOM, WIDTH - RIGHT
WIDE = 30.0  # ratio of largest to smallest from which a value axis is logarithmic

Floats = NDArray[np.float64]


class Plane:
    """Turns images and values into places of a picture.

    name: the quantity, which decides how its values are written. end: the last number of images.
    low, high: the values at the foot and at the top; log: whether their axis is logarithmic.
    """

    def __init__(self, name: str, end: float, low: float, high: float, log: bool) -> None:
        self.text, self.end, self.low, self.log = formatter(name), max(end, 1.0), low, log
        self.limits = (math.log10(low), math.log10(high)) if log else (low, high)
        self.values = ticks(low, high, log)

    def across(self, images: Floats) -> Floats:
        """The x of numbers of images."""
        return LEFT + (np.asarray(images) - 0.0) / self.end * (END - LEFT)

    def up(self, values: Floats) -> Floats:
        """The y of values; of those that a logarithm does not take, one below the foot."""
        v = np.log10(np.maximum(values, self.low * 1e-3)) if self.log else np.asarray(values)
        low, high = self.limits
        return FOOT + (v - low) / ((high - low) or 1.0) * (TOP - FOOT)

    def dots(self, images: Floats, values: Floats) -> Markup:
        """Strokes of no length, whose round ends are dots, where the values are in the picture."""
        x, y = self.across(images), self.up(values)
        seen = (y >= TOP - 4) & (y <= FOOT + 4)
        places = zip(x[seen].tolist(), y[seen].tolist(), strict=True)
        points = (f"M{a:.1f} {b:.1f}h0" for a, b in places)
        return tag("path", d="".join(points), class_="dots")

    def marks(self, images: Floats) -> list[Markup]:
        """Small triangles at the foot."""
        return [
            tag("path", d=f"M{x:.1f} {FOOT}l-4 -8h8z", class_="bad") for x in self.across(images)
        ]

    def picture(self, curves: list[Markup], over: list[Markup], description: str) -> Markup:
        """The axes, curves cut where they leave the plane, and what lies over them.

        description: the picture in words. The data of the element are what a script needs to turn
        a place into numbers.
        """
        box = {"x": LEFT, "y": TOP - 4, "width": END - LEFT, "height": FOOT - TOP + 8}
        view = " ".join(map(str, box.values()))  # the inner window keeps the outer coordinates
        low, high = self.limits
        return tag(
            "svg",
            self._upright(),
            self._images(),
            tag("svg", *curves, **box, viewBox=view),
            over,
            viewBox=f"0 0 {WIDTH} {HEIGHT}",
            role="img",
            aria_label=description,
            class_="chart",
            data_left=LEFT,
            data_right=END,
            data_top=TOP,
            data_foot=FOOT,
            data_end=self.end,
            data_low=low,
            data_high=high,
            data_log=1 if self.log else None,  # a bare attribute would be an empty string, false
        )

    def _upright(self) -> list[Markup]:
        out = []
        for value, at in zip(self.values, self.up(np.array(self.values)), strict=True):
            y = f"{at:.1f}"
            out.append(tag("line", x1=LEFT, x2=END, y1=y, y2=y, class_="rule"))
            out.append(
                tag("text", self.text(value), x=LEFT - 7, y=f"{at + 4:.1f}", class_="value")
            )
        return out

    def _images(self) -> list[Markup]:
        out = [tag("line", x1=LEFT, x2=END, y1=FOOT, y2=FOOT, class_="axis")]
        values = _steps(0.0, self.end, 5)
        for value, at in zip(values, self.across(np.array(values)), strict=True):
            x = f"{at:.1f}"
            anchor = "end" if at > END - 14 else "middle"
            out.append(tag("line", x1=x, x2=x, y1=FOOT, y2=FOOT + 4, class_="axis"))
            out.append(tag("text", short(value), x=x, y=FOOT + 17, text_anchor=anchor))
        middle = (LEFT + END) / 2
        out.append(tag("text", "images seen", x=middle, y=HEIGHT - 6, text_anchor="middle"))
        return out


def value_range(y: Floats, mean: Floats, *extra: Floats) -> tuple[float, float, bool]:
    """(low, high, logarithmic): holds the average and 98 % of the values; spikes are cut."""
    every = np.concatenate([np.quantile(y, [0.01, 0.99]), mean, *extra])
    low, high = float(every.min()), float(every.max())
    if low > 0 and high / low > WIDE and float(y.min()) > 0:
        return low / 1.15, high * 1.15, True
    if high - low <= max(
        1e-9 * max(abs(high), abs(low)), 1e-300
    ):  # a constant gets a margin on both sides
        margin = abs(high) * 0.1 if abs(high) > 1e-290 else 1.0
        return low - margin, high + margin, False
    margin = (high - low) * 0.05
    return (0.0 if 0 <= low < 0.35 * high else low - margin), high + margin, False


def segments(good: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Half-open ranges of neighbouring finite values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], good.astype(int), [0]])))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def path(x: Floats, y: Floats, kind: str, **more: object) -> Markup:
    """A line through places, of the class `kind`; a point alone is a dot."""
    far = np.clip(y, -1e4, 1e4)
    points = [f"{a:.1f} {b:.1f}" for a, b in zip(x.tolist(), far.tolist(), strict=True)]
    return tag(
        "path", d="M" + "L".join(points if len(points) > 1 else points * 2), class_=kind, **more
    )


def ticks(low: float, high: float, log: bool) -> list[float]:
    """Round numbers from low to high to be written at an axis."""
    return _decades(low, high) if log else _steps(low, high, 5)


def formatter(name: str) -> Callable[[float], str]:
    """How the values of a quantity are written."""
    if name == "memory":
        return size
    return short if name == "images_per_second" else number


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
