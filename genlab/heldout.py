"""The loss on data a run does not train on."""

from __future__ import annotations

from collections import Counter

import torch

from genlab.build import Built
from genlab.contract import Batch
from genlab.noise import DrawNoise, hash64

__all__ = ["held_out"]

EVAL = 5  # keeps the noise of held-out losses apart from that of training
HELD_OUT = 1024  # held-out data a loss is averaged over


@torch.no_grad()
def held_out(built: Built, batch: int, seed: int) -> dict[str, float]:
    """`heldout/loss` and what the loss logs beside it, of a model that is one loss.

    Means over held-out data in batches of `batch`, with fixed noise.
    """
    images, labels = built.data.load("test")
    images = images[:HELD_OUT].to(built.hardware.device)
    labels = labels[:HELD_OUT].to(images.device) if built.spec.classes else None
    generator = torch.Generator(images.device)
    total: Counter[str] = Counter()
    with built.viewed("raw"):
        for start in range(0, len(images), batch):
            u = images[start : start + batch]
            noise = DrawNoise(hash64(seed, EVAL), start, len(u), slice(0, len(u)), generator, None)
            y = None if labels is None else labels[start : start + batch]
            x = built.codec.encode(u, noise)
            with built.hardware.autocast():
                out = built.model.loss(Batch(x, y, noise))
            loss, log = out if isinstance(out, tuple) else (out, {})
            for name, value in {"loss": loss, **log}.items():
                total[f"heldout/{name}"] += float(value) * len(u)
    return {name: value / len(images) for name, value in total.items()}
