"""The live display on a terminal and the plain lines elsewhere."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading

import pytest

from genlab.core.format import count, duration, short, size
from genlab.training.progress import ProgressDisplay


def plain(*lines: dict, total: int = 60_000) -> list[str]:
    stream = io.StringIO()
    with ProgressDisplay("a run", total, stream) as display:
        for line in lines:
            display.update(line)
    return stream.getvalue().splitlines()


def test_plain_line_has_all_that_matters() -> None:
    line = {"images": 12_800, "loss/net": 0.213, "images_per_second": 141.0, "memory": 1.2e9}
    expected = "images 12,800/60,000  loss/net 0.213  141 img/s  eta 5m35s  mem 1.2 GB"
    assert plain(line) == [expected]  # (60000 - 12800) / 141 = 334.8 s


def test_speed_comes_from_the_lines_if_the_journal_has_none() -> None:
    lines = plain({"images": 100, "seconds": 1.0}, {"images": 300, "seconds": 2.0}, total=500)
    assert lines == ["images 100/500", "images 300/500  200 img/s  eta 1s"]


def test_odd_values_are_shown_or_left_out() -> None:
    line = {"images": 5, "loss/net": float("nan"), "loss/d": None, "images_per_second": 0.0}
    assert plain(line, total=10) == ["images 5/10  loss/net nan"]


def test_words() -> None:
    assert [duration(s) for s in (0, 59.4, 340, 3720, 273_600)] == [
        "0s", "59s", "5m40s", "1h02m", "3d04h",
    ]  # fmt: skip
    assert [size(b) for b in (12, 1.2e9)] == ["12 B", "1.2 GB"]
    assert [short(v) for v in (0, 250, 12_800, 999_999, 2e6)] == ["0", "250", "12.8k", "1M", "2M"]
    assert count(1234567) == "1,234,567"
    assert duration(float("inf")) == "?"


class Terminal:
    """A pseudo-terminal; `text` is all that was written to it."""

    def __init__(self, columns: int) -> None:
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.ours, self.stream, self.raw = ours, os.fdopen(theirs, "w"), b""
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        try:
            while data := os.read(self.ours, 65536):
                self.raw += data
        except OSError:
            pass  # the other side is closed

    def text(self) -> str:
        self.stream.close()
        self.reader.join(10)
        os.close(self.ours)
        return self.raw.decode()


@pytest.mark.parametrize("columns", [8, 30, 60, 200])
def test_live_panel_fits_the_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    terminal = Terminal(columns)
    threads = threading.active_count()
    with ProgressDisplay("flow_matching [red] on toy", 1000, terminal.stream) as display:
        display.log("a [bold]note")
        display.warn("spike at step 3")
        display.update({"images": 100, "loss/net": 1.0, "loss/d": float("nan")})
        display.update({"images": 400, "loss/net": 0.5, "images_per_second": 10.0})
        assert threading.active_count() == threads  # nothing wakes up between log lines
    text = terminal.text()
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    assert "a [bold]note" in shown  # never cut, never markup
    said = shown.index("spike at step 3")
    assert columns < 60 or shown.index("spike at step 3", said + 1), "in the panel too"
    framed = [x for x in re.split(r"[\r\n]+", shown) if x[:1] in "╭│╰" and x]
    assert framed
    assert all(len(x) <= columns for x in framed)
    assert text.rstrip().endswith("\x1b[?25h")  # the cursor is back
    if columns >= 60:
        assert "400 / 1,000 images  40%" in shown
        assert "flow_matching [red] on toy" in shown
        assert "0.5" in shown and "nan" in shown and "eta 1m00s" in shown


def test_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    terminal = Terminal(80)
    with ProgressDisplay("a run", 10, terminal.stream) as display:
        display.update({"images": 5})
    assert terminal.text().splitlines() == ["images 5/10"]


CHILD = """
import sys
from genlab.training.progress import ProgressDisplay
with ProgressDisplay("a run", 1000, sys.stderr) as display:
    for i in range(1000):
        display.update({"images": i, "loss/net": 1.0})
        display.log("still here")
assert "rich" not in sys.modules and "torch" not in sys.modules
print("the run went on", flush=True)
"""


def test_a_closed_pipe_silences_the_panel_not_the_run() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout is not None and child.stderr is not None
    child.stderr.close()
    assert child.stdout.read() == "the run went on\n"
    assert child.wait(30) == 0
    child.stdout.close()


def test_a_closed_stream_or_a_narrow_encoding_is_no_error() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    with ProgressDisplay("a run", 10, stream) as display:
        display.log("größe")
        stream.flush()
        assert raw.getvalue() == b"gr\\xf6\\xdfe\n"
        stream.close()
        display.log("more")
        display.update({"images": 3})


def test_a_terminal_that_is_closed_silences_the_panel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as stream, ProgressDisplay("a run", 10, stream) as display:
        os.close(ours)
        display.log("nobody reads this")
        display.update({"images": 3})
        print("nor this", file=sys.stderr)
