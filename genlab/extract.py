"""The features of a set of images: computed once for given bytes and a given network."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from genlab.evidence import Features
from genlab.shards import Shards, ranges

__all__ = ["digest", "in_blocks", "shards"]

PART = 256  # images of one file
BLOCKS = {"cpu": 8, "cuda": 64}  # images a network sees at once


def shards(
    what: str, features: Features, images: Tensor, device: torch.device, folder: Path
) -> Shards:
    """Features of images [n, *S] in parts that are named by network and contents.

    So they are found again whatever set, order of metrics or run they were computed for.
    """
    parts = ranges(len(images), PART)
    more = [name for name in features.outputs if name != "pool"]  # weights may come without
    place = folder / "-".join([features.digest, *more])
    names: dict[int, str] = {}

    def path(k: int) -> Path:
        if k not in names:
            names[k] = digest(images[parts[k].start : parts[k].stop])
        return place / names[k][:2] / f"{names[k]}.safetensors"

    def make(k: int) -> dict[str, Tensor]:
        return in_blocks(features, images[parts[k].start : parts[k].stop], device)

    return Shards(what, parts, path, make)


def in_blocks(features: Features, images: Tensor, device: torch.device) -> dict[str, Tensor]:
    """Output -> [n, D] on the CPU, by a network that always sees blocks of one size.

    A convolution may add in another order for another number of images; in blocks filled up with
    zeros the features of an image depend on neither its company nor on how many are asked for.
    """
    size = BLOCKS.get(device.type, BLOCKS["cuda"])
    found: list[dict[str, Tensor]] = []
    for part in images.split(size):
        block = images.new_zeros(size, *images.shape[1:])
        block[: len(part)] = part
        out = features(block.to(device))
        found.append({name: t[: len(part)].float().cpu() for name, t in out.items()})
    return {name: torch.cat([f[name] for f in found]) for name in found[0]}


def digest(images: Tensor) -> str:
    """SHA-256 of shape, type and contents."""
    text = hashlib.sha256(f"{images.dtype} {list(images.shape[1:])} ".encode())
    text.update(images.contiguous().numpy().tobytes())
    return text.hexdigest()
