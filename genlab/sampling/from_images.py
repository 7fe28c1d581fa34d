"""`genlab sample from=`: given images, encoded and decoded, or edited.

`task=` chooses the edit (inpaint, colourise, edit); without it an autoencoder reconstructs.
"""

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

from genlab.core.errors import ConfigError, DataError
from genlab.data.source import iter_images
from genlab.nn.quantize import codebook_usage
from genlab.nn.similarity import psnr
from genlab.run import pictures
from genlab.run.files import write_text
from genlab.sampling.edit import ImageEditor
from genlab.sampling.pipeline import Pipeline

__all__ = ["decoded", "save_as", "write_edits", "write_reconstructions"]

PAIRS = 32  # in the grid


def write_reconstructions(pipeline: Pipeline, asked: Mapping[str, Any], folder: Path) -> None:
    """Writes codes.npy, names.json, images/<name>.png, grid.png of the first pairs, sample.json.

    Images are read one batch at a time, whatever their number. Raises DataError when none can be
    decoded, ConfigError for a run whose images are not square.
    """
    channels, height, width = pipeline.data.spec.shape
    if height != width:
        raise ConfigError(f"from= takes runs of square images, not {height}x{width}")
    place = asked["from"]
    given = iter_images(place, channels, width)
    names: list[str] = []
    done: Counter[str] = Counter()
    corrupt: dict[str, str] = {}
    images = decoded(given, names, done, corrupt)
    codes, decibels, first, copies = [], [], [], []
    written: set[str] = set()
    while batch := list(islice(images, asked["batch"])):
        u = np.stack(batch)
        index, copied = pipeline.reconstruct(u, batch=len(u), weights=asked["weights"])
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
    record = _record(pipeline, every, quality)
    record |= {
        "from": str(place),
        "weights": asked["weights"],
        "converted": ", ".join(f"{n:,} {what}" for what, n in sorted(done.items())) or None,
    }
    record |= {"corrupt": corrupt} if corrupt else {}
    write_text(folder / "names.json", json.dumps(names, indent=1))
    write_text(folder / "sample.json", json.dumps(record, indent=1))
    _say(pipeline, record, folder)


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


def _record(
    pipeline: Pipeline, codes: NDArray[Any], quality: NDArray[np.float32]
) -> dict[str, Any]:
    model = pipeline.model
    finite = quality[np.isfinite(quality)]
    record: dict[str, Any] = {
        "shows": "reconstructions",
        "checkpoint": pipeline.record()["checkpoint"],
        "n": len(codes),
        "psnr": round(float(finite.mean()), 3) if len(finite) else None,
    }
    if (bits := model.code_bits) is not None:
        record["bits"] = bits
        record["bits_per_number"] = round(bits / float(np.prod(pipeline.spec.shape)), 4)
    if (size := model.codebook_size) is not None:
        count = torch.bincount(torch.from_numpy(codes).flatten(), minlength=size)
        usage, perplexity = codebook_usage(count)
        record["usage"] = round(float(usage), 4)
        record["perplexity"] = round(float(perplexity), 2)
    return record


def _say(pipeline: Pipeline, record: Mapping[str, Any], folder: Path) -> None:
    if record["converted"]:
        print(f"to the size of the run: {record['converted']}")
    facts = [f"PSNR {record['psnr']} dB"] if record["psnr"] is not None else []
    facts += [f"{record['bits']:,.0f} bits an image"] if "bits" in record else []
    facts += [f"{record['usage']:.1%} of the codes used"] if "usage" in record else []
    print(f"{record['n']:,} reconstructions by {pipeline.title}: {folder}\n{', '.join(facts)}")


ROWS = 16  # images in the grid


