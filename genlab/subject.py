"""What is judged: a trained model, or images somebody else drew."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from genlab import dist, registry
from genlab.build import Built
from genlab.contract import Dataset, Generates, HasLikelihood, Reconstructs
from genlab.errors import ConfigError, DataError, DeviceError
from genlab.evidence import Pairs
from genlab.extract import digest
from genlab.gather import Reference, Subject, choose
from genlab.progress import say

__all__ = ["of_built", "of_images", "read_images", "reference"]


def of_built(
    built: Built,
    name: str,
    n: int,
    seed: int,
    weights: str | float = "ema",
    of: Literal["auto", "samples", "reconstructions"] = "auto",
) -> Subject:
    """A model as it stands. name: of its data, in words; n: samples, and held-out images at most.

    Raises ConfigError where it has no samples or reconstructions to judge.
    """
    model, data = built.model, built.data
    draws, copies = isinstance(model, Generates), isinstance(model, Reconstructs)
    if of == "samples" and not draws:
        raise ConfigError("of=samples: this model draws none; use of=reconstructions")
    if of == "reconstructions" and not copies:
        raise ConfigError("of=reconstructions: this model has no encoder; use of=samples")
    samples = draws and of != "reconstructions"
    held, labels = data.load("test")
    total, whole = len(held), digest(held)[:12]
    held = choose(held, n)
    labels = None if labels is None or built.spec.classes is None else choose(labels, n)
    classes = built.spec.classes

    def draw(part: range) -> Tensor:
        y = None if classes is None else [i % classes for i in part]
        return built.draw(y, seed, part, weights)

    def pairs(part: range) -> Pairs:
        originals = held[part.start : part.stop].contiguous()
        codes, decoded = built.reconstruct(originals, weights)
        return Pairs(originals, decoded, codes)

    def bits(part: range) -> Tensor:
        y = None if labels is None else labels[part.start : part.stop]
        return built.bits(held[part.start : part.stop], y, seed, part, weights)

    likelihood, silent = _likelihood(built)
    return Subject(
        n=n if samples else len(held),
        held_out=len(held),
        draw=draw if samples else None,
        pairs=pairs if copies else None,
        bits=bits if likelihood else None,
        training=lambda: data.load("train")[0],
        codes=getattr(model, "codes", None) if copies else None,
        of="samples" if samples else "reconstructions",
        held_out_set=f"{name} test {whole}, {len(held)} of {total}",
        data=name,
        density=_density(built),
        likelihood=likelihood,
        silent=silent,
    )


def _likelihood(built: Built) -> tuple[str, str]:
    """How the likelihood of a model is found, and why there is none; one of them is empty."""
    model, codec = built.model, built.codec
    if not isinstance(model, HasLikelihood):
        return "", ""
    if not model.mass and codec.logdet(torch.zeros(1, *codec.spec.shape)) is None:
        name = type(codec).__name__.lower()
        return "", f"codec={name} gives images no density; train with codec=dequantize"
    try:
        return model.likelihood(), ""
    except DeviceError as e:
        return "", str(e)


def _density(built: Built) -> str:
    """Of which numbers a likelihood is: fewer bits are easier to predict.

    A bound of the bytes themselves is not ranked with densities of dequantized ones.
    """
    if getattr(built.model, "mass", False):
        return "bytes"
    bits = getattr(built.codec, "bits", None)
    return type(built.codec).__name__.lower() + (f" {bits} bits" if bits else "")


def of_images(images: Tensor, name: str, training: Callable[[], Tensor] | None) -> Subject:
    """Given images uint8 [n, C, H, W]; training: what their model learned from, if known.

    name: of that, or of the kind of images, in words.
    """
    return Subject(
        n=len(images), held_out=0, training=training, of="images", data=name, given=images
    )


def reference(data: Dataset, name: str, split: str, n: int | None) -> Reference:
    """n images of a split, all for None, always the same ones."""
    images, _ = data.load(split)
    return Reference(f"{name} {split}", choose(images, n).contiguous(), len(images))


def read_images(place: str, key: str, size: int | None, channels: int | None) -> Tensor:
    """uint8 [N, C, H, W] of all images of a folder, .zip or .npy, in the order of names.

    key: fake or real, for messages. size: side they are resampled to, None as they are, which
    must be of one size. channels: 1 or 3, None as stored (3 for files). Raises DataError.
    """
    path = Path(os.path.expanduser(place))
    if not path.exists():
        raise DataError(f"{key}={place} is not there; give a folder, a .zip or a .npy of images")
    images: list[Tensor] = []
    first = ""
    done: Counter[str] = Counter()
    for name, image, words in registry.find("data", "folder").each(str(path), channels, size):
        if image is None:
            reason = ", ".join(words)
            raise DataError(f"{key}={place}: {name} is corrupt ({reason}); replace or remove it")
        first = first or name
        if images and image.shape != images[0].shape:
            (h, w), (h2, w2) = images[0].shape[1:], image.shape[1:]
            raise DataError(
                f"{key}={place} mixes sizes: {first} has {w} x {h} pixels, {name} has "
                f"{w2} x {h2}; add size={min(h, w)} (or another side) to crop and resize all"
            )
        images.append(image)
        done.update(words)
    if done and dist.rank() == 0:
        say(f"{key}={place}: {', '.join(f'{n:,} {what}' for what, n in sorted(done.items()))}")
    return torch.stack(images)
