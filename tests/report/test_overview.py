"""The page of `genlab compare`: whole, harmless and readable whatever runs are shown."""

from __future__ import annotations

import base64
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from genlab.report.curves import line_style
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
    """Two seeds of one config and one run of another, evaluated, with grids."""
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
    page.assert_harmless()


def test_hostile_text_is_inert_everywhere(runs, tmp_path):
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
    page.assert_harmless()


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
    labels = [str(a["aria-label"]) for a in page.all("svg") if a.get("class") == "chart"]
    assert sorted(labels)[1:] == ["metric/fid at the end: A 5, C 5", "metric/fid at the end: B 5"]
    assert "metric/fid images 10000" in page.text and "metric/fid images 2000" in page.text


def test_a_page_of_different_seeds_says_so(make, tmp_path):
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
    for i in range(60):
        made.append(make(optimizer__lr=i // 2, seed=i % 2, losses=range(100, 0, -1)))
        evaluate(made[-1], {"fid": float(i)})
        folder = made[-1] / "samples" / "train" / "000000000100.png"
        pictures.save(pictures.grid(noise), folder)
    found = table(*made)
    page = page_of(found, tmp_path)
    assert len(found.rows) == 30 and "6 more stand in the table but are not drawn" in page.text
    assert len(page.all("img")) == 24 and "Grids of 24 more runs" in page.text
    assert len(page.html) < 1_000_000
    assert len(page.all("select")) == 2


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
