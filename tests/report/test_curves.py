"""Charts: values stand where the ticks say, spikes and gaps stay, styles differ for everybody."""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path

import numpy as np
import pytest

from genlab.report.curves import (
    LINE_STYLES,
    Line,
    chart,
    line_style,
    overlay,
    smooth,
    thin,
)
from genlab.report.journal import Series


def test_thin_keeps_spikes_and_ends() -> None:
    x, y = np.arange(50_000.0), np.zeros(50_000)
    y[12_345], y[40_001] = 5.0, -7.0
    tx, ty = thin(x, y, 1000)
    assert len(tx) <= 1000 and (np.diff(tx) > 0).all()
    assert tx[0] == 0 and tx[-1] == 49_999
    assert ty[tx == 12_345] == 5.0 and ty[tx == 40_001] == -7.0
    assert (y[tx.astype(int)] == ty).all()


def test_smooth_is_a_window_that_shrinks_at_the_start() -> None:
    values = np.random.default_rng(0).normal(size=30)
    at = np.array([0, 2, 10, 29])
    expected = [values[0], values[:5].mean(), values[5:16].mean(), values[24:].mean()]
    assert np.allclose(smooth(values, at, 5), expected)
    line = np.linspace(3, -4, 100)  # no lag: a straight line stays itself, away from its end
    assert np.allclose(smooth(line, np.arange(90), 9), line[:90])


def points(svg: str, kind: str) -> list[tuple[float, float]]:
    found = re.search(rf'd="M([^"]*)" class="{kind}"', svg)
    assert found is not None
    pairs = (p.split() for p in found[1].split("L"))
    return [(float(x), float(y)) for x, y in pairs]


@pytest.mark.parametrize("log", [False, True])
def test_chart_puts_values_where_its_ticks_say(log: bool) -> None:
    images = np.array([0.0, 5000.0, 10_000.0])
    values = np.array([1.0, 10.0, 100.0]) if log else np.array([1.0, 3.0, 2.0])
    svg = str(chart(Series("loss/net", images, values)))
    assert ("log scale" in svg) == ('data-log="1"' in svg) == log  # what the script reads
    place = {}
    for x, y, text in re.findall(r'<text x="([\d.]+)" y="([\d.]+)" class="value">(.*?)<', svg):
        assert float(x) < 56
        place[float(text)] = float(y) - 4
    assert len(place) >= 3
    (low, at_low), *_, (high, at_high) = sorted(place.items())
    f = math.log10 if log else float
    for (_, y), value in zip(points(svg, "raw"), values, strict=True):
        share = (f(value) - f(low)) / (f(high) - f(low))
        assert y == pytest.approx(at_low + share * (at_high - at_low), abs=0.2)
    ticks = dict(re.findall(r'<text x="([\d.]+)" y="[\d.]+" text-anchor="\w+">([\d.]+k?)<', svg))
    x = [p[0] for p in points(svg, "raw")]
    assert ticks[f"{x[0]:.1f}"] == "0" and ticks[f"{x[2]:.1f}"] == "10k"


def test_chart_breaks_where_a_value_is_not_finite() -> None:
    values = np.array([1.0, 2.0, math.nan, 1.5, math.inf, 1.0])
    svg = str(chart(Series("loss/net", np.arange(6.0), values)))
    assert svg.count('class="raw"') == 3
    assert svg.count('class="bad"') == 2
    assert "nan" not in svg and "inf" not in svg.replace("not finite", "")


@pytest.mark.parametrize(
    "values",
    [
        [],
        [math.nan],
        [0.0],
        [1.0],
        [-3.0, -3.0],
        [1e-300, 1.0],
        [1e99, -1e99],
        [1e300],
        [5e-324] * 3,
    ],
)
def test_chart_of_anything(values: list[float]) -> None:
    svg = str(chart(Series("x", np.zeros(len(values)), np.array(values))))
    assert svg.startswith("<figure>")
    assert "nan" not in svg


