"""The page of `genlab compare` in a real browser: by eye and by keyboard, day and night."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from genlab.report.overview import write_overview
from genlab.run import pictures
from tests.helpers.browser import CHROMIUM, DESK, PHONE, Browser, asked_nothing, whole_and_legible
from tests.helpers.side_by_side import Maker, evaluate, table

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

SHOWN = """[...document.querySelectorAll('.spot:not(.away)')].map((s) => [
  s.querySelector('text').textContent,
  Number(s.querySelector('circle').getAttribute('cx')),
  Number(s.querySelector('circle').getAttribute('cy')),
])"""
"""The points of the plane: label, x and y."""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
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


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESK])
def test_page_is_whole_and_quiet(
    browser: Browser, page: str, size: tuple[int, int], scheme: str
) -> None:
    whole_and_legible(browser, page, size, scheme, ".scroll table")
    asked_nothing(browser, page)


def test_keys_choose_what_is_drawn(browser: Browser, page: str) -> None:
    browser.open(page, *DESK, "light")
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
        for found, point in zip(browser.run(SHOWN), wanted, strict=True):
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


def test_keys_read_all_curves_of_a_chart(browser: Browser, page: str) -> None:
    browser.open(page, *PHONE, "dark")
    browser.run("document.querySelector('.charts svg.chart').focus()")
    value = "document.querySelector('.charts .last[data-label=A]').textContent"
    place = "document.querySelector('.charts .place').textContent"
    assert (float(browser.run(value)), browser.run(place)) == (2, "")
    browser.press("Home")
    assert float(browser.run(value)) == pytest.approx(8.5, abs=0.05), "the mean of two seeds"
    assert browser.run(place) == "at 100 images"
    browser.press("ArrowRight")
    assert float(browser.run(value)) == pytest.approx(5, abs=0.05)
    browser.run("document.activeElement.blur()")
    assert (float(browser.run(value)), browser.run(place)) == (2, "")
