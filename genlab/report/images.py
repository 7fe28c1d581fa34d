"""The images of a run directory, checked and ready to be embedded in a page."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from genlab.core.files import read_bytes, read_json

__all__ = ["UNREADABLE", "EmbeddedImage", "ImageSet", "embed", "image_sets", "last_training_grid"]

FRAMES = 24  # training grids in a page; the others stay in the folder
SETS = 9  # folders of samples in a page
LARGE = 3_000_000  # bytes; a larger picture is embedded smaller
LARGE_FRAME = 400_000  # the same of a grid over training
HUGE = 200_000_000  # bytes; not even read
ANIMATED = 12_000_000  # an animation cannot be made smaller here: above this it is left out
SIDE = 1400  # pixels of a picture made smaller
PIXELS = 64_000_000  # refuse to decode more
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""What `embed` raises for a file that is no whole picture."""


@dataclass
class EmbeddedImage:
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
class ImageSet:
    """A folder of samples, or of images beside their reconstructions.

    name: of the folder. pictures: (caption, picture), the grid first. frames: (images seen, grid)
    over training. record: how it was made (sample.json).
    """

    name: str
    pictures: list[tuple[str, EmbeddedImage]] = field(default_factory=list)
    frames: list[tuple[int, EmbeddedImage]] = field(default_factory=list)
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def reconstructs(self) -> bool:
        """Whether the pictures are of originals beside their reconstructions."""
        return self.record.get("shows") == "reconstructions"


def image_sets(run_dir: Path, problems: list[str]) -> list[ImageSet]:
    """Every folder of `samples/` with a picture, the newest first, the training grids last."""
    folder = run_dir / "samples"
    try:
        inside = [p for p in folder.iterdir() if p.is_dir() and p.name != "train"]
        inside.sort(key=lambda p: (p / "grid.png").stat().st_mtime if _has_grid(p) else 0)
    except OSError:
        inside = []
    found = [_samples(p, problems) for p in inside[::-1][:SETS] if _has_grid(p)]
    found.append(_over_training(folder / "train", problems))
    return [s for s in found if s.pictures or s.frames]


def last_training_grid(run_dir: Path, problems: list[str]) -> ImageSet:
    """The training grids with the newest whole one alone."""
    folder = run_dir / "samples" / "train"
    newest = (_frames(path, problems) for path in reversed(_grids(folder)))
    return ImageSet("train", frames=next(filter(None, newest), []), record=_read_record(folder))


def embed(path: Path, limit: int) -> EmbeddedImage:
    """Embeds a picture, made smaller if its file is above `limit` bytes.

    Raises one of UNREADABLE if it is no whole picture.
    """
    data = read_bytes(path, limit=HUGE)
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        width, height = image.size
        if width * height > PIXELS:
            raise ValueError(f"{width} x {height} pixels are too many")
        animated = getattr(image, "n_frames", 1) > 1
        image.verify()  # the checksum of every chunk: finds a file that was cut off
    kind = "png"
    if animated and len(data) > ANIMATED:
        raise ValueError(f"{len(data) // 1_000_000} MB are too many for a page")
    if not animated and len(data) > limit:
        with Image.open(io.BytesIO(data)) as image:
            image.thumbnail((SIDE, SIDE))
            buffer = io.BytesIO()
            image.convert("RGB").save(buffer, "WEBP", quality=85)
        data, kind = buffer.getvalue(), "webp"
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return EmbeddedImage(source, width, height)


def _has_grid(folder: Path) -> bool:
    return (folder / "grid.png").is_file()


def _samples(folder: Path, problems: list[str]) -> ImageSet:
    images = ImageSet(folder.name, record=_read_record(folder))
    files = (
        ("originals and reconstructions" if images.reconstructs else "samples", "grid"),
        ("from noise to image", "trajectory"),
        ("between two samples", "interpolation"),
    )
    for caption, stem in files:
        picture = _embed(folder / f"{stem}.png", LARGE, problems)
        if picture is not None:
            images.pictures.append((caption, picture))
    return images


def _read_record(folder: Path) -> dict[str, Any]:
    try:
        record = read_json(folder / "sample.json")
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _over_training(folder: Path, problems: list[str]) -> ImageSet:
    """The grids over training: all if they are few, else spread evenly with first and last."""
    files = _grids(folder)
    last = len(files) - 1
    if last >= FRAMES:
        files = [files[round(i * last / (FRAMES - 1))] for i in range(FRAMES)]
    frames = [frame for path in files for frame in _frames(path, problems)]
    return ImageSet("train", frames=frames, record=_read_record(folder))


def _frames(path: Path, problems: list[str]) -> list[tuple[int, EmbeddedImage]]:
    """(images seen, grid), or nothing where it is not readable."""
    picture = _embed(path, LARGE_FRAME, problems)
    return [] if picture is None else [(int(path.stem), picture)]


def _grids(folder: Path) -> list[Path]:
    try:
        return sorted(p for p in folder.iterdir() if re.fullmatch(r"[0-9]{1,15}\.png", p.name))
    except OSError:
        return []


def _embed(path: Path, limit: int, problems: list[str]) -> EmbeddedImage | None:
    if not path.is_file():
        return None
    try:
        return embed(path, limit)
    except UNREADABLE as e:
        problems.append(f"{path.parent.name}/{path.name}: {e}")
        return None
