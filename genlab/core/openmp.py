"""How the threads of OpenMP wait for each other, decided before a library reads it.

torch computes on several threads with GNU's OpenMP, whose threads spin at every barrier. Where
another process needs the core that one of them waits for, that spinning takes its time. After a
thousand turns they sleep instead: two threads beside three processes are about twice as fast, and
where nothing else runs some work is slower (docs/speed.md has the measurements).
"""

from __future__ import annotations

import os
import sys

__all__ = ["limit_spinning", "waiting"]

LIMIT = "1000"  # turns; GNU's own default is 300,000 of them and more
CHOICES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
"""What a person sets to decide it otherwise."""


def limit_spinning() -> None:
    """Sets it for this process and its children, unless the person has; before torch is imported.

    Linux alone: macOS and Windows come with other libraries.
    """
    if sys.platform == "linux" and not any(name in os.environ for name in CHOICES):
        os.environ["GOMP_SPINCOUNT"] = LIMIT


def waiting() -> str:
    """How they wait in this process, in words."""
    found = [f"{name}={os.environ[name]}" for name in CHOICES if name in os.environ]
    return ", ".join(found) or "as the library has it"
