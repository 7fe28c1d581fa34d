"""The samples of a folder of `genlab sample`: drawn in batches, kept as soon as they are.

A sample is a function of its seed, number and label, so a folder whose record says that it was
drawn in the same way is gone on with: what is there is left alone, the rest is drawn.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from genlab.core.console import log
from genlab.core.files import read_json, replacing, write_text
from genlab.core.sample_folder import ARRAYS, IMAGES, PICTURES, RECORD
from genlab.run import pictures

__all__ = ["KeptSamples", "clear", "read_record", "same"]

SHOWN = 256  # samples of a grid
OF_A_DRAWING = ("n", "drawn", "evaluations")  # of a record, beside how samples are drawn
NUMBERED = re.compile(r"\d{6,}\.png")


class KeptSamples:
    """The samples of one folder.

    n: how many there will be; drawn: how many there are; new: how many of them were drawn now.
    evaluations: that a sample has cost, None where none was drawn.
    """

    def __init__(self, folder: Path, how: Mapping[str, Any], n: int, save: str) -> None:
        """how: all that samples depend on, for the record; n: samples asked for; save: png, npy or
        none. What was drawn in this folder in another way is removed, which is said."""
        self.folder, self.save, self.new = folder, save, 0
        self.evaluations: Any = None
        self._how = json.loads(json.dumps(how))
        self._kept: set[int] = set()
        self._rows: dict[int, NDArray[Any]] = {}  # all of an array, else those of the grid
        before = read_record(folder)
        if same(before, how):
            self.evaluations = before.get("evaluations")
            self._find()
        elif clear(folder):
            log(f"{folder} held samples that were drawn in another way; they are replaced")
        self.n = max(n, 1 + max(self._kept, default=-1))

    def _find(self) -> None:
        array, images = self.folder / ARRAYS[0], self.folder / IMAGES
        if self.save == "npy" and array.is_file():
            self._rows = dict(enumerate(np.load(array, allow_pickle=False)))
            self._kept = set(self._rows)
        if self.save == "png" and images.is_dir():
            names = (path.name for path in images.iterdir())
            self._kept = {int(name[:-4]) for name in names if NUMBERED.fullmatch(name)}

    @property
    def drawn(self) -> int:
        """How many there are."""
        return len(self._kept)

    def state(self) -> str:
        """What there is and what would be next, in words."""
        of = f"{self.drawn:,} of {self.n:,} samples"
        if not self.drawn or self.save == "none":
            return f"{of}, none of them kept; begin again with"
        return f"{of}, kept in {self.folder}; go on with"

    def missing(self, batch: int) -> Iterator[range]:
        """The batches that lack samples, the same ones whatever is there."""
        for start in range(0, self.n, batch):
            rows = range(start, min(start + batch, self.n))
            if not self._kept.issuperset(rows):
                yield rows

    def lacking(self, rows: range) -> list[int]:
        """Those of a batch that are not there."""
        return [i for i in rows if i not in self._kept]

    def keep(self, samples: NDArray[Any], rows: range, evaluations: int | float) -> None:
        """Keeps those of a batch [len(rows), *S] that were not there."""
        new, self.evaluations = self.lacking(rows), evaluations
        if self.save == "png":
            self._write_record()  # from here on the folder is known to be one of samples
        for i in new:
            sample = samples[i - rows.start]
            if self.save == "png":
                pictures.save_each(sample[None], self.folder / IMAGES, first=i)
            if self.save == "npy" or i < SHOWN:
                self._rows[i] = sample
        self._kept.update(new)
        self.new += len(new)

    def finish(self) -> None:
        """Writes the array, grid.png of the first samples and sample.json; nothing of none."""
        if not self._kept:
            with suppress(OSError):
                self.folder.rmdir()  # what is empty is of no use
            return
        if self.save == "npy":
            rows = np.stack([self._rows[i] for i in sorted(self._rows)])
            with replacing(self.folder / ARRAYS[0]) as file:
                np.save(file, rows, allow_pickle=False)
        shown = np.stack([self._row(i) for i in sorted(self._kept)[:SHOWN]])
        pictures.save(pictures.sheet(shown), self.folder / "grid.png")
        self._write_record()

    def _row(self, i: int) -> NDArray[Any]:
        if i in self._rows:
            return self._rows[i]
        with Image.open(self.folder / IMAGES / f"{i:06d}.png") as image:
            pixels = np.asarray(image)
        return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)

    def _write_record(self) -> None:
        record = {"n": self.n, **self._how, "evaluations": self.evaluations}
        if self.drawn < self.n:
            record["drawn"] = self.drawn
        write_text(self.folder / RECORD, json.dumps(record, indent=1))


def read_record(folder: Path) -> dict[str, Any]:
    """sample.json of a folder; {} where there is none that can be read."""
    try:
        record = read_json(folder / RECORD)
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def same(record: Mapping[str, Any], how: Mapping[str, Any]) -> bool:
    """Whether the samples of a record were drawn in this way, however many they are."""
    before = {k: v for k, v in record.items() if k not in OF_A_DRAWING}
    return before == json.loads(json.dumps(how))


def clear(folder: Path) -> bool:
    """Removes all that `genlab sample` has written into a folder; whether there were samples."""
    if not folder.is_dir():
        return False
    names = [*ARRAYS, *PICTURES, RECORD, "codes.npy", "names.json"]
    # before there was images/ they lay here
    flat = [p.name for p in folder.iterdir() if read_record(folder) and NUMBERED.fullmatch(p.name)]
    found = bool(flat) or any((folder / name).exists() for name in (IMAGES, *ARRAYS))
    for name in (*names, *flat):
        (folder / name).unlink(missing_ok=True)
    if (folder / IMAGES).is_dir():
        shutil.rmtree(folder / IMAGES)
    return found
