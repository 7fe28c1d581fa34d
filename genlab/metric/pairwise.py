"""Scores of pairs: held-out images and their reconstructions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from genlab.core.errors import DataError
from genlab.core.metric import MetricInputs

__all__ = ["check_size", "each"]

PIXELS = 2**18  # of one part, times channels


@torch.inference_mode()
def each(inputs: MetricInputs, score: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """[n] float64 on the CPU: the score of every original with its copy.

    score: uint8 [m, C, H, W] twice, on the device of the inputs -> [m]; called with a part of
    all at a time, so it is a function of each pair alone.
    """
    originals, copies, _ = inputs.pairs()
    size = max(1, PIXELS // originals[0].numel())
    found = [
        score(a.to(inputs.device), b.to(inputs.device)).double().cpu()
        for a, b in zip(originals.split(size), copies.split(size), strict=True)
    ]
    return torch.cat(found)


def check_size(images: Tensor, least: int, metric: str, instead: str) -> None:
    """Raises DataError where images [n, C, H, W] have a side of less than `least` pixels."""
    height, width = images.shape[2:]
    if min(height, width) < least:
        raise DataError(
            f"{metric} needs images of at least {least} pixels, not {height} x {width}; {instead}"
        )
