"""Generated images in files, for the tests of what reads them."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image


def picture(seed: int = 0, width: int = 12, height: int = 10) -> np.ndarray:
    """uint8 [height, width, 3], smooth enough to survive JPEG, another for every seed."""
    y, x = np.mgrid[:height, :width]
    a, b, c = np.random.default_rng(seed).uniform(0.2, 0.9, 3)
    waves = [np.sin(a * x + seed), np.cos(b * y), np.sin(c * (x + y))]
    return (127.5 + 100 * np.stack(waves, -1)).astype(np.uint8)


def encoded(image: Image.Image | np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    """The bytes of a file of an image."""
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def huge(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header promises width x height pixels."""
    data = encoded(picture())
    head = struct.pack(">II", width, height) + data[24:29]
    return data[:16] + head + struct.pack(">I", zlib.crc32(b"IHDR" + head)) + data[33:]


def folder(path: Path, names: dict[str, bytes]) -> Path:
    """Files below a folder."""
    for name, data in names.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def zipped(path: Path, names: dict[str, bytes]) -> Path:
    """A zip file of members."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in names.items():
            packed.writestr(name, data)
    return path
