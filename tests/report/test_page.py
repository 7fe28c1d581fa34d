"""The report in a real browser: by eye and by keyboard, on a phone and a desk, day and night."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from genlab.report.report import write_report
from tests.helpers.browser import CHROMIUM, DESK, PHONE, Browser, asked_nothing, whole_and_legible
from tests.helpers.pages import everything

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

IMAGES = """Promise.all([...document.images].map(async (i) => {
  await i.decode();
  const pen = new OffscreenCanvas(i.naturalWidth, i.naturalHeight).getContext('2d');
  pen.drawImage(i, 0, 0);
  const { data } = pen.getImageData(0, 0, i.naturalWidth, i.naturalHeight);
  const drawn = data.every((v, k) => k % 4 < 3 || v === 255);
  return [drawn, i.getBoundingClientRect().width, i.alt];
}))"""
"""Of each image whether every pixel is there, its width on the page, and its words."""

FOCUS = """(() => {
  const e = document.activeElement;
  if (e === document.body) return null;
  const ring = getComputedStyle(e);
  const seen = ring.outlineStyle !== 'none' && parseFloat(ring.outlineWidth) >= 2;
  const name = e.getAttribute('aria-label') || e.textContent;
  return [e.localName + '.' + (e.getAttribute('class') || ''), name.trim().slice(0, 60), seen];
})()"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report(everything(tmp_path_factory.mktemp("page"))).as_uri()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESK])
def test_page_is_whole_and_quiet(
    browser: Browser, page: str, size: tuple[int, int], scheme: str
) -> None:
    whole_and_legible(browser, page, size, scheme, ".film")
    images = browser.run(IMAGES)
    assert len(images) == 3 + 1 + 2 + 5  # over training, large, two sets, pairs
    assert all(drawn and width > 0 and alt.strip() for drawn, width, alt in images)
    asked_nothing(browser, page)


def test_page_can_ask_nothing_of_the_network(browser: Browser, page: str) -> None:
    browser.open(page, *DESK, "light")
    refused = "fetch('http://127.0.0.1:9/').then(() => 'sent', (e) => e.name)"
    assert browser.run(refused) == "TypeError"
    blocked = [e[1]["entry"]["text"] for e in browser.events if e[0] == "Log.entryAdded"]
    assert blocked and "Content Security Policy" in blocked[0]


def test_dark_is_dark(browser: Browser, page: str) -> None:
    paper, ink = [], []
    for scheme in ("light", "dark"):
        browser.open(page, *DESK, scheme)
        style = "getComputedStyle(document.body)"
        for shades, key in ((paper, "backgroundColor"), (ink, "color")):
            level = f"{style}.{key}.match(/\\d+/g).map(Number).reduce((a, b) => a + b)"
            shades.append(browser.run(level))
    assert paper[1] < 150 < 600 < paper[0]
    assert ink[0] < 150 < 600 < ink[1]


def test_everything_is_reached_by_tab_and_shows_it(browser: Browser, page: str) -> None:
    browser.open(page, *DESK, "light")
    stops = []
    while len(stops) < 60:
        browser.press("Tab")
        stop = browser.run(FOCUS)
        if stop is None:
            break
        stops.append(stop)
    assert all(seen for _, _, seen in stops), stops
    names = [f"{kind} {name}" for kind, name, _ in stops]
    wanted = ["button. Play", "input. Images seen", "ol.film thumbs Grids over training",
              "svg.chart metric/fid", "summary. After 4,000 images",
              "summary. All of the protocols", "summary. 2 more: learning rates"]  # fmt: skip
    for words in wanted:
        assert any(n.startswith(words) for n in names), (words, names)
    order = [browser.run(f"document.querySelector('{s}').getBoundingClientRect().top")
             for s in ("#samples", "#learning", "#curves", "#metrics", "#expected", "#closest",
                       "#commands", "#config", "#environment")]  # fmt: skip
    assert order == sorted(order)


def test_keys_turn_the_grids_and_unfold_the_rest(browser: Browser, page: str) -> None:
    browser.open(page, *PHONE, "light")

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
    browser.run("document.querySelector('.bar input').focus()")
    browser.press("ArrowLeft")
    assert label() == "2,000 images seen"
    browser.run("document.querySelector('.bar button').focus()")
    browser.press("Enter")
    assert browser.run("document.querySelector('.bar button').textContent") == "Pause"
    browser.press(" ")
    assert browser.run("document.querySelector('.bar button').textContent") == "Play"
    for number, was in (
        (0, True),
        (2, False),
    ):  # the newest evaluation is open, that of training not
        fold = f"document.querySelectorAll('.evaluation')[{number}]"
        assert browser.run(f"{fold}.open") is was
        browser.run(f"{fold}.querySelector('summary').focus()")
        browser.press("Enter")
        assert browser.run(f"{fold}.open") is not was


def test_keys_read_a_curve(browser: Browser, page: str) -> None:
    browser.open(page, *DESK, "dark")
    chart = "[...document.querySelectorAll('svg.chart')].find((c) => " \
            "c.getAttribute('aria-label').startsWith('metric/fid:'))"  # fmt: skip
    browser.run(f"{chart}.focus()")
    value = f"{chart}.parentNode.querySelector('.last').textContent"
    assert browser.run(value) == "12"  # 60 / 5, after all images
    browser.press("ArrowLeft")
    assert browser.run(value).endswith("at 3,200 images")
    assert float(browser.run(value).split()[0]) == pytest.approx(15, abs=0.1)
    browser.press("Home")
    assert float(browser.run(value).split()[0]) == pytest.approx(60, abs=0.1)
    browser.run("document.activeElement.blur()")
    assert browser.run(value) == "12"
