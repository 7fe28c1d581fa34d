"""The base of feature networks whose weights come from a file."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from genlab.core.metric import Features
from genlab.nn.full_precision import full_precision
from genlab.nn.preprocess import Preprocess
from genlab.nn.pretrained_weights import digest

__all__ = ["Backbone"]


class Backbone(Features):
    """One output, pool, of a network with weights from a file.

    net: [n, 3, S, S] -> [n, width], with its weights; it is moved to `device`. note: what else
    decides its numbers, for the digest.
    """

    def __init__(
        self,
        net: nn.Module,
        width: int,
        preprocess: Preprocess,
        device: torch.device | None,
        note: str = "",
    ) -> None:
        self.digest = digest(net, f"{preprocess.words}; {note}")
        self.resizer = preprocess.resizer
        self.outputs = {"pool": width}
        self.preprocess = preprocess
        self.device = device or torch.device("cpu")
        self.net = net.eval().to(self.device)

    @torch.inference_mode()
    def __call__(self, u: Tensor) -> Mapping[str, Tensor]:
        """u uint8 [n, C, H, W] -> pool [n, width] float32."""
        with full_precision(self.device):
            return {"pool": self.net(self.preprocess(u.to(self.device)))}
