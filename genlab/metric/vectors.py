"""Two sets of vectors to compare: what every metric asks of them, and their blocks."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from genlab.errors import DataError
from genlab.evidence import Evidence

__all__ = ["blocks", "enough", "feature_sets", "quick"]

BLOCK = 1024  # rows: large enough for a product at full speed, small enough for the cache


def feature_sets(evidence: Evidence, metric: str, least: int) -> tuple[Tensor, Tensor]:
    """(real [N, D], fake [n, D]), finite and at least `least` of each; else DataError."""
    real, fake = evidence.features("real"), evidence.features("fake")
    for x, whose in ((real, "the reference"), (fake, "the samples")):
        enough(len(x), metric, least, whose)
        if not x.isfinite().all():
            raise DataError(
                f"{metric}: features of {whose} are not finite; look at the images or take "
                "other features"
            )
    if real.shape[1] != fake.shape[1]:
        raise DataError(
            f"{metric}: features of the reference have {real.shape[1]} numbers, those of the "
            f"samples {fake.shape[1]}; take both from one network"
        )
    return real, fake


def enough(n: int, metric: str, least: int, whose: str) -> None:
    """Raises DataError for fewer than `least` images."""
    if n < least:
        raise DataError(f"{metric} needs {least} images or more; {whose} are {n}, take more")


def quick(device: torch.device) -> torch.dtype:
    """The float type of large products: of GPUs float64, whose float32 may be TF32."""
    return torch.float32 if device.type == "cpu" else torch.float64


def blocks(n: int) -> Iterator[slice]:
    """Slices that together are the rows 0 to n."""
    for start in range(0, n, BLOCK):
        yield slice(start, min(start + BLOCK, n))
