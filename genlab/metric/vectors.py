"""Two sets of vectors to compare: their checks and their blocks."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from genlab.core.errors import DataError
from genlab.core.metric import MetricInputs

__all__ = ["blocks", "check", "feature_sets", "product_dtype"]

BLOCK = 1024  # rows: large enough for a product at full speed, small enough for the cache


def feature_sets(inputs: MetricInputs, metric: str, least: int) -> tuple[Tensor, Tensor]:
    """(real [N, D], fake [n, D]), at least `least` of each; DataError for what is no such pair."""
    real, fake = inputs.features("real"), inputs.features("fake")
    check(real, metric, least, "the reference")
    check(fake, metric, least, "the samples")
    if real.shape[1] != fake.shape[1]:
        raise DataError(
            f"{metric}: features of the reference have {real.shape[1]} numbers, those of the "
            f"samples {fake.shape[1]}; take both from one network"
        )
    return real, fake


def check(x: Tensor, metric: str, least: int, whose: str) -> None:
    """Raises DataError for fewer than `least` rows [n, ...] or numbers that are not finite."""
    if len(x) < least:
        raise DataError(f"{metric} needs at least {least}, but {whose} are {len(x)}; take more")
    if x.is_floating_point() and not x.isfinite().all():
        raise DataError(
            f"{metric}: some numbers of {whose} are not finite; the model may have diverged, or "
            "the features do not suit the images"
        )


def product_dtype(device: torch.device) -> torch.dtype:
    """The float type of large products: of GPUs float64, whose float32 may be TF32."""
    return torch.float32 if device.type == "cpu" else torch.float64


def blocks(n: int) -> Iterator[slice]:
    """Slices that together are the rows 0 to n."""
    for start in range(0, n, BLOCK):
        yield slice(start, min(start + BLOCK, n))
