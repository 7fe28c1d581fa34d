"""Where else a journal goes: what a tracker must do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

__all__ = ["Tracker"]


class Tracker(Protocol):
    """Shows the journal of a run elsewhere; whatever it raises, the run goes on.

    Only rank 0 has one. Between `start` and `finish` come lines and pictures in order of images,
    which may begin again at an earlier number when a killed run is resumed.
    """

    def start(self, folder: Path, title: str, config: Mapping[str, Any], images: int) -> str:
        """Begins, or goes on with, the run directory `folder` at image `images`.

        title: <model>-<data>/<directory>. config: resolved. Returns what a person should know.
        """
        ...

    def line(self, values: Mapping[str, float]) -> None:
        """One line of the journal: "images", "step", "seconds" and what was measured."""
        ...

    def picture(self, name: str, path: Path, images: int) -> None:
        """A PNG of the run directory, drawn after `images` images."""
        ...

    def finish(self, code: int) -> None:
        """Once, with the exit code of the run."""
        ...
