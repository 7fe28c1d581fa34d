"""The folder that `genlab sample` writes: samples for programs, and pictures of them for people.

    <run>/samples/<name>/
      images/000000.png, ...  one sample each; save=npy: samples.npy in their place
      grid.png, interpolation.png, trajectory.png
      sample.json             how they were drawn

Before there was images/ the samples lay beside the pictures. Whoever reads a folder of images asks
here, so that no picture of samples is taken for one.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from genlab.core.files import read_json

__all__ = ["ARRAYS", "IMAGES", "PICTURES", "RECORD", "samples_in", "without_pictures"]

IMAGES = "images"
ARRAYS = ("samples.npy", "reconstructions.npy", "edits.npy")
PICTURES = ("grid.png", "interpolation.png", "trajectory.png")
RECORD = "sample.json"


def samples_in(folder: Path) -> Path:
    """Where the samples of a folder are: its images/, its array, else itself.

    Of a folder that somebody else made: itself.
    """
    try:
        record = read_json(folder / RECORD)
    except (OSError, ValueError):
        return folder
    if not isinstance(record, dict) or "checkpoint" not in record:
        return folder
    places = [folder / name for name in (IMAGES, *ARRAYS)]
    return next((place for place in places if place.exists()), folder)


def without_pictures(names: Iterable[str]) -> list[str]:
    """Paths with / between folders, but for pictures of samples that lie beside their record."""
    names = list(names)
    made = {name.removesuffix(RECORD) for name in names if name.rpartition("/")[2] == RECORD}
    pictures = {folder + picture for folder in made for picture in PICTURES}
    return [name for name in names if name not in pictures]
