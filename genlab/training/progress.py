"""What a person sees while a run trains: one live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TextIO

from genlab.core.console import redraws
from genlab.core.format import count, duration, number, size

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

__all__ = ["ProgressDisplay"]

REFRESH = 0.25  # seconds between two drawings of the live display
TREND = 32  # log lines in the little curve behind a loss
BARS = "▁▂▃▄▅▆▇█"


class ProgressDisplay:
    """Progress of one run: images done, losses, images/s, time left, memory.

    On a terminal one live display that is redrawn in place, at most four times a second and only
    when `update` or `log` is called: no thread wakes up in between. Elsewhere (a file, a pipe,
    TERM=dumb) one short line per update. A stream that goes away silences this, not the run.
    """

    def __init__(self, title: str, total_images: int, stream: TextIO | None = None) -> None:
        """title: model, data and run id; total_images: where the run ends; stream: stderr."""
        self.title, self.total = title, total_images
        self._out = _Patient(sys.stderr if stream is None else stream)
        self._values: dict[str, float] = {}
        self._trends: dict[str, deque[float]] = {}
        self._warning = ""
        self._before: tuple[float, float] | None = None  # (images, seconds) of the last update
        self._console: Console | None = None
        self._live: Live | None = None
        self._drawn = -math.inf
        self._lines: deque[str] = deque()  # to be written
        self._busy = False

    def __enter__(self) -> Self:
        if redraws(self._out):
            from rich.console import Console
            from rich.live import Live

            self._console = Console(file=self._out, force_terminal=True)  # type: ignore[arg-type]
            self._measure()
            self._live = Live(self._picture(), console=self._console, auto_refresh=False)
            self._live.start(refresh=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is None or self._console is None:
            return
        try:
            self._live.update(self._picture())
            self._live.stop()  # draws the last state and gives the cursor back
        finally:  # Ctrl-C may come here, too
            self._console.show_cursor()
            self._live = None

    def update(self, line: Mapping[str, Any]) -> None:
        """Takes one line of the journal; names it does not have keep their last value.

        left: seconds to the end, where somebody knows better than the speed of the steps.
        """
        fresh = {k: v for k, v in line.items() if isinstance(v, (int, float))}
        self._pace(fresh)
        self._values.update(fresh)
        for name, value in fresh.items():
            if _is_loss(name):
                self._trends.setdefault(name, deque(maxlen=TREND)).append(value)
        with self._writing():
            if self._live is None:
                self._out.line("  ".join(self._words(list(fresh))))
            elif time.monotonic() - self._drawn >= REFRESH:
                self._measure()
                self._live.update(self._picture(), refresh=True)
                self._drawn = time.monotonic()

    def log(self, text: str) -> None:
        """Prints a line that stays, above the live display.

        Of a signal that comes while something is written: as soon as that is.
        """
        self._lines.append(text)
        if self._busy:
            return
        with self._writing():
            pass

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Context in which nothing else is written; then the lines that are due."""
        self._busy = True
        try:
            yield
            while self._lines:
                text = self._lines.popleft()
                if self._live is not None and self._console is not None:
                    self._console.print(text, markup=False, highlight=False, soft_wrap=True)
                else:
                    self._out.line(text)
        finally:
            self._busy = False

    def warn(self, text: str) -> None:
        """A line that stays, and until the next one in the panel too."""
        self._warning = text
        self.log(text)

    def _pace(self, fresh: dict[str, float]) -> None:
        """Fills in images_per_second from the line before, where the journal gives none."""
        if "images" not in fresh or "seconds" not in fresh:
            return
        now = (fresh["images"], fresh["seconds"])
        if self._before is not None and "images_per_second" not in fresh:
            images, seconds = now[0] - self._before[0], now[1] - self._before[1]
            if seconds > 0 and images > 0:
                fresh["images_per_second"] = images / seconds
        self._before = now

    def _words(self, names: list[str]) -> list[str]:
        """The plain line, a part each; `names`: the losses to show."""
        parts = [f"images {count(self._values.get('images', 0))}/{count(self.total)}"]
        parts += [f"{n} {number(self._values[n])}" for n in names if _is_loss(n)]
        return parts + self._speed()

    def _speed(self) -> list[str]:
        parts = []
        pace = self._values.get("images_per_second", math.nan)
        if pace > 0 and math.isfinite(pace):
            left = (self.total - self._values.get("images", 0)) / pace
            parts.append(f"{count(pace) if pace >= 10 else number(pace)} img/s")
            parts.append(f"eta {duration(self._values.get('left', left))}")
        if "memory" in self._values:
            parts.append(f"mem {size(self._values['memory'])}")
        return parts

    def _measure(self) -> None:
        """Tells rich how large the terminal is now; it would look at the wrong stream."""
        try:
            width, height = os.get_terminal_size(self._out.fileno())
        except (OSError, ValueError):
            width, height = 0, 0
        if self._console is not None:
            self._console.size = (width or 80, height or 24)

    def _picture(self) -> RenderableType:
        from rich import box
        from rich.console import Group
        from rich.panel import Panel
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        images = self._values.get("images", 0)
        share = min(1.0, images / self.total) if self.total > 0 else 1.0
        roomy = self._console is None or self._console.width >= 48
        done = f"{count(images)} / {count(self.total)} images" if roomy else f"{count(images)}"
        head = Table.grid(padding=(0, 1), expand=True)
        head.add_column(ratio=1, min_width=2)
        head.add_column(justify="right", no_wrap=True)
        bar = ProgressBar(
            total=1.0, completed=share, complete_style="cyan", finished_style="green"
        )
        head.add_row(bar, Text(f"{done}  {share:.0%}"))
        losses = Table.grid(padding=(0, 2))
        for name, trend in self._trends.items():
            value = self._values[name]
            style = "bold" if math.isfinite(value) else "bold red"
            row = [Text(name, "cyan"), Text(number(value), style)]
            losses.add_row(*row, *([Text(self._trend(trend), "dim")] if roomy else []))
        tail = Text("  ·  ".join(self._speed()) or "waiting for the first log line", "dim")
        rows: list[RenderableType] = [head, losses, tail] if self._trends else [head, tail]
        if self._warning:
            rows.append(Text(self._warning, "yellow"))
        title = Text(self.title, "bold")
        return Panel(Group(*rows), title=title, title_align="left", box=box.ROUNDED)

    def _trend(self, values: deque[float]) -> str:
        finite = [v for v in values if math.isfinite(v)]
        if len(finite) < 2 or not self._out.draws(BARS):
            return ""
        low, span = min(finite), (max(finite) - min(finite)) or 1.0
        top = len(BARS) - 1
        return "".join(BARS[round((v - low) / span * top)] for v in finite)