def test_band_lies_between_its_bounds() -> None:
    images = np.array([0.0, 5000.0, 10_000.0])
    values = [2.0, 3.0, 2.5], [1.0, 2.0, np.nan], [3.0, 3.5, 3.0]
    main, low, high = (Series("m", images, np.array(v)) for v in values)
    svg = str(chart(main, band=(low, high)))
    place = {
        float(text): float(y) - 4
        for y, text in re.findall(r'<text x="[\d.]+" y="([\d.]+)" class="value">(.*?)<', svg)
    }
    unit = (place[3.0] - place[2.0]) / 1.0
    found = re.search(r'd="M([^"]*)" class="band"', svg)
    assert found is not None
    path = [tuple(map(float, p.split())) for p in found[1].split("L")]
    expected = [1.0, 2.0, 3.0, 3.5, 3.0]  # the lower bound onwards, the upper one back
    assert [y for _, y in path] == pytest.approx(
        [place[2.0] + (v - 2) * unit for v in expected], abs=0.2
    )
    across = [x for x, _ in path]
    assert across == [across[0], across[1], across[2], across[1], across[0]]
    assert across[0] < across[1] < across[2]


# --- several runs in one chart -------------------------------------------------------------------


def test_legend_gives_the_mean_of_seeds_and_gaps():
    x = np.arange(4.0)
    seeds = [np.array([1.0, np.nan, 2.0, 3.0]), np.array([1.0, 2.0, 3.0, 5.0])]
    lines = [Line(Series("loss/net", x, v), "A", line_style(0)) for v in seeds]
    lines.append(Line(Series("loss/net", x, np.full(4, np.nan)), "B", line_style(1)))
    svg = str(overlay("loss/net", lines))
    assert 'class="last" data-label="A">4<' in svg and "not finite 1 times" in svg
    assert svg.count('data-label="A"') == 1 + 3 and 'data-label="B"' not in svg
    assert "no finite values" in str(overlay("loss/net", lines[-1:]))


def test_styles_differ():
    styles = [line_style(i) for i in range(LINE_STYLES)]
    assert len(set(styles)) == LINE_STYLES == 24
    for a, b in itertools.pairwise(styles):
        assert not set(a.split()) & set(b.split()), "neighbours differ in colour and in dashes"


# Machado, Oliveira and Fernandes 2009: full protanopia, deuteranopia and tritanopia, linear RGB
SIGHTS = [
    np.eye(3),
    np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
              [-0.003882, -0.048116, 1.051998]]),
    np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
              [-0.011820, 0.042940, 0.968881]]),
    np.array([[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
              [0.004733, 0.691367, 0.303900]]),
]  # fmt: skip


def linear(colour: str) -> np.ndarray:
    v = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)


def oklab(rgb: np.ndarray) -> np.ndarray:
    """Ottosson 2020."""
    cones = np.array([[0.4122214708, 0.5363325363, 0.0514459929],
                      [0.2119034982, 0.6806995451, 0.1073969566],
                      [0.0883024619, 0.2817188376, 0.6299787005]])  # fmt: skip
    lab = np.array([[0.2104542553, 0.7936177850, -0.0040720468],
                    [1.9779984951, -2.4285922050, 0.4505937099],
                    [0.0259040371, 0.7827717662, -0.8086757660]])  # fmt: skip
    return lab @ np.cbrt(cones @ rgb.clip(0, 1))


@pytest.mark.parametrize("dark", [False, True])
def test_colours_differ_for_everybody_on_both_papers(dark):
    folder = Path(overlay.__code__.co_filename).parent
    sheets = [(folder / n).read_text() for n in ("page.css", "overview.css")]
    scheme = [s.split("prefers-color-scheme: dark")[dark].split("}")[0] for s in sheets]
    named = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", "".join(scheme)))
    own = [named[f"c{i}"] for i in range(6)]
    for colour, ground in itertools.product(own, (named["card"], named["paper"])):
        low, high = sorted(linear(c) @ [0.2126, 0.7152, 0.0722] for c in (colour, ground))
        assert (high + 0.05) / (low + 0.05) >= 3, "WCAG 2.1, 1.4.11"
    for a, b in itertools.combinations(own, 2):
        for sight in SIGHTS:
            apart = np.linalg.norm(oklab(sight @ linear(a)) - oklab(sight @ linear(b)))
            assert apart > 0.1, (a, b)
