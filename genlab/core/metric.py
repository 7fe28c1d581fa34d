"""What a metric may look at, and what it says: the contract of `genlab eval`.

A metric names the streams it needs. Each is made once, by whoever gathers the evidence, and all
metrics share it: one set of samples, one pass of a feature network. Shape legend as in contract.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

__all__ = ["STREAMS", "Evidence", "Features", "Metric", "Pairs", "Verdict"]

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


class Features(Protocol):
    """A network whose outputs stand for images when sets of them are compared.

    Numbers by features of one digest are comparable, others are not.
    """

    digest: str  # 12 hex digits of the weights and of how images are prepared
    resizer: str  # how images reach its input, in words
    outputs: Mapping[str, int]  # name -> numbers an image; "pool" always, "logits" where it has

    def __call__(self, u: Tensor) -> Mapping[str, Tensor]:
        """u uint8 [n, C, H, W] (or float points [n, 2]) -> output -> [n, D] float32."""
        ...


class Pairs(NamedTuple):
    """Held-out images and what a model that reconstructs makes of them, in the same order."""

    originals: Tensor  # uint8 [n, C, H, W]
    copies: Tensor  # uint8 [n, C, H, W]
    codes: Tensor  # [n, ...], int64 of a codebook


class Evidence(Protocol):
    """What a metric may look at: each stream is made once, when first asked for; all on the CPU.

    Images are uint8 [n, C, H, W]; of a set of plane points all are float32 [n, 2].
    """

    device: torch.device  # where a metric may compute
    seed: int  # for subsets and directions a metric draws

    def real(self) -> Tensor:
        """[N, *S] the reference."""
        ...

    def fake(self) -> Tensor:
        """[n, *S] what is judged."""
        ...

    def features(self, of: Literal["real", "fake"], output: str = "pool") -> Tensor:
        """[n, D] float32 of the reference or of what is judged."""
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


class Verdict(NamedTuple):
    """What a metric found.

    values: the metric under its own name first, where it is one number, then what belongs to it,
    as <metric>_<what>; nan for what these data do not give. pairs: images to look at side by side,
    (left, right: uint8 [k, C, H, W], a caption for each).
    """

    values: Mapping[str, float]
    pairs: tuple[Tensor, Tensor, Sequence[str]] | None = None


class Metric(Protocol):
    """One number, or a few, from the evidence.

    needs: names of STREAMS.
    least: images of each stream it takes. better: value -> whether low or high is good; values
    not in it have no order. aside, which a metric need not have: keys that change none of these
    values, only what else it says. features, which a metric need not have: the name of the only
    features it is defined for.
    """

    needs: tuple[str, ...]
    least: int
    better: Mapping[str, Literal["low", "high"]]

    def __call__(self, evidence: Evidence) -> Verdict:
        """Raises DataError for evidence that it cannot judge."""
        ...