def _is_loss(name: str) -> bool:
    """What a person watches: losses, and metrics without what belongs to them (fid_bias)."""
    kind, _, rest = name.partition("/")
    return kind == "loss" or rest == "loss" or (kind == "metric" and "_" not in rest)


class _Patient:
    """A text stream whose reader may leave: writing then does nothing, here and at exit."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._gone = stream, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def isatty(self) -> bool:
        try:
            return self._stream.isatty()
        except ValueError:  # closed
            return False

    def draws(self, text: str) -> bool:
        """Whether the encoding has these characters."""
        try:
            text.encode(self._stream.encoding or "utf-8")
        except UnicodeEncodeError:
            return False
        return True

    def line(self, text: str) -> None:
        """Writes one line at once, so that lines of several processes do not mix."""
        self.write(text + "\n")
        self.flush()

    def write(self, text: str) -> int:
        if not self._gone:
            if not self.draws(text):
                text = text.encode("ascii", "backslashreplace").decode("ascii")
            self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        if not self._gone:
            self._try(self._stream.flush)

    def _try(self, act: Callable[[], object]) -> None:
        try:
            act()
        except (OSError, ValueError):  # nobody reads any more, or the stream was closed
            self._gone = True
            self._let_go()

    def _let_go(self) -> None:
        """Points the descriptor at nothing: what is still buffered must not fail at exit."""
        try:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
        except (OSError, ValueError):
            pass
