"""report.html: one page that holds together whatever the run directory holds."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from genlab.core.errors import ConfigError, DiskError
from genlab.report.curves import Series, chart, smooth, thin
from genlab.report.markup import raw, tag
from genlab.report.report import write_report
from genlab.run import pictures
from tests.helpers.pages import EVIL, Page, grid, whole


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return whole(tmp_path)


def test_page_of_a_whole_run(run: Path) -> None:
    path = write_report(run)
    assert path == run / "report.html"
    page = Page(path)
    for words in (
        "gan on digits", "done", "4,000 of 4,000", "50s", "parameters 1.5M generator",
        "genlab sample run=abc123 n=64", "genlab resume run=abc123 schedule.images=8000",
        "genlab train optimizer.lr=3e-4 'data.root=/a b'", "genlab.load('abc123').sample(16)",
        "lr 0.0003 command line", "classes auto model/gan.yaml", "generator.width 64",
        "2k images", "torch 2.13", "loss/g", "loss/d",
    ):  # fmt: skip
        assert words in page.text, words
    assert len(page.all("img")) == 3
    assert sum(a.get("class") == "chart" for a in page.all("svg")) == 4
    assert "Not readable" not in page.text


def test_page_asks_nothing_of_the_network(run: Path) -> None:
    page = Page(write_report(run))
    for name, attributes in page.elements:
        for key, value in attributes.items():
            assert not key.startswith("on"), (name, key)
            if key in ("src", "href", "srcset", "action", "data"):
                assert (value or "").startswith("data:image/"), (name, key)
    assert "url(" not in page.html and "@import" not in page.html
    policy = next(a["content"] for a in page.all("meta") if "http-equiv" in a)
    assert policy is not None and policy.startswith("default-src 'none'")
    script = re.search(r"<script>(.*?)</script>", page.html, re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"'sha256-{digest}'" in policy  # or the browser would not run our own script


def test_newest_samples_stand_first_with_how_they_were_made(run: Path) -> None:
    for age, name in ((1000, "old"), (2000, "new")):
        file = pictures.save(grid(age // 10), run / "samples" / name / "grid.png")
        os.utime(file, (age, age))
    frames = [grid(v) for v in (0, 50, 100)]
    pictures.animation(frames, run / "samples" / "new" / "trajectory.png")
    (run / "samples" / "new" / "sample.json").write_text('{"sampler": "heun", "labels": null}')
    page = Page(write_report(run))
    assert page.text.index("folder new sampler heun") < page.text.index("old")
    sources = [a["src"] for a in page.all("img")]
    first = base64.b64decode(str(sources[0]).partition(",")[2])
    assert first == (run / "samples" / "new" / "grid.png").read_bytes()
    assert b"acTL" in base64.b64decode(str(sources[1]).partition(",")[2])  # it still moves


def test_hostile_text_is_inert_everywhere(run: Path) -> None:
    clean = Page(write_report(run))
    (run / "config.yaml").write_text(
        json.dumps({"model": {"name": EVIL, EVIL: EVIL}, "data": {"name": EVIL}, EVIL: [EVIL]})
    )
    (run / "STATUS").write_text(f"failed: {EVIL}\n")
    (run / "overrides.txt").write_text(f"model.name={EVIL}\n")
    (run / "provenance.json").write_text(json.dumps({"model": EVIL}))
    (run / "environment.json").write_text(json.dumps({EVIL: EVIL, "parameters": {EVIL: 3}}))
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"images": 1, f"loss/{EVIL}": 1.0}) + "\n")
    pictures.save(grid(9), run / "samples" / EVIL.replace("/", "") / "grid.png")
    made = run / "samples" / EVIL.replace("/", "") / "sample.json"
    made.write_text(json.dumps({"sampler": EVIL, EVIL: EVIL}))
    bad = run.rename(run.with_name("<script>alert(3)<img src=x onerror=alert(4)>"))
    page = Page(write_report(bad))
    assert page.text.count("alert(1)") >= 12  # all of them are shown, as text
    assert len(page.all("script")) == len(clean.all("script")) == 1
    assert all(str(a["src"]).startswith("data:image/png;base64,") for a in page.all("img"))
    assert not any(k.startswith("on") for _, a in page.elements for k in a)


@pytest.mark.parametrize("missing", ["everything", "metrics.jsonl", "config.yaml", "samples"])
def test_young_run(run: Path, missing: str, tmp_path: Path) -> None:
    if missing == "everything":
        run = tmp_path / "new"
        run.mkdir()
    elif missing == "samples":
        (run / "samples").rename(tmp_path / "elsewhere")
    else:
        (run / missing).unlink()
    page = Page(write_report(run))
    assert "Not readable" not in page.text
    assert ("No pictures yet" in page.text) == (missing in ("everything", "samples"))
    assert ("No log line yet" in page.text) == (missing in ("everything", "metrics.jsonl"))


def test_broken_files_are_named_and_the_rest_is_shown(run: Path) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write('no json\n[1]\n{"images": "x"}\n{"images": 4040, "loss/g": 1e999}\n')
        file.write('{"images": 4080, "loss/g": null}\n{"images": ' + "9" * 400 + "}\n")
        file.write('{"images": 4120, "los')
    (run / "environment.json").write_text("{")
    (run / "provenance.json").write_text("[]")
    frame = run / "samples" / "train" / "000000002000.png"
    frame.write_bytes(frame.read_bytes()[:-20])
    (run / "samples" / "train" / "000000004000.png").write_text("no picture")
    page = Page(write_report(run))
    assert "not finite 2 times" in page.text
    for words in ("metrics.jsonl: 5 lines", "environment.json", "provenance.json: not a mapping",
                  "train/000000002000.png", "train/000000004000.png"):  # fmt: skip
        assert words in page.text
    assert len(page.all("img")) == 1


def test_a_last_line_cut_by_a_crash_is_no_news(run: Path) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"images": 4120, "los')
    assert "Not readable" not in Page(write_report(run)).text


@pytest.mark.parametrize(
    "text", ["a: &a [*a]", "a: &a {b: *a}", "- 1", "{", "\x00", "a: " + "[" * 5000, "? [1]\n: 2"]
)
def test_strange_yaml(run: Path, text: str) -> None:
    (run / "config.yaml").write_text(text)
    Page(write_report(run))


def test_state_of_a_run_whose_process_died(run: Path) -> None:
    (run / "STATUS").write_text("running\n")
    with (run / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert " running " in Page(write_report(run)).text
    assert " interrupted killed " in Page(write_report(run)).text


def test_many_lines_and_many_pictures_make_no_large_page(run: Path) -> None:
    values = np.random.default_rng(0).normal(size=100_000)
    with (run / "metrics.jsonl").open("w") as file:
        for i, v in enumerate(values.tolist()):
            file.write(f'{{"images": {i * 10}, "loss/g": {v}}}\n')
    for i in range(60):
        pictures.save(grid(i), run / "samples" / "train" / f"{i:012d}.png")
    page = Page(write_report(run))
    for name, attributes in page.elements:
        if name == "path":
            assert str(attributes["d"]).count("L") < 1000
    assert len(page.html) < 300_000
    labels = [a["data-label"] for a in page.all("li") if "data-label" in a]
    assert len(labels) == 24
    assert labels[0] == "0 images seen" and labels[-1] == "4,000 images seen"


def test_a_large_picture_is_embedded_smaller(run: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1, 3, 1200, 1200), dtype=np.uint8)
    path = pictures.save(pictures.grid(noise), run / "samples" / "big" / "grid.png")
    assert path.stat().st_size > 3_000_000
    source = str(Page(write_report(run)).all("img")[0]["src"])
    assert source.startswith("data:image/webp;base64,") and len(source) < 3_000_000


def test_errors_are_sentences(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="no run directory"):
        write_report(run / "nowhere")
    old = write_report(run).read_text()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(DiskError, match="disk is full"):
        write_report(run)
    assert (run / "report.html").read_text() == old


def test_no_torch() -> None:
    code = (
        "import sys, genlab.report.report, genlab.run.pictures; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- the parts -----------------------------------------------------------------------------------


def test_tag_escapes_all_but_markup() -> None:
    assert tag("p", "a<b", raw("<br>"), None, [1, "&"], class_="x y", title='"<', hidden=True) == (
        '<p class="x y" title="&quot;&lt;" hidden>a&lt;b<br>1&amp;</p>'
    )
    assert tag("img", src="a", alt=None) == '<img src="a">'


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
    assert ("log scale" in svg) == log
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
