"""What a run shows of itself while it trains: the validation loss and a preview."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import torch

from genlab.core.contract import Batch, Generates, Reconstructs, Split
from genlab.core.files import disk, write_text
from genlab.core.random import DrawNoise, hash64
from genlab.run.pictures import pairs, save, sheet
from genlab.sampling.pipeline import Pipeline

__all__ = ["PAIRS", "SAMPLES", "mean_loss", "validation_loss", "write_preview"]

VALIDATION = 5  # keeps the noise of validation losses apart from that of training
SAMPLES, PAIRS = 64, 32  # in a preview: samples, or reconstructions beside their originals


def validation_loss(pipeline: Pipeline, n: int, batch: int, seed: int) -> dict[str, float]:
    """`heldout/loss` and what the loss logs beside it, over the first n held-out data."""
    held = pipeline.data.load("test")
    return mean_loss(pipeline, Split(*(u if u is None else u[:n] for u in held)), batch, seed)


@torch.no_grad()
def mean_loss(pipeline: Pipeline, held: Split, batch: int, seed: int) -> dict[str, float]:
    """Means of the loss of a model that is one loss, and of what that logs beside it.

    Over these data in batches of `batch`, with fixed noise.
    """
    device = pipeline.hardware.device
    held = held if pipeline.spec.classes else held._replace(y=None)
    rows = [None if part is None else part.to(device) for part in held]
    n, generator = len(held.x), torch.Generator(device)
    total: Counter[str] = Counter()
    with pipeline.using("raw"):
        for start in range(0, n, batch):
            u, y, z = (None if part is None else part[start : start + batch] for part in rows)
            assert u is not None
            noise = DrawNoise(
                hash64(seed, VALIDATION), start, len(u), slice(0, len(u)), generator, None
            )
            x = pipeline.codec.encode(u, noise)
            with pipeline.hardware.autocast():
                out = pipeline.model.loss(Batch(x, y, noise, z))
            loss, log = out if isinstance(out, tuple) else (out, {})
            for name, value in {"loss": loss, **log}.items():
                total[f"heldout/{name}"] += float(value) * len(u)
    return {name: value / n for name, value in total.items()}


def write_preview(
    pipeline: Pipeline, seed: int, folder: Path, images: int
) -> tuple[str, Path] | None:
    """Writes <folder>/<images>.png: samples of the same noise each time, or, of a model that
    draws none, held-out images beside their reconstructions; nothing for a model with neither.

    What the pictures show, if not samples, stands in <folder>/sample.json. Returns (what it
    shows, its path).
    """
    shows = "samples" if isinstance(pipeline.model, Generates) else "reconstructions"
    if isinstance(pipeline.model, Generates):
        classes = pipeline.spec.classes
        y = None if classes is None else [i % classes for i in range(SAMPLES)]
        picture = sheet(pipeline.draw(y, seed, range(SAMPLES)).numpy())
    elif isinstance(pipeline.model, Reconstructs):
        originals = pipeline.data.load("test").x[:PAIRS]
        picture = pairs(originals.numpy(), pipeline.decode(pipeline.encode(originals)).numpy())
    else:
        return None
    path = folder / f"{images:012d}.png"
    with disk("write", path):
        folder.mkdir(parents=True, exist_ok=True)
        save(picture, path)
    if shows != "samples":
        record = {"shows": shows, "bits": pipeline.model.code_bits}
        write_text(folder / "sample.json", json.dumps(record, indent=1))
    return shows, path
