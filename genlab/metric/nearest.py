"""Whether samples are copies of training images."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from genlab.core.errors import DataError
from genlab.core.metric import Metric, MetricInputs, MetricResult
from genlab.core.random import hash64
from genlab.core.registry import register
from genlab.core.schema import Natural
from genlab.metric import neighbours
from genlab.metric.vectors import check

__all__ = ["Nearest"]

HELD_OUT = 10  # keeps the choice of held-out images apart from other random numbers of a seed


@register
class Nearest(Metric):
    """Distance of samples to their nearest training image, in pixel space.

    A distance is the root mean squared difference of pixels in [0, 1] (of plane points, of
    coordinates). nearest is its median over samples. Its size is read beside the same of
    reference images, as many as there are samples, drawn by seed:

    nearest_ratio is the median of samples over that of the reference; nearest_closer the chance
    that a sample is nearer to the training images than a reference image is, ties by half. A model
    that copies has ratio 0 and chance 1, new data 1 and 1/2. Blurred samples are near everything,
    so look at the pairs: the closest ones, each sample beside its image.

    A reference image that is itself among the training images is compared with the others, so the
    reference may be the training images: leaving one out, they are as new as held-out ones.

    Reference: nearest_closer is U / (n m) of Mann and Whitney, on which Meehan et al. 2020, arXiv
    2004.05675, build their test for data-copying, here with all of space for a cell.
    """

    needs = ("fake", "training", "real")
    min_images = 2
    ignored_keys = ("pairs",)

    def __init__(self, *, pairs: Natural) -> None:
        self.pairs = pairs

    def __call__(self, inputs: MetricInputs) -> MetricResult:
        """nearest, nearest_ratio, nearest_closer and the closest pairs."""
        fake, training, real = inputs.fake(), inputs.training(), inputs.real()
        for x, whose in (
            (fake, "the samples"),
            (training, "the training images"),
            (real, "the reference"),
        ):
            check(x, "nearest", self.min_images, whose)
            if (x.shape[1:], x.dtype) != (training.shape[1:], training.dtype):
                raise DataError(
                    f"nearest: {whose} are {_shape(x)}, the training images {_shape(training)}; "
                    "pixels are compared one by one, so take images of one size"
                )
        g = torch.Generator().manual_seed(hash64(inputs.seed, HELD_OUT))
        real = real[torch.randperm(len(real), generator=g)[: len(fake)]]
        samples, known, others = neighbours.together(fake, training, real, device=inputs.device)
        to_pixels = samples.unit / math.sqrt(samples.x.shape[1])
        if not fake.is_floating_point():
            to_pixels /= 255
        squares, at = (t.cpu() for t in neighbours.nearest(samples, known, 1))
        distance = squares[:, 0].sqrt() * to_pixels
        two = neighbours.nearest(others, known, 2)[0].cpu()
        reference = torch.where(two[:, 0] == 0, two[:, 1], two[:, 0]).sqrt() * to_pixels
        values = {"nearest": float(distance.median())}
        typical = float(reference.median())
        values["nearest_ratio"] = values["nearest"] / typical if typical else math.nan
        values["nearest_closer"] = _chance_below(distance, reference)
        if not self.pairs or fake.ndim != 4:
            return MetricResult(values)
        closest = distance.argsort(stable=True)[: self.pairs]
        captions = [
            f"sample {i}, training image {int(at[i, 0])}, difference {float(distance[i]):.4f}"
            for i in closest.tolist()
        ]
        return MetricResult(values, (fake[closest], training[at[closest, 0]], captions))


def _shape(x: Tensor) -> str:
    return f"{str(x.dtype).removeprefix('torch.')} {'x'.join(map(str, x.shape[1:]))}"


def _chance_below(a: Tensor, b: Tensor) -> float:
    """P(a < b) + P(a = b) / 2 of random elements of a [n] and b [m]."""
    b = b.sort().values
    counts = torch.searchsorted(b, a) + torch.searchsorted(b, a, right=True)
    return 1 - float(counts.double().mean()) / (2 * len(b))
