"""Distance of images by what a classifier sees in them, calibrated on human judgement."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor, nn

from genlab.nn.backbones import ConvBackbone
from genlab.nn.pretrained_weights import fit, read_weights

__all__ = ["Perceptual"]

SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
TINY = 1e-10  # the least length


class Perceptual(nn.Module):
    """LPIPS, version 0.1: weighted squared differences of normalized maps.

    d(a, b) = sum_l mean_hw w_l . (f_l(a) / |f_l(a)| - f_l(b) / |f_l(b)|)^2

    f_l are the maps behind the taps of a backbone, lengths are over the channels of a pixel. The
    weights w_l of the heads are not negative, so d is 0 for equal images and symmetric.

    Reference: Zhang, Isola, Efros, Shechtman, Wang 2018, arXiv 1801.03924, eq. 1.
    """

    def __init__(self, backbone: ConvBackbone) -> None:
        super().__init__()
        self.torso = backbone  # this name is part of the digest
        self.heads = _Heads(backbone.widths)
        self.register_buffer("shift", torch.tensor(SHIFT).view(3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE).view(3, 1, 1), persistent=False)

    def load(self, backbone: Path, heads: Path) -> None:
        """Takes the weights of both files; DataError for one that is missing or another's."""
        self.torso.load(backbone)
        wanted = f"the heads of LPIPS for {self.torso.name}"
        fit(self.heads, read_weights(heads), heads, wanted)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """a, b [n, 3, H, W] in [-1, 1] -> [n]; has a gradient for both."""
        maps = zip(self._seen(a), self._seen(b), self.heads.weights(), strict=True)
        terms = [(w * (f - g).square()).sum(1).mean((1, 2)) for f, g, w in maps]
        return torch.stack(terms).sum(0)

    def _seen(self, x: Tensor) -> list[Tensor]:
        maps = self.torso((x - self.shift) / self.scale)
        # the least length keeps pixels without any activity from a gradient of 0 / 0
        return [f / f.square().sum(1, keepdim=True).clamp(min=TINY**2).sqrt() for f in maps]


class _Heads(nn.Module):
    """1 x 1 convolutions without bias; behind a dropout when they were trained, hence names."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        for i, width in enumerate(widths):
            head = nn.Sequential(nn.Dropout(), nn.Conv2d(width, 1, 1, bias=False))
            self.add_module(f"lin{i}", nn.Sequential(OrderedDict(model=head)))

    def weights(self) -> list[Tensor]:
        """[1, width, 1, 1] of each."""
        return list(self.parameters())
