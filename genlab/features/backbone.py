"""What the members that run a network of others share."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from genlab.core.metric import Features
from genlab.nn.full_precision import precise
from genlab.nn.preprocess import Prepare
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
        prepare: Prepare,
        device: torch.device | None,
        note: str = "",
    ) -> None:
        self.digest = digest(net, f"{prepare.words}; {note}")
        self.resizer = prepare.resizer
        self.outputs = {"pool": width}
        self.prepare = prepare
        self.device = device or torch.device("cpu")
        self.net = net.eval().to(self.device)

    @torch.inference_mode()
    def __call__(self, u: Tensor) -> Mapping[str, Tensor]:
        """u uint8 [n, C, H, W] -> pool [n, width] float32."""
        with precise(self.device):
            return {"pool": self.net(self.prepare(u.to(self.device)))}
