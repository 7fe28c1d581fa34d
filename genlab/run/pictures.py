"""Pictures of samples: grids, strips, animations, scatter plots. NumPy and Pillow only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from genlab.core.files import replacing

__all__ = ["animation", "grid", "pairs", "save", "save_each", "scatter", "sheet", "strip"]

SHEET = 32  # grey of the sheet behind the tiles: neither black nor white images vanish in it
TILE = 56  # pixels: smaller images are enlarged to at least this
PAPER = np.array([16.0, 20.0, 28.0])  # background of a scatter plot
RULE = np.array([38.0, 45.0, 58.0])
REAL = np.array([104.0, 116.0, 136.0])  # the data, behind the samples
INK = (np.array([52.0, 152.0, 219.0]), np.array([255.0, 214.0, 102.0]))  # sparse -> dense


def grid(images: NDArray[np.uint8], columns: int | None = None, pad: int = 3) -> Image.Image:
    """A sheet of all images in reading order, small ones enlarged.

    images: uint8 [n, C, H, W] with C = 1 or 3 (one image or more). columns: of the sheet; by
    default the divisor of n next above its square root if there is one below twice that root,
    else the root rounded up. pad: gap in pixels of the sheet. Images with a side below 56 pixels
    are enlarged by a whole factor without smoothing, so that every pixel stays a square.
    """
    tiles = _tiles(images)
    n, height, width, channels = tiles.shape
    columns = min(n, columns or _columns(n))
    rows = -(-n // columns)
    down, right = height + pad, width + pad
    sheet = np.full((rows * down + pad, columns * right + pad, channels), SHEET, np.uint8)
    for i, tile in enumerate(tiles):
        top, left = pad + i // columns * down, pad + i % columns * right
        sheet[top : top + height, left : left + width] = tile
    return _image(sheet)


def pairs(originals: NDArray[np.uint8], copies: NDArray[np.uint8]) -> Image.Image:
    """Every original with its copy touching it on the right; as many pairs a row make a square.

    originals, copies: uint8 [n, C, H, W]; sizes as in `grid`.
    """
    columns = math.ceil(math.sqrt(len(originals) / 2))
    return grid(np.concatenate([originals, copies], axis=3), columns)


def strip(images: NDArray[np.uint8], pad: int = 6) -> Image.Image:
    """Interpolations: the images of a row touch, rows are apart by `pad` pixels.

    images: uint8 [n, C, H, W] for one row or [rows, n, C, H, W]; sizes as in `grid`.
    """
    rows = images if images.ndim == 5 else images[None]
    bands = [np.concatenate(list(_tiles(row)), axis=1) for row in rows]  # each [H, n W, C]
    height, width, channels = bands[0].shape
    sheet = np.full((len(bands) * (height + pad) - pad, width, channels), SHEET, np.uint8)
    for i, band in enumerate(bands):
        sheet[i * (height + pad) : i * (height + pad) + height] = band
    return _image(sheet)


def scatter(
    points: NDArray[np.floating],
    limit: float | None = None,
    behind: NDArray[np.floating] | None = None,
    pixels: int = 448,
) -> Image.Image:
    """Points of the plane on a dark square; where they crowd, the ink turns from blue to yellow.

    points: [n, 2]; those that are not finite are left out. limit: the picture shows
    [-limit, limit]^2; by default what holds 99 % of `behind`, so that all pictures of one run
    compare, or else of `points`, with a margin. behind: [m, 2] the data, in grey. pixels: side of
    the picture. Lines stand at multiples of a round step, two or more to each side of 0.
    """
    layers = [_finite(p) for p in (behind, points) if p is not None]
    if limit is None:
        reach = np.abs(layers[0]).max(axis=1) if layers[0].size else np.ones(1)
        limit = _round_up(float(np.quantile(reach, 0.99)) * 1.15)
    if not limit > 0:
        raise ValueError(f"the limit of a scatter plot is above 0, not {limit}")
    fine = 2 * pixels  # drawn at twice the size, then averaged: round dots without jagged edges
    canvas = np.broadcast_to(PAPER, (fine, fine, 3)).copy()
    step = _round_up(limit / 4)
    for k in range(-int(limit / step), int(limit / step) + 1):
        at = round((k * step / limit + 1) / 2 * (fine - 1))
        at = min(max(at, 1), fine - 2)
        canvas[at - 1 : at + 1] = canvas[:, at - 1 : at + 1] = RULE * (1.0 if k else 1.35)
    if behind is not None:
        dots = _dots(layers[0], limit, fine, radius=3)
        canvas += (1 - 0.75**dots)[..., None] * (REAL - canvas)
    few = len(layers[-1]) < 1000
    dots = _dots(layers[-1], limit, fine, radius=7 if few else 4)
    crowd = np.minimum(dots / max(8.0, float(dots.max())), 1.0)[..., None] ** 0.7
    canvas += (1 - 0.25**dots)[..., None] * (INK[0] + crowd * (INK[1] - INK[0]) - canvas)
    small = canvas.reshape(pixels, 2, pixels, 2, 3).mean(axis=(1, 3))
    return Image.fromarray(small.round().clip(0, 255).astype(np.uint8))


def sheet(samples: NDArray[Any], behind: NDArray[np.floating] | None = None) -> Image.Image:
    """The picture of a set of samples: a grid of images, or a scatter of points of the plane.

    samples: uint8 [n, C, H, W] or float [n, 2]; behind: see scatter.
    """
    return grid(samples) if samples.ndim == 4 else scatter(samples, behind=behind)


def save(image: Image.Image, path: Path) -> Path:
    """Writes a PNG so that a reader finds the old file or the whole new one; returns the path."""
    return _write([image], path)


def save_each(images: NDArray[np.uint8], folder: Path, first: int = 0) -> list[Path]:
    """Writes every image in its own size as 000000.png and on; returns the paths.

    images: uint8 [n, C, H, W]. first: number of the first one, for images made in portions.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tiles = _tiles(images, least=1)
    return [save(_image(t), folder / f"{first + i:06d}.png") for i, t in enumerate(tiles)]


