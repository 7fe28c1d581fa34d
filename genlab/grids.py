"""The picture a run draws of itself while it trains."""

from __future__ import annotations

import json
from pathlib import Path

from genlab.build import Built
from genlab.contract import Generates, Reconstructs
from genlab.run.files import disk, write_text
from genlab.run.pictures import pairs, save, sheet

__all__ = ["write_grid"]

SAMPLES = 64
PAIRS = 32


def write_grid(built: Built, seed: int, folder: Path, images: int) -> tuple[str, Path] | None:
    """Writes <folder>/<images>.png: samples of the same noise each time, or, of a model that
    draws none, held-out images beside their reconstructions; nothing for a model with neither.

    What the pictures show, if not samples, stands in <folder>/sample.json. Returns (what it
    shows, its path).
    """
    shows = "samples" if isinstance(built.model, Generates) else "reconstructions"
    if isinstance(built.model, Generates):
        classes = built.spec.classes
        y = None if classes is None else [i % classes for i in range(SAMPLES)]
        picture = sheet(built.draw(y, seed, range(SAMPLES)).numpy())
    elif isinstance(built.model, Reconstructs):
        originals = built.data.load("test")[0][:PAIRS]
        picture = pairs(originals.numpy(), built.reconstruct(originals)[1].numpy())
    else:
        return None
    path = folder / f"{images:012d}.png"
    with disk("write", path):
        folder.mkdir(parents=True, exist_ok=True)
        save(picture, path)
    if shows != "samples":
        record = {"shows": shows, "bits": getattr(built.model, "bits", None)}
        write_text(folder / "sample.json", json.dumps(record, indent=1))
    return shows, path
