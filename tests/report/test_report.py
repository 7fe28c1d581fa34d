"""report.html: one page that holds together whatever the run directory holds."""

from __future__ import annotations

import base64
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

from genlab.core.errors import ConfigError, DiskError
from genlab.report import images
from genlab.report.markup import raw, tag
from genlab.report.report import write_report
from genlab.run import pictures
from tests.helpers.pages import EVIL, Page, everything, grid, whole


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return whole(tmp_path)


def test_page_of_a_whole_run(run: Path) -> None:
    path = write_report(run)
    assert path == run / "report.html"
    page = Page(path)
    for words in (
        "gan on digits", "done", "4,000 of 4,000", "50s", "parameters 1.5M generator",
        f"genlab sample run={run} n=64", f"genlab resume run={run} schedule.images=8000",
        "genlab train optimizer.lr=3e-4 'data.root=/a b' fresh=true",
        f"genlab.load('{run}').sample(16)",
        "lr 0.0003 command line", "classes auto model/gan.yaml", "generator.width 64",
        "2k images", "torch 2.13", "loss/g", "loss/d",
    ):  # fmt: skip
        assert words in page.text, words
    assert len(page.all("img")) == 3
    assert sum(a.get("class") == "chart" for a in page.all("svg")) == 4
    assert "Not readable" not in page.text
    page.assert_harmless()


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


def test_a_page_has_each_picture_once_and_no_words_of_python(run: Path) -> None:
    for name in ("a", "b", "c"):
        folder = run / "samples" / name
        pictures.save(grid(99), folder / "grid.png")
        how = {"sampler": {"name": "heun", "through": None, "on": True, "at": []}, "seed": 0}
        (folder / "sample.json").write_text(json.dumps({**how, "guidance": {"name": None}}))
    (run / "environment.json").write_text(json.dumps({"data": {}, "x": [None, True, {"y": {}}]}))
    page = Page(write_report(run))
    sources = [a["src"] for a in page.all("img")]
    assert len(sources) == len({*sources}) and page.text.count("the same picture as") == 2
    assert not re.search(r"\bNone\b|\bTrue\b|\bFalse\b|\{\}", page.text.split("Config")[0])
    assert "heun, through null, on true" in page.text and "guidance none" in page.text


def test_hostile_text_is_inert_everywhere(run: Path) -> None:
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
    page.assert_harmless()


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


def test_a_last_line_cut_by_a_crash_is_no_problem(run: Path) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"images": 4120, "los')
    assert "Not readable" not in Page(write_report(run)).text


@pytest.mark.parametrize(
    "text", ["a: &a [*a]", "a: &a {b: *a}", "- 1", "{", "\x00", "a: " + "[" * 1000, "? [1]\n: 2"]
)
def test_strange_yaml(run: Path, text: str) -> None:
    (run / "config.yaml").write_text(text)
    Page(write_report(run))


def test_many_lines_and_many_pictures_make_no_large_page(run: Path) -> None:
    values = np.random.default_rng(0).normal(size=20_000)
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


def test_a_large_picture_is_embedded_smaller(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "LARGE", 100_000)
    noise = np.random.default_rng(0).integers(0, 256, (1, 3, 240, 240), dtype=np.uint8)
    path = pictures.save(pictures.grid(noise), run / "samples" / "big" / "grid.png")
    assert path.stat().st_size > 100_000
    source = str(Page(write_report(run)).all("img")[0]["src"])
    assert source.startswith("data:image/webp;base64,") and len(source) < 100_000


def test_errors_are_sentences(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="no run directory"):
        write_report(run / "nowhere")
    old = write_report(run).read_text()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(DiskError, match="disk is full"):
        write_report(run)
    assert (run / "report.html").read_text() == old


def test_metrics_of_the_journal_are_charts_in_front(tmp_path: Path) -> None:
    html = write_report(everything(tmp_path)).read_text()
    inside = html.partition('<section id="curves"')[2].partition("</section>")[0]
    front, _, folded = inside.partition("<details>")
    captions = [re.findall(r"<figcaption><b>(.*?)</b>", part) for part in (front, folded)]
    assert captions[0] == ["loss/g", "loss/d", "metric/fid", "metric/kid", "images_per_second"]
    assert captions[1] == ["lr/g", "metric/fid_bias"]  # the bounds of kid are its band
    assert front.count('class="band"') == 1 and "band" not in folded


def test_tag_escapes_all_but_markup() -> None:
    assert tag("p", "a<b", raw("<br>"), None, [1, "&"], class_="x y", title='"<', hidden=True) == (
        '<p class="x y" title="&quot;&lt;" hidden>a&lt;b<br>1&amp;</p>'
    )
    assert tag("img", src="a", alt=None) == '<img src="a">'