def animation(frames: Sequence[Image.Image], path: Path, seconds: float = 3.0) -> Path:
    """Writes an animated PNG (or GIF, by the suffix of `path`) that repeats for ever.

    frames: pictures of one size, e.g. grids along a trajectory. seconds: length of one pass; a
    frame lasts between 40 and 400 ms, the last one 1.5 s longer so that the result can be seen.
    What does not animate a PNG shows its last frame.
    """
    each = min(400, max(40, round(1000 * seconds / len(frames))))
    return _write(frames, path, [each] * (len(frames) - 1) + [each + 1500])


def _write(frames: Sequence[Image.Image], path: Path, duration: list[int] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = "GIF" if path.suffix.lower() == ".gif" else "PNG"
    extra = {} if duration is None else {"duration": duration, "loop": 0, "save_all": True}
    with replacing(path, sync=False) as file:
        if len(frames) > 1 and kind == "PNG":  # its first picture is no frame: the one that stays
            frames[-1].save(file, kind, append_images=list(frames), default_image=True, **extra)
        elif len(frames) > 1:
            frames[0].save(file, kind, append_images=list(frames[1:]), **extra)
        else:
            frames[0].save(file, kind)
    return path


def _tiles(images: NDArray[np.uint8], least: int = TILE) -> NDArray[np.uint8]:
    """[n, C, H, W] -> [n, H', W', C], enlarged by a whole factor to sides of at least `least`."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(
            "images are uint8 [n, 1 or 3, height, width], "
            f"not {images.dtype} {list(images.shape)}; decode them with the codec first"
        )
    if 0 in images.shape:
        raise ValueError(f"there is no image to draw in {list(images.shape)}")
    factor = max(1, -(-least // min(images.shape[2:])))
    large = images.repeat(factor, axis=2).repeat(factor, axis=3)
    return large.transpose(0, 2, 3, 1)


def _image(pixels: NDArray[np.uint8]) -> Image.Image:
    """[H, W, C] -> a grey or RGB picture."""
    return Image.fromarray(
        np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    )


def _columns(n: int) -> int:
    root = math.ceil(math.sqrt(n))
    return next((c for c in range(root, int(2 * math.sqrt(n)) + 1) if n % c == 0), root)


def _finite(points: NDArray[np.floating]) -> NDArray[np.float64]:
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"points are [n, 2], not {list(points.shape)}")
    wide = points.astype(np.float64)
    return wide[np.isfinite(wide).all(axis=1)]


def _round_up(value: float) -> float:
    """The next of 1, 1.5, 2, 2.5, 3, 4, 5, 6, 8 times a power of ten."""
    if not value > 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    steps = (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10)
    return next(s for s in steps if s * power >= value * (1 - 1e-9)) * power


def _dots(
    points: NDArray[np.float64], limit: float, side: int, radius: int
) -> NDArray[np.float64]:
    """[side, side] how many discs of `radius` pixels cover each pixel; the y axis points up."""
    bins, edges = side, [[-limit, limit]] * 2
    hits = np.histogram2d(-points[:, 1], points[:, 0], bins=bins, range=edges)[0]
    padded = np.pad(hits, radius)
    total = np.zeros_like(hits)
    for dy in range(2 * radius + 1):
        for dx in range(2 * radius + 1):
            if math.hypot(dy - radius, dx - radius) <= radius + 0.25:
                total += padded[dy : dy + side, dx : dx + side]
    return total
