"""`genlab sample run=... from=photos/`: encodes and decodes images that were given."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from genlab import registry
from genlab.errors import ConfigError, DataError
from genlab.loaded import Loaded
from genlab.nn.likeness import psnr
from genlab.nn.quantize import spread
from genlab.run import pictures
from genlab.run.files import write_text

__all__ = ["decoded", "save_as", "write_reconstructions"]

PAIRS = 32  # in the grid


def write_reconstructions(loaded: Loaded, asked: Mapping[str, Any], folder: Path) -> None:
    """Writes codes.npy, names.json, images/<name>.png, grid.png of the first pairs, sample.json.

    Images are read one batch at a time, whatever their number. Raises DataError when none can be
    decoded, ConfigError for a run whose images are not square.
    """
    channels, height, width = loaded.built.data.spec.shape
    if height != width:
        raise ConfigError(f"from= takes runs of square images, not {height}x{width}")
    place = asked["from"]
    given = registry.find("data", "folder").each(place, channels, width)
    names: list[str] = []
    done: Counter[str] = Counter()
    corrupt: dict[str, str] = {}
    images = decoded(given, names, done, corrupt)
    codes, decibels, first, copies = [], [], [], []
    written: set[str] = set()
    while batch := list(islice(images, asked["batch"])):
        u = np.stack(batch)
        index, copied = loaded.reconstruct(u, batch=len(u), weights=asked["weights"])
        codes.append(index.astype(np.int32) if index.dtype == np.int64 else index)
        decibels.append(psnr(torch.from_numpy(u), torch.from_numpy(copied)).numpy())
        if sum(map(len, first)) < PAIRS:
            first.append(u)
        if asked["save"] == "npy" or len(first) > len(copies):
            copies.append(copied)
        if asked["save"] == "png":
            for name, copy in zip(names[-len(u) :], copied, strict=True):
                save_as(copy, folder / "images", name, written)
    if not codes:
        name, reason = next(iter(corrupt.items()))
        raise DataError(f"{place}: no image can be decoded ({name}: {reason})")
    folder.mkdir(parents=True, exist_ok=True)
    every = np.concatenate(codes)
    np.save(folder / "codes.npy", every, allow_pickle=False)
    if asked["save"] == "npy":
        np.save(folder / "reconstructions.npy", np.concatenate(copies), allow_pickle=False)
    shown = np.concatenate(first)[:PAIRS]
    picture = pictures.pairs(shown, np.concatenate(copies)[: len(shown)])
    pictures.save(picture, folder / "grid.png")
    quality = np.concatenate(decibels)
    record = _record(loaded, every, quality)
    record |= {
        "from": str(place),
        "weights": asked["weights"],
        "converted": ", ".join(f"{n:,} {what}" for what, n in sorted(done.items())) or None,
    }
    record |= {"corrupt": corrupt} if corrupt else {}
    write_text(folder / "names.json", json.dumps(names, indent=1))
    write_text(folder / "sample.json", json.dumps(record, indent=1))
    _say(loaded, record, folder)


def decoded(
    given: Iterator[tuple[str, Any, set[str]]],
    names: list[str],
    done: Counter[str],
    corrupt: dict[str, str],
) -> Iterator[NDArray[np.uint8]]:
    """The images alone; fills in what is known of them as they pass."""
    for name, pixels, words in given:
        if pixels is None:
            corrupt[name] = ", ".join(words)
            print(f"{name} is left out: {corrupt[name]}")
            continue
        names.append(name)
        done.update(words)
        yield pixels.numpy()


def save_as(pixels: NDArray[np.uint8], folder: Path, name: str, written: set[str]) -> None:
    """Writes an image under its own name as PNG; a.jpg beside a.png becomes a.jpg.png."""
    path = PurePosixPath(name)
    target = path.with_suffix(".png")
    target = path.with_name(f"{path.name}.png") if str(target) in written else target
    written.add(str(target))
    flat = pixels.transpose(1, 2, 0)
    pictures.save(Image.fromarray(flat[..., 0] if flat.shape[2] == 1 else flat), folder / target)


def _record(loaded: Loaded, codes: NDArray[Any], quality: NDArray[np.float32]) -> dict[str, Any]:
    model = loaded.built.model
    finite = quality[np.isfinite(quality)]
    record: dict[str, Any] = {
        "shows": "reconstructions",
        "checkpoint": loaded.checkpoint,
        "n": len(codes),
        "psnr": round(float(finite.mean()), 3) if len(finite) else None,
    }
    if (bits := getattr(model, "bits", None)) is not None:
        record["bits"] = bits
        record["bits_per_number"] = round(bits / float(np.prod(loaded.built.spec.shape)), 4)
    if (size := getattr(model, "codes", None)) is not None:
        count = torch.bincount(torch.from_numpy(codes).flatten(), minlength=size)
        usage, perplexity = spread(count)
        record["usage"] = round(float(usage), 4)
        record["perplexity"] = round(float(perplexity), 2)
    return record


def _say(loaded: Loaded, record: Mapping[str, Any], folder: Path) -> None:
    if record["converted"]:
        print(f"to the size of the run: {record['converted']}")
    facts = [f"PSNR {record['psnr']} dB"] if record["psnr"] is not None else []
    facts += [f"{record['bits']:,.0f} bits an image"] if "bits" in record else []
    facts += [f"{record['usage']:.1%} of the codes used"] if "usage" in record else []
    print(
        f"{record['n']:,} reconstructions by {loaded.run.title} at image "
        f"{int(loaded.checkpoint):,}: {folder}\n{', '.join(facts)}"
    )
