"""The inputs and the result of a metric: the contract of `genlab eval`.

A metric names the streams it needs. Each is computed once and all metrics share it: one set of
samples, one pass of a feature network. Shape legend as in contract.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

__all__ = ["STREAMS", "Features", "Metric", "MetricInputs", "MetricResult", "Pairs"]

STREAMS = {
    "real": "reference images",
    "fake": "samples",
    "features": "features of both",
    "logits": "class logits of samples",
    "training": "the images it was trained on",
    "pairs": "reconstructions",
    "bits": "likelihoods",
    "codes": "codes of a codebook",
    "points": "points of the plane",
    "images": "images",
}
"""Stream -> what it is in words; a metric's `needs` are among them."""


class Features:
    """A network whose outputs stand for images when sets of them are compared.

    Numbers by features of one digest are comparable, others are not.
    """

    digest: str  # 12 hex digits of the weights and of how images are prepared
    resizer: str  # how images reach its input, in words
    outputs: Mapping[str, int]  # name -> numbers an image; "pool" always, "logits" where it has

    def __call__(self, u: Tensor) -> Mapping[str, Tensor]:
        """u uint8 [n, C, H, W] (or float points [n, 2]) -> output -> [n, D] float32."""
        raise NotImplementedError


class Pairs(NamedTuple):
    """Held-out images and what a model that reconstructs makes of them, in the same order."""

    originals: Tensor  # uint8 [n, C, H, W]
    copies: Tensor  # uint8 [n, C, H, W]
    codes: Tensor  # [n, ...], int64 of a codebook


class MetricInputs(Protocol):
    """The streams of an evaluation: each is computed once, when first asked for; all on the CPU.

    `evaluation/streams.py` implements it; a test may hand a metric any object with these methods.
    Images are uint8 [n, C, H, W]; of a set of plane points all are float32 [n, 2].
    """

    device: torch.device  # where a metric may compute
    seed: int  # for subsets and directions a metric draws

    def real(self) -> Tensor:
        """[N, *S] the reference."""
        ...

    def fake(self) -> Tensor:
        """[n, *S] samples, or what else is evaluated."""
        ...

    def features(self, of: Literal["real", "fake"], output: str = "pool") -> Tensor:
        """[n, D] float32 of the reference or of the samples."""
        ...

    def training(self) -> Tensor:
        """[N, *S] all that the model was trained on."""
        ...

    def pairs(self) -> Pairs:
        """Held-out images with their reconstructions."""
        ...

    def bits(self) -> Tensor:
        """[n] float64 bits per dimension of held-out data, -log2 p of the stored numbers."""
        ...

    def codebook(self) -> int | None:
        """Number of codes K the model chooses from; None when it has no codebook."""
        ...


class MetricResult(NamedTuple):
    """The numbers of a metric.

    values: the metric under its own name first, where it is one number, then what belongs to it,
    as <metric>_<what>; nan for what these data do not give. pairs: images to look at side by side,
    (left, right: uint8 [k, C, H, W], a caption for each).
    """

    values: Mapping[str, float]
    pairs: tuple[Tensor, Tensor, Sequence[str]] | None = None


class Metric:
    """One number, or a few, of the inputs.

    needs: names of STREAMS. min_images: least number of images of each stream. lower_is_better,
    higher_is_better: the values that have an order. ignored_keys: keys that change none of these,
    only other values. features: name of the only feature network it is defined on, None for any.
    digest: of weights of its own, None without. file_keys: keys that say where these lie.
    """

    needs: tuple[str, ...]
    min_images: int = 1
    lower_is_better: tuple[str, ...] = ()
    higher_is_better: tuple[str, ...] = ()
    ignored_keys: tuple[str, ...] = ()
    features: str | None = None
    digest: str | None = None
    file_keys: tuple[str, ...] = ()

    @property
    def better(self) -> dict[str, Literal["low", "high"]]:
        """Value -> whether low or high is good, of those that have an order."""
        low: dict[str, Literal["low", "high"]] = dict.fromkeys(self.lower_is_better, "low")
        return low | dict.fromkeys(self.higher_is_better, "high")

    def __call__(self, inputs: MetricInputs) -> MetricResult:
        """Raises DataError for inputs that it cannot be computed of."""
        raise NotImplementedError