def write_edits(pipeline: Pipeline, asked: Mapping[str, Any], folder: Path) -> None:
    """Writes images/<name>-<k>.png (or edits.npy, names.json), grid.png and sample.json.

    Of every image of from=, the first n of them, `variants` edits; a row of the grid is an image,
    what is known of it, and its edits. Images of another size are cropped and resampled as
    data=folder does, which is said; a mask is not. Raises ConfigError or DataError before anything
    is written, unless a later image turns out corrupt, which is said and left out.
    """
    task, variants, weights = asked["task"], asked["variants"], asked["weights"]
    mask = None if asked["mask"] is None else _mask(asked["mask"])
    edits = ImageEditor(pipeline, task, mask=mask, strength=asked["strength"])
    label = _labels(pipeline, asked["labels"])
    channels, height, width = pipeline.output_shape
    if height != width:
        raise ConfigError(f"from= takes runs of square images, not {height}x{width}")
    names: list[str] = []
    done: Counter[str] = Counter()
    corrupt: dict[str, str] = {}
    given = iter_images(asked["from"], channels, width)
    images = islice(decoded(given, names, done, corrupt), asked["n"])
    pipeline.sampler.recount()
    rows: list[NDArray[np.uint8]] = []  # of the grid
    kept: list[NDArray[np.uint8]] = []
    written: set[str] = set()
    while batch := list(islice(images, max(1, asked["batch"] // variants))):
        first = len(names) - len(batch)
        index = range(first * variants, len(names) * variants)
        u = torch.from_numpy(np.stack(batch)).repeat_interleave(variants, 0)
        y = None if label is None else [label[i // variants % len(label)] for i in index]
        known, drawn = edits.draw(u, y, asked["seed"], index, weights)
        sets = drawn.numpy().reshape(len(batch), variants, *drawn.shape[1:])
        for name, original, seen, results in zip(
            names[first:], batch, known.numpy()[::variants], sets, strict=True
        ):
            if len(rows) < ROWS:
                rows.append(np.stack([original, seen, *results]))
            if asked["save"] == "png":
                for k, result in enumerate(results):
                    save_as(result, folder / "images", _numbered(name, k), written)
        if asked["save"] == "npy":
            kept.append(sets)
    if not names:
        name, reason = next(iter(corrupt.items()))
        raise DataError(f"{asked['from']}: no image can be decoded ({name}: {reason})")
    folder.mkdir(parents=True, exist_ok=True)
    if kept:
        np.save(folder / "edits.npy", np.concatenate(kept), allow_pickle=False)
    pictures.save(pictures.grid(np.concatenate(rows), 2 + variants), folder / "grid.png")
    converted = ", ".join(f"{n:,} {what}" for what, n in sorted(done.items())) or None
    record = {
        "shows": "edits",
        **{k: asked[k] for k in ("task", "from", "mask", "strength", "variants")},
        "n": len(names),
        **{k: asked[k] for k in ("batch", "seed", "weights")},
        "labels": "none" if label is None else asked["labels"],
        "converted": converted,
        **pipeline.record(),
        "evaluations": pipeline.sampler.evaluations,
    }
    record |= {"corrupt": corrupt} if corrupt else {}
    write_text(folder / "names.json", json.dumps(names, indent=1))
    write_text(folder / "sample.json", json.dumps(record, indent=1))
    if converted:
        print(f"to the size of the run: {converted}")
    if next(given, None) is not None:
        print(f"{asked['from']} holds more than the first {len(names):,} images; n= takes more")
    print(f"{variants} edits of each of {len(names):,} images by {pipeline.title}: {folder}")


def _labels(pipeline: Pipeline, asked: int | list[int] | None) -> list[int] | None:
    """Labels the images take in turn; without any the model is asked for none."""
    if asked is not None:
        return pipeline.labels(1 if isinstance(asked, int) else len(asked), asked)
    if pipeline.classes is not None and pipeline.model.label_dropout == 0:
        raise ConfigError(
            "labels= is needed: this run was trained with model.label_dropout=0, so it has no "
            "estimates without a label"
        )
    return None


def _mask(place: str) -> NDArray[np.bool_]:
    """[H, W], True where the image at `place` is white (128 and above)."""
    asks = "give one image, white where it should draw"
    if not Path(place).expanduser().exists():
        raise DataError(f"mask={place} is not there; {asks}")
    found = list(iter_images(place, 1, None))
    if len(found) != 1 or found[0][1] is None:
        what = "is corrupt" if len(found) == 1 else f"holds {len(found)} images"
        raise DataError(f"mask={place} {what}; {asks}")
    return found[0][1][0].numpy() >= 128


def _numbered(name: str, k: int) -> str:
    """a/b.jpg -> a/b-0.jpg."""
    path = PurePosixPath(name)
    return str(path.with_name(f"{path.stem}-{k}{path.suffix}"))
