"""Both pages in a real browser: by eye and by keyboard, on a phone and a desk, day and night."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from genlab.report.overview import write_overview
from genlab.report.report import write_report
from genlab.run import pictures
from tests.helpers.browser import CHROMIUM, DESK, PHONE, Browser, assert_legible, assert_quiet
from tests.helpers.pages import everything
from tests.helpers.side_by_side import Maker, evaluate, table

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

# of each image whether every pixel is there, its width on the page, and its text
IMAGES = """Promise.all([...document.images].map(async (i) => {
  await i.decode();
  const pen = new OffscreenCanvas(i.naturalWidth, i.naturalHeight).getContext('2d');
  pen.drawImage(i, 0, 0);
  const { data } = pen.getImageData(0, 0, i.naturalWidth, i.naturalHeight);
  const drawn = data.every((v, k) => k % 4 < 3 || v === 255);
  return [drawn, i.getBoundingClientRect().width, i.alt];
}))"""

# what has the focus, and whether a ring shows it; null for nothing
FOCUS = """(() => {
  const e = document.activeElement;
  if (e === document.body) return null;
  const ring = getComputedStyle(e);
  const seen = ring.outlineStyle !== 'none' && parseFloat(ring.outlineWidth) >= 2;
  const name = e.getAttribute('aria-label') || e.textContent;
  return [e.localName + '.' + (e.getAttribute('class') || ''), name.trim().slice(0, 60), seen];
})()"""

# the points of the plane: label, x and y
POINTS = """[...document.querySelectorAll('.spot:not(.away)')].map((s) => [
  s.querySelector('text').textContent,
  Number(s.querySelector('circle').getAttribute('cx')),
  Number(s.querySelector('circle').getAttribute('cy')),
])"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report(everything(tmp_path_factory.mktemp("report"))).as_uri()


