"""A genlab of its own on a pseudo-terminal, whose Ctrl-C is a person's."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import sys
import termios
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]


class Session:
    """A command that runs on a terminal of 24 x 100; `text` is all it has written."""

    def __init__(self, *words: str, cwd: Path, term: str = "xterm-256color") -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(cwd)
            own = {"PYTHONPATH": str(ROOT), "TERM": term, "OMP_NUM_THREADS": "1"}
            os.execve(
                sys.executable, [sys.executable, "-m", "genlab", *words], {**os.environ, **own}
            )
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
        self.text = ""

    def until(self, pattern: str, seconds: float = 60.0) -> None:
        """Reads until the pattern is there."""
        end = time.monotonic() + seconds
        while not re.search(pattern, self.text):
            assert time.monotonic() < end and self._read(end), f"no {pattern!r} in:\n{self.text}"

    def ctrl_c(self) -> None:
        os.write(self.fd, b"\x03")

    def finish(self, seconds: float = 60.0) -> int:
        """Reads to the end; the exit code."""
        end = time.monotonic() + seconds
        while self._read(end):
            assert time.monotonic() < end
        os.close(self.fd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def _read(self, end: float) -> bool:
        if not select.select([self.fd], [], [], max(0, end - time.monotonic()))[0]:
            return True
        try:
            data = os.read(self.fd, 65536)
        except OSError:  # the other side is closed
            data = b""
        self.text += data.decode("utf-8", "replace")
        return bool(data)


def screen(text: str, columns: int = 100) -> tuple[list[str], int, bool]:
    """(lines, column of the cursor, whether it is shown) after this was written to a terminal.

    Knows what rich writes: movement of lines, erasing, colours; anything else is an error.
    """
    lines, row, column, shown = [""], 0, 0, True
    for part in re.findall(r"\x1b\[[?0-9;]*[A-Za-z]|\x1b.|[\r\n\b]|[^\x1b\r\n\b]+", text):
        if part == "\r":
            column = 0
        elif part == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif part == "\b":
            column = max(0, column - 1)
        elif part in ("\x1b[?25l", "\x1b[?25h"):
            shown = part.endswith("h")
        elif part.startswith("\x1b["):
            code, count = part[-1], int(part[2:-1] or 1) if part[2:-1].isdigit() else 1
            if code == "A":
                row = max(0, row - count)
            elif code == "K":
                lines[row] = "" if part == "\x1b[2K" else lines[row][:column]
            else:
                assert code == "m", part
        else:
            lines[row] = lines[row].ljust(column)
            lines[row] = lines[row][:column] + part + lines[row][column + len(part) :]
            column += len(part)
            assert len(part) < 10 * columns
    return [line.rstrip() for line in lines], column, shown
