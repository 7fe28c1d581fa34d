"""A headless Chromium driven over the pipe of its DevTools protocol, with the standard library."""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--hide-scrollbars", "--remote-debugging-pipe"),
]
# the protocol is spoken over file descriptors 3 and 4, which only the child may rearrange
LAUNCH = "import os, sys; os.dup2({}, 3); os.dup2({}, 4); os.execv(sys.argv[1], sys.argv[1:])"
PATIENCE = 20.0  # seconds for one answer
KEYS = {"Tab": 9, "Enter": 13, " ": 32, "End": 35, "Home": 36, "ArrowLeft": 37, "ArrowRight": 39}


class Browser:
    """One page of a browser of its own, to be used in `with`.

    folder: for its profile. events: what it reported since the page was opened, as (method,
    parameters).
    """

    def __init__(self, folder: Path) -> None:
        self._number, self._rest, self._session = 0, b"", ""
        self.events: list[tuple[str, dict[str, Any]]] = []
        (its_in, self._out), (self._in, its_out) = _pipe(), _pipe()
        launch = [sys.executable, "-c", LAUNCH.format(its_in, its_out), str(CHROMIUM), *FLAGS]
        self._process = subprocess.Popen(
            [*launch, f"--user-data-dir={folder}", "about:blank"],
            pass_fds=(its_in, its_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # all its processes end together
        )
        os.close(its_in)
        os.close(its_out)

    def __enter__(self) -> Browser:
        try:
            target = self("Target.createTarget", url="about:blank")["targetId"]
            attached = self("Target.attachToTarget", targetId=target, flatten=True)
            self._session = attached["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                self(f"{domain}.enable")
            self("Emulation.setFocusEmulationEnabled", enabled=True)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._in)
        os.close(self._out)

    def __call__(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The answer to one command; AssertionError for an error or none in time."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]

    def _read(self) -> dict[str, Any]:
        until = time.monotonic() + PATIENCE
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._in], [], [], max(0.0, until - time.monotonic()))
            data = os.read(self._in, 1 << 20) if ready else b""
            assert data, "chromium does not answer"
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\0")
        message = json.loads(line)
        if "method" in message:
            self.events.append((message["method"], message["params"]))
        return message

    def open(self, url: str, width: int, height: int, scheme: str) -> None:
        """Loads a page at a size in CSS pixels, in a light or dark scheme."""
        self("Emulation.setDeviceMetricsOverride", width=width, height=height,
             deviceScaleFactor=1, mobile=width < 600)  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": scheme}
        self("Emulation.setEmulatedMedia", features=[scheme])
        self.events.clear()
        self("Page.navigate", url=url)
        while "Page.loadEventFired" not in dict(self.events):
            self._read()

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise is awaited."""
        answer = self("Runtime.evaluate", expression=expression, returnByValue=True,
                      awaitPromise=True)  # fmt: skip
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        """One key down and up, by its DOM name."""
        event = {"key": key, "code": "Space" if key == " " else key}
        event["windowsVirtualKeyCode"] = KEYS[key]
        text = {"Enter": "\r", " ": " "}.get(key)
        self("Input.dispatchKeyEvent", type="keyDown", **event, **({"text": text} if text else {}))
        self("Input.dispatchKeyEvent", type="keyUp", **event)


def _pipe() -> tuple[int, int]:
    """(to read, to write), both above 4: none is overwritten when they are put in place."""
    ends = os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends]
    for end in ends:
        os.close(end)
    return high[0], high[1]


# --- what every page must be ---------------------------------------------------------------------

PHONE, DESK = (375, 812), (1280, 900)

OPEN_ALL = "document.querySelectorAll('details').forEach((d) => (d.open = true))"

WIDE = """[...document.querySelectorAll('body *')]
  .filter((e) => !e.closest('SCROLLS') && !e.closest('svg'))
  .filter((e) => e.getBoundingClientRect().right > document.documentElement.clientWidth + 0.5)
  .map((e) => e.outerHTML.slice(0, 80))"""
"""Elements that reach beyond the page, but for what scrolls within itself."""

FAINT = """(() => {
  const rgb = (c) => c.match(/[\\d.]+/g).map(Number);
  const light = (c) => rgb(c).slice(0, 3).map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (e) => {
    const c = getComputedStyle(e).backgroundColor;
    return rgb(c)[3] === 0 ? ground(e.parentElement) : c;
  };
  const hasText = (e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
  return [...document.querySelectorAll('body *')]
    .filter((e) => hasText(e) && !e.closest('script') && e.checkVisibility())
    .map((e) => {
      const style = getComputedStyle(e);
      const ink = light(e.closest('svg') ? style.fill : style.color);
      const paper = light(ground(e));
      const ratio = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
      return [ratio, e.textContent.slice(0, 40)];
    }).filter(([ratio]) => !(ratio >= 4.5));
})()"""
"""Text whose contrast is below what WCAG 2.2 (1.4.3, AA) asks of small text."""


def assert_legible(
    browser: Browser, page: str, size: tuple[int, int], scheme: str, scrolls: str
) -> None:
    """Opens a page and asserts that it fits, folded and unfolded, and can be read.

    scrolls: CSS selector of what may be wider than the page.
    """
    browser.open(page, *size, scheme)
    for unfold in ("0", OPEN_ALL):
        browser.run(unfold)
        assert browser.run("[innerWidth, document.documentElement.scrollWidth]") == [size[0]] * 2
        assert browser.run(WIDE.replace("SCROLLS", scrolls)) == []
        assert browser.run(FAINT) == []


def assert_quiet(browser: Browser, page: str) -> None:
    """Asserts an empty console, and that nothing but the page was asked for."""
    logged = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
    assert [e for e in browser.events if e[0] in logged] == []
    asked = [e[1]["request"]["url"] for e in browser.events if e[0] == "Network.requestWillBeSent"]
    assert asked[0] == page and all(url.startswith("data:image/") for url in asked[1:])