@pytest.fixture(scope="module")
def overview(tmp_path_factory: pytest.TempPathFactory) -> str:
    make = Maker(tmp_path_factory.mktemp("overview") / "out")
    noise = np.random.default_rng(0).integers(0, 256, (16, 1, 8, 8), dtype=np.uint8)
    for i in range(9):
        run = make(optimizer__lr=0.001 * (1 + i // 2), seed=i % 2, losses=[9 - i, 5, 1 + i, 2])
        evaluate(run, {"fid": 10.0 + i, "recall": 0.1 * i}, {"fid": "low", "recall": "high"})
        if i < 6:  # some rows lack this column
            more = {"images": 10_000, "reference": "a reference with a long name"}
            evaluate(run, {"fid": 9.0 + i}, tag="b", protocol=more, sampler={"steps": 5 + i})
        pictures.save(pictures.grid(noise), run / "samples" / "train" / "000000000400.png")
    found = table(*sorted(run.parent.iterdir()), sort="fid")
    return write_overview(found, make.outputs / "compare.html").resolve().as_uri()


both = pytest.mark.parametrize(("size", "scheme"), [(PHONE, "light"), (DESK, "dark")])


@both
def test_report_is_legible_and_quiet(
    browser: Browser, report: str, size: tuple[int, int], scheme: str
) -> None:
    assert_legible(browser, report, size, scheme, ".film")
    images = browser.run(IMAGES)
    assert len(images) == 3 + 1 + 2 + 5  # over training, large, two sets, pairs
    assert all(drawn and width > 0 and alt.strip() for drawn, width, alt in images)
    assert_quiet(browser, report)


@both
def test_overview_is_legible_and_quiet(
    browser: Browser, overview: str, size: tuple[int, int], scheme: str
) -> None:
    assert_legible(browser, overview, size, scheme, ".scroll table")
    assert_quiet(browser, overview)


def test_report_by_keyboard(browser: Browser, report: str) -> None:
    browser.open(report, *DESK, "light")
    stops = []
    while len(stops) < 60:
        browser.press("Tab")
        stop = browser.run(FOCUS)
        if stop is None:
            break
        stops.append(stop)
    assert all(seen for _, _, seen in stops), stops
    names = [f"{kind} {name}" for kind, name, _ in stops]
    for words in ("button. Play", "input. Images seen", "ol.film thumbs Grids over training",
                  "svg.chart metric/fid", "summary. After 4,000 images",
                  "summary. All of the protocols"):  # fmt: skip
        assert any(name.startswith(words) for name in names), (words, names)

    def label() -> str:
        return browser.run("document.querySelector('.bar output').textContent")

    assert label() == "4,000 images seen"
    browser.run("document.querySelector('.film').focus()")
    turns = [("ArrowLeft", "2,000"), ("Home", "0"), ("ArrowLeft", "0"), ("ArrowRight", "2,000"),
             ("End", "4,000"), ("ArrowRight", "4,000")]  # fmt: skip
    for key, images in turns:
        browser.press(key)
        assert label() == f"{images} images seen", key
    shown = "document.querySelector('.viewer img').src === "
    assert browser.run(f"{shown}document.querySelector('.film li:last-child img').src")
    browser.run("document.querySelector('.bar button').focus()")
    for key, word in (("Enter", "Pause"), (" ", "Play")):
        browser.press(key)
        assert browser.run("document.querySelector('.bar button').textContent") == word
    for number, was in ((0, True), (2, False)):  # the newest is open, that of training not
        fold = f"document.querySelectorAll('.evaluation')[{number}]"
        assert browser.run(f"{fold}.open") is was
        browser.run(f"{fold}.querySelector('summary').focus()")
        browser.press("Enter")
        assert browser.run(f"{fold}.open") is not was

    chart = "[...document.querySelectorAll('svg.chart')].find((c) => " \
            "c.getAttribute('aria-label').startsWith('metric/fid:'))"  # fmt: skip
    browser.run(f"{chart}.focus()")
    value = f"{chart}.parentNode.querySelector('.last').textContent"
    assert browser.run(value) == "12"  # 60 / 5, after all images
    browser.press("ArrowLeft")
    assert browser.run(value).endswith("at 3,200 images")
    assert float(browser.run(value).split()[0]) == pytest.approx(15, abs=0.1)
    browser.run("document.activeElement.blur()")
    assert browser.run(value) == "12"


def test_overview_by_keyboard(browser: Browser, overview: str) -> None:
    browser.open(overview, *DESK, "light")
    count = browser.run("document.querySelectorAll('option').length") // 2
    left, right, foot, top = browser.run(
        "JSON.parse(document.querySelector('.scatter').dataset.box)"
    )
    places = browser.run(
        "[...document.querySelectorAll('.spot')].map((s) => "
        "[s.querySelector('text').textContent, JSON.parse(s.dataset.at)])"
    )

    def drawn(a: int, b: int) -> None:
        """The points stand where their shares of two axes say, and those axes are shown."""
        there = [(label, at[a][1], at[b][1]) for label, at in places if at[a] and at[b]]
        assert there
        wanted = [[n, left + x * (right - left), foot + y * (top - foot)] for n, x, y in there]
        for found, point in zip(browser.run(POINTS), wanted, strict=True):
            assert found[0] == point[0] and found[1:] == pytest.approx(point[1:])
        axes = (
            "[...document.querySelectorAll('[data-axis]:not(.away)')].map((x) => x.dataset.axis)"
        )
        assert browser.run(axes) == [f"across {a}", f"up {b}"]

    drawn(0, 1)
    for number, key, chosen in ((1, "End", (0, count - 1)), (0, "End", (count - 1, count - 1))):
        browser.run(f"document.querySelectorAll('select')[{number}].focus()")
        browser.press(key)
        drawn(*chosen)

    browser.run("document.querySelector('.charts svg.chart').focus()")
    value = "document.querySelector('.charts .last[data-label=A]').textContent"
    place = "document.querySelector('.charts .place').textContent"
    assert (float(browser.run(value)), browser.run(place)) == (2, "")
    browser.press("Home")
    assert float(browser.run(value)) == pytest.approx(8.5, abs=0.05), "the mean of two seeds"
    assert browser.run(place) == "at 100 images"
    browser.run("document.activeElement.blur()")
    assert (float(browser.run(value)), browser.run(place)) == (2, "")
