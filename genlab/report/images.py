"""The pictures of a run directory, checked and ready to be embedded in a page."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

__all__ = ["UNREADABLE", "Film", "Still", "films", "last_grid", "still"]

FRAMES = 24  # training grids in a page; the others stay in the folder
SETS = 9  # folders of samples in a page
STILL = 3_000_000  # bytes; a larger picture is embedded smaller
FRAME = 400_000
HUGE = 200_000_000  # bytes; not even read
MOVING = 12_000_000  # an animation cannot be made smaller here: above this it is left out
SIDE = 1400  # pixels of a picture made smaller
PIXELS = 64_000_000  # refuse to decode more
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""What `still` raises for a file that is no whole picture."""


@dataclass
class Still:
    """A picture as a data URL, with its size in pixels."""

    source: str
    width: int
    height: int

    @property
    def shape(self) -> str:
        """wide (a strip) or square."""
        return "wide" if self.width > 2.2 * self.height else "square"

    @property
    def small(self) -> bool:
        """Whether enlarging it should keep the pixels sharp."""
        return self.width <= 256


@dataclass
class Film:
    """A folder of samples, or of images beside their reconstructions.

    tag: its name. pictures: (words, picture), the grid first. frames: (images seen, grid) over
    training. made: how it was made (sample.json).
    """

    tag: str
    pictures: list[tuple[str, Still]] = field(default_factory=list)
    frames: list[tuple[int, Still]] = field(default_factory=list)
    made: dict[str, Any] = field(default_factory=dict)

    @property
    def reconstructs(self) -> bool:
        """Whether the pictures are of originals beside their reconstructions."""
        return self.made.get("shows") == "reconstructions"


def films(run_dir: Path, problems: list[str]) -> list[Film]:
    """Every folder of `samples/` with a picture, the newest first, the training grids last."""
    folder = run_dir / "samples"
    try:
        inside = [p for p in folder.iterdir() if p.is_dir() and p.name != "train"]
        inside.sort(key=lambda p: (p / "grid.png").stat().st_mtime if _grid(p) else 0)
    except OSError:
        inside = []
    found = [_drawn(p, problems) for p in inside[::-1][:SETS] if _grid(p)]
    return [f for f in [*found, _train(folder / "train", problems)] if f.pictures or f.frames]


def last_grid(run_dir: Path, problems: list[str]) -> Film:
    """The training grids with the newest whole one alone."""
    folder = run_dir / "samples" / "train"
    film = Film("train", made=_record(folder))
    for path in _grids(folder)[::-1]:
        picture = _try(path, FRAME, problems)
        if picture is not None:
            film.frames.append((int(path.stem), picture))
            break
    return film


def still(path: Path, limit: int) -> Still:
    """Embeds a picture, made smaller if its file is above `limit` bytes.

    Raises one of UNREADABLE if it is no whole picture.
    """
    if path.stat().st_size > HUGE:
        raise ValueError(f"{path.stat().st_size // 1_000_000} MB are too many for a page")
    data = path.read_bytes()
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        width, height = image.size
        if width * height > PIXELS:
            raise ValueError(f"{width} x {height} pixels are too many")
        moving = getattr(image, "n_frames", 1) > 1
        image.verify()  # the checksum of every chunk: finds a file that was cut off
    kind = "png"
    if moving and len(data) > MOVING:
        raise ValueError(f"{len(data) // 1_000_000} MB are too many for a page")
    if not moving and len(data) > limit:
        with Image.open(io.BytesIO(data)) as image:
            image.thumbnail((SIDE, SIDE))
            buffer = io.BytesIO()
            image.convert("RGB").save(buffer, "WEBP", quality=85)
        data, kind = buffer.getvalue(), "webp"
    return Still(f"data:image/{kind};base64,{base64.b64encode(data).decode()}", width, height)


def _grid(folder: Path) -> bool:
    return (folder / "grid.png").is_file()


def _drawn(folder: Path, problems: list[str]) -> Film:
    film = Film(folder.name, made=_record(folder))
    files = (
        ("originals and reconstructions" if film.reconstructs else "samples", "grid"),
        ("from noise to image", "trajectory"),
        ("between two samples", "interpolation"),
    )
    for words, stem in files:
        picture = _try(folder / f"{stem}.png", STILL, problems)
        if picture is not None:
            film.pictures.append((words, picture))
    return film


def _record(folder: Path) -> dict[str, Any]:
    try:
        made = json.loads((folder / "sample.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return made if isinstance(made, dict) else {}


def _train(folder: Path, problems: list[str]) -> Film:
    """The grids over training: all if they are few, else spread evenly with first and last."""
    film = Film("train", made=_record(folder))
    files = _grids(folder)
    last = len(files) - 1
    if last >= FRAMES:
        files = [files[round(i * last / (FRAMES - 1))] for i in range(FRAMES)]
    for path in files:
        picture = _try(path, FRAME, problems)
        if picture is not None:
            film.frames.append((int(path.stem), picture))
    return film


def _grids(folder: Path) -> list[Path]:
    try:
        return sorted(p for p in folder.iterdir() if re.fullmatch(r"[0-9]{1,15}\.png", p.name))
    except OSError:
        return []


def _try(path: Path, limit: int, problems: list[str]) -> Still | None:
    if not path.is_file():
        return None
    try:
        return still(path, limit)
    except UNREADABLE as e:
        problems.append(f"{path.parent.name}/{path.name}: {e}")
        return None
