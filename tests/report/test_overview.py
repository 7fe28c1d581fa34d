"""The page of `genlab compare`: whole, quiet, harmless and readable whatever runs are shown."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from genlab.report.curves import LINE_STYLES, Line, Series, line_style, overlay
from genlab.report.overview import write_overview
from genlab.report.scatter import Axis, Point, scatter
from genlab.run import pictures
from tests.helpers.pages import EVIL, Page
from tests.helpers.side_by_side import Maker, evaluate, table


def page_of(found, tmp_path: Path) -> Page:
    return Page(write_overview(found, tmp_path / "compare.html"))


def grid(folder: Path, images: int, level: int) -> None:
    picture = pictures.grid(np.full((4, 1, 8, 8), level, np.uint8))
    pictures.save(picture, folder / "samples" / "train" / f"{images:012d}.png")


@pytest.fixture
def make(tmp_path):
    return Maker(tmp_path / "out")


@pytest.fixture
def runs(make):
    """Two seeds of one config and one run of another, judged, with grids."""
    made = [make(seed=0), make(seed=1), make(optimizer__lr=0.01, losses=[3.0, 2.0, 2.5])]
    for i, folder in enumerate(made):
        evaluate(folder, {"fid": 10.0 + i, "recall": 0.5}, {"fid": "low", "recall": "high"})
        grid(folder, 100, 0)
        grid(folder, 200, 50 * i)
    return made


def test_page_of_several_runs(runs, tmp_path):
    page = page_of(table(*runs), tmp_path)
    for words in (
        "3 runs in 2 groups", "A lr 0.001 2 runs, seeds 0, 1", "B lr 0.01",
        "10.5 best 10 to 11", "0.5 best", "Seed 0", "Seed 1",
        "A lr 0.001 · samples after 200 images",
        "Runs of one seed drew them from the same random numbers.",
        "optimizer.lr 0.001 A", "fid, recall genlab eval: features small · images 2000",
    ):  # fmt: skip
        assert words in page.text, words
    assert len(page.all("img")) == 3
    first = base64.b64decode(str(page.all("img")[0]["src"]).partition(",")[2])
    assert first == (runs[0] / "samples" / "train" / "000000000200.png").read_bytes()
    assert "Not readable" not in page.text


def test_page_asks_nothing_of_the_network(runs, tmp_path):
    page = page_of(table(*runs), tmp_path)
    for name, attributes in page.elements:
        for key, value in attributes.items():
            assert not key.startswith("on"), (name, key)
            if key in ("src", "href", "srcset", "action", "data"):
                assert (value or "").startswith("data:image/"), (name, key)
    assert "url(" not in page.html and "@import" not in page.html
    policy = next(a["content"] for a in page.all("meta") if "http-equiv" in a)
    script = re.search(r"<script>(.*?)</script>", page.html, re.DOTALL)
    assert script is not None and str(policy).startswith("default-src 'none'")
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"'sha256-{digest}'" in str(policy)


def test_hostile_text_is_inert_everywhere(runs, tmp_path):
    clean = page_of(table(*runs), tmp_path)
    for i, folder in enumerate(runs):
        config = {"model": {"name": EVIL + str(i), EVIL: i}, "seed": EVIL, "data": {"name": EVIL}}
        (folder / "config.yaml").write_text(json.dumps(config))
        (folder / "provenance.json").write_text(json.dumps({"model.name": EVIL}))
        (folder / "STATUS").write_text(f"failed: {EVIL}\n")
        with (folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"images": 300, f"loss/{EVIL}": 1.0}) + "\n")
        protocol = {EVIL: EVIL, "images": i}
        for tag in "bc":
            evaluate(folder, {EVIL: 1.0}, {EVIL: EVIL}, tag=tag, protocol=protocol, x={EVIL: tag})
        (folder / "eval" / EVIL.replace("/", "")).mkdir()
        (folder / "eval" / EVIL.replace("/", "") / "result.json").write_text("{")
    bad = [
        f.rename(f.with_name(f"<script>alert(3)<img src=x onerror=alert(4)>{f.name}"))
        for f in runs
    ]
    page = page_of(table(*bad), tmp_path)
    assert page.text.count("alert(1)") > 40 and page.text.count("alert(3)") >= 3
    assert len(page.all("script")) == len(clean.all("script")) == 1
    assert all(str(a["src"]).startswith("data:image/png;base64,") for a in page.all("img"))
    assert not any(k.startswith("on") for _, a in page.elements for k in a)


def test_page_of_runs_with_next_to_nothing(make, tmp_path):
    bare = make()
    for name in ("config.yaml", "metrics.jsonl", "provenance.json"):
        (bare / name).unlink()
    page = page_of(table(bare), tmp_path)
    assert "One run" in page.text and "nothing to compare" in page.text
    page = page_of(table(bare, make(losses=[None, None])), tmp_path)
    assert "not finite" in page.text and "Any two numbers" not in page.text


def test_metrics_of_two_protocols_are_not_in_one_chart(make, tmp_path):
    made = [make(optimizer__lr=lr) for lr in (1, 2, 3)]
    for folder, images in zip(made, (2000, 10_000, 2000), strict=True):
        evaluate(folder, {"fid": 4.0}, protocol={"images": images})
        (folder / "eval" / "000000000200-a").rename(folder / "eval" / "training")
        rows = [{"images": i, "loss/net": 1.0, "metric/fid": 5.0} for i in (100, 200)]
        (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    page = page_of(table(*made), tmp_path)
    told = [str(a["aria-label"]) for a in page.all("svg") if a.get("class") == "chart"]
    assert sorted(told)[1:] == ["metric/fid at the end: A 5, C 5", "metric/fid at the end: B 5"]
    assert "metric/fid images 10000" in page.text and "metric/fid images 2000" in page.text


def test_seeds_that_differ_are_said(make, tmp_path):
    made = [make(seed=1), make(seed=2, optimizer__lr=1)]
    for folder in made:
        grid(folder, 100, 9)
    assert "No two groups share a seed" in page_of(table(*made), tmp_path).text


def test_broken_pictures_are_named_and_older_ones_shown(runs, tmp_path):
    last = runs[2] / "samples" / "train" / "000000000200.png"
    last.write_bytes(last.read_bytes()[:-20])
    page = page_of(table(*runs), tmp_path)
    assert "B lr 0.01 · samples after 100 images" in page.text
    assert "train/000000000200.png" in page.text


def test_many_runs_make_no_large_page(make, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32), dtype=np.uint8)
    made = []
    for i in range(200):
        made.append(make(optimizer__lr=i // 2, seed=i % 2, losses=range(300, 0, -1)))
        evaluate(made[-1], {"fid": float(i)})
        folder = made[-1] / "samples" / "train" / "000000000100.png"
        pictures.save(pictures.grid(noise), folder)
    found = table(*made)
    page = page_of(found, tmp_path)
    assert len(found.rows) == 100 and "76 more stand in the table but are not drawn" in page.text
    assert len(page.all("img")) == 24 and "Grids of 24 more runs" in page.text
    assert len(page.html) < 1_500_000
    assert len(page.all("select")) == 2


# --- curves in one chart -------------------------------------------------------------------------


def path_of(svg: str, label: str) -> list[tuple[float, float]]:
    found = re.search(rf'd="M([^"]*)" class="line [^"]*" data-label="{label}"', svg)
    assert found is not None
    return [tuple(map(float, p.split())) for p in found[1].split("L")]  # type: ignore[misc]


@pytest.mark.parametrize("log", [False, True])
def test_lines_stand_where_the_ticks_say(log):
    x = np.array([0.0, 500.0, 1000.0])
    values = {"A": np.array([1.0, 2.0, 4.0]), "B": np.array([3.0, 2.5, 100.0 if log else 2.0])}
    lines = [
        Line(Series("loss/net", x, v), k, line_style(i)) for i, (k, v) in enumerate(values.items())
    ]
    svg = str(overlay("loss/net", lines))
    ticks = re.findall(r'y="([\d.]+)" class="value">([\d.]+)<', svg)
    (y1, v1), *_, (y2, v2) = [(float(y) - 4, float(v)) for y, v in ticks]
    scale = math.log10 if log else float
    assert ("log scale" in svg) == log
    for label, own in values.items():
        for (_, y), value in zip(path_of(svg, label), own, strict=True):
            share = (scale(value) - scale(v1)) / (scale(v2) - scale(v1))
            assert y == pytest.approx(y1 + share * (y2 - y1), abs=0.2)


def test_legend_tells_the_mean_of_seeds_and_gaps():
    x = np.arange(4.0)
    seeds = [np.array([1.0, np.nan, 2.0, 3.0]), np.array([1.0, 2.0, 3.0, 5.0])]
    lines = [Line(Series("loss/net", x, v), "A", line_style(0)) for v in seeds]
    lines.append(Line(Series("loss/net", x, np.full(4, np.nan)), "B", line_style(1)))
    svg = str(overlay("loss/net", lines))
    assert 'class="last" data-label="A">4<' in svg and "not finite 1 times" in svg
    assert svg.count('data-label="A"') == 1 + 3 and 'data-label="B"' not in svg
    assert "no finite values" in str(overlay("loss/net", lines[-1:]))


def test_looks_differ():
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
def test_colours_are_told_apart_by_everybody_on_both_papers(dark):
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


# --- any two numbers -----------------------------------------------------------------------------


def test_points_stand_where_the_ticks_of_every_axis_say():
    lows = {"steps": [1.0, 10.0, 100.0], "fid": [-3.0, 5.0, 2.0], "loss": [0.2, None, 0.3]}
    axes = [Axis(n, [v if v is None else (v, v, v) for v in vs]) for n, vs in lows.items()]
    svg = str(scatter([Point(k, k, line_style(0)) for k in "ABC"], axes))
    left, right, foot, top = json.loads(re.search(r'data-box="(.*?)"', svg)[1])  # type: ignore[index]
    places = [json.loads(p.replace("&quot;", '"')) for p in re.findall(r'data-at="(.*?)"', svg)]
    for i, (name, values) in enumerate(lows.items()):
        scale = math.log10 if name == "steps" else float
        for way, ends in (("across", (left, right)), ("up", (foot, top))):
            axis = re.search(rf'<g data-axis="{way} {i}"(.*?)</g>', svg)
            assert axis is not None
            pattern = (
                r'y="([-\d.]+)" dy="4" class="value"'
                if way == "up"
                else r'x="([-\d.]+)" y="\d+" text-anchor="middle"'
            )
            ticks = re.findall(pattern + r">([-\d.]+)<", axis[1])
            (at1, v1), *_, (at2, v2) = [(float(a), float(v)) for a, v in ticks]
            for place, value in zip(places, values, strict=True):
                if value is None:
                    assert place[i] is None
                    continue
                share = (scale(value) - scale(v1)) / (scale(v2) - scale(v1))
                at = ends[0] + place[i][1] * (ends[1] - ends[0])
                assert at == pytest.approx(at1 + share * (at2 - at1), abs=0.2), (name, way)


def test_first_pair_is_drawn_without_the_script(make, tmp_path):
    for lr, fid in ((1, 3.0), (2, 4.0), (3, None)):
        folder = make(optimizer__lr=lr)
        if fid:
            evaluate(folder, {"fid": fid})
    page = page_of(table(*sorted(folder.parent.iterdir())), tmp_path)
    chosen = [a for a in page.all("option") if "selected" in a]
    assert len(chosen) == 2 and "optimizer.lr fid" in page.text.replace("across ", "")
    shown = [a for n, a in page.elements if n == "g" and "away" not in str(a.get("class"))]
    assert [a["data-axis"] for a in shown if "data-axis" in a] == ["across 0", "up 1"]
    assert sum("spot" in str(a.get("class")) for a in shown) == 2
    assert "for lack of one of the two: 1" in page.text
    assert "hidden" in next(a for a in page.all("div") if a.get("class") == "choices")
