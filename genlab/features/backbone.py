"""The bases of feature networks whose weights come from a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from genlab.core.contract import Spec
from genlab.core.metric import Features
from genlab.nn.full_precision import full_precision
from genlab.nn.preprocess import Preprocess, check_images
from genlab.nn.pretrained_weights import digest

__all__ = ["Backbone", "Net", "PretrainedFeatures"]


class PretrainedFeatures(Features):
    """Features of a network of images whose weights come from a file. title: its name."""

    title: str

    def __init__(
        self, spec: Spec, device: torch.device | None = None, *, file: str | None
    ) -> None:
        """spec: of the stored data. device: to compute on. file: the weights; None: those that
        the subclass finds, or DataError.

        Raises ValueError for data that are no images of one or three channels.
        """
        check_images(spec, self.title)
        self.device, self.file = device or torch.device("cpu"), file


class Net(NamedTuple):
    """[n, 3, S, S] -> [n, width] with its weights, and how images become its input."""

    net: nn.Module
    width: int
    preprocess: Preprocess


class Backbone(PretrainedFeatures):
    """One output, pool, of a network with weights from a file.

    note: what else decides its numbers, for the digest.
    """

    note: str = ""

    def __init__(self, *given: Any, **keys: Any) -> None:
        """Raises DataError for a file that is not there or of another network."""
        super().__init__(*given, **keys)
        net, width, self.preprocess = self.load()
        self.digest = digest(net, f"{self.preprocess.words}; {self.note}")
        self.resizer = self.preprocess.resizer
        self.outputs = {"pool": width}
        self.net = net.eval().to(self.device)

    def load(self) -> Net:
        """The network with the weights of `file`."""
        raise NotImplementedError

    @torch.inference_mode()
    def __call__(self, u: Tensor) -> Mapping[str, Tensor]:
        """u uint8 [n, C, H, W] -> pool [n, width] float32."""
        with full_precision(self.device):
            return {"pool": self.net(self.preprocess(u.to(self.device)))}
