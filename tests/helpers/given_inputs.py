"""Inputs of a metric made of tensors, without a model or a feature network."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from genlab.core.metric import Pairs


@dataclass
class Given:
    """Every stream as handed over; one that was not is an error when asked for."""

    streams: dict[str, Tensor] = field(default_factory=dict)  # "real", "fake", "training", "bits"
    pooled: dict[str, Tensor] = field(default_factory=dict)  # "real", "fake", "real/logits", ...
    both: Pairs | None = None
    codes: int | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    seed: int = 0

    def real(self) -> Tensor:
        return self.streams["real"]

    def fake(self) -> Tensor:
        return self.streams["fake"]

    def training(self) -> Tensor:
        return self.streams["training"]

    def bits(self) -> Tensor:
        return self.streams["bits"]

    def features(self, of, output="pool") -> Tensor:
        return self.pooled[of if output == "pool" else f"{of}/{output}"]

    def pairs(self) -> Pairs:
        return self.both

    def codebook(self) -> int | None:
        return self.codes
