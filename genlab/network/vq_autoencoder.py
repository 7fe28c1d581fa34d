"""The encoder and decoder of VQ-VAE: strided convolutions and residual layers."""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from genlab.core.contract import Network, Spec
from genlab.core.registry import register
from genlab.core.schema import Count, Natural

__all__ = ["VQDecoder", "VQEncoder"]


def _grid(spec: Spec, halvings: int) -> tuple[int, int]:
    """(h, w) of the smallest map; ValueError for sizes that cannot be halved so often."""
    spec.require("images", "vq_autoencoder", "data of images")
    _, height, width = spec.shape
    step = 1 << halvings
    if height % step or width % step:
        most = next(n for n in range(halvings, -1, -1) if not (height % 2**n or width % 2**n))
        near = max(step, round(height / step) * step)
        fits = f"network.encoder.halvings={most} or " if most else ""
        raise ValueError(
            f"images of {height}x{width} cannot be halved {halvings} times; "
            f"use {fits}data.size={near}"
        )
    return height // step, width // step


def _widths(channels: int, width: int, halvings: int) -> list[int]:
    """Channels from the image to the smallest map: half of `width` before the last halving."""
    return [channels, *[max(1, width // 2)] * (halvings - 1), width]


class Residual(nn.Module):
    """h + conv1x1(relu(conv3x3(relu(h))))."""

    def __init__(self, width: int, residual: int) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(width, residual, 3, padding=1)
        self.widen = nn.Conv2d(residual, width, 1)

    def forward(self, h: Tensor) -> Tensor:
        """[B, width, h, w], same."""
        return h + self.widen(F.relu(self.narrow(F.relu(h))))


@register("vq_encoder")
class VQEncoder(Network):
    """Strided convolutions and residual layers from an image to vectors.

    image -> `halvings` times conv4x4 / 2, relu -> conv3x3 -> residual layers -> relu -> conv1x1

    grid: (h, w) of its output, sides of the image divided by 2^halvings.

    Reference: van den Oord et al. 2017, arXiv 1711.00937, section 4.1.
    """

    def __init__(
        self,
        spec: Spec,
        *,
        width: Count,
        residual: Count,
        blocks: Natural,
        halvings: Count,
        code_width: Count,
    ) -> None:
        """spec: shape (C, H, W); the keys as in configs/network/vq_autoencoder.yaml."""
        super().__init__()
        self.grid, self.code_width = _grid(spec, halvings), code_width
        layers: list[nn.Module] = []
        for a, b in pairwise(_widths(spec.shape[0], width, halvings)):
            layers += [nn.Conv2d(a, b, 4, 2, 1), nn.ReLU()]
        layers.append(nn.Conv2d(width, width, 3, padding=1))
        layers += [Residual(width, residual) for _ in range(blocks)]
        self.body = nn.Sequential(*layers, nn.ReLU(), nn.Conv2d(width, code_width, 1))

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> [B, code_width, h, w]."""
        z: Tensor = self.body(x)
        return z


@register("vq_decoder")
class VQDecoder(Network):
    """The mirror of the encoder, from codes to an image.

    codes -> conv3x3 -> residual layers -> `halvings` times relu, transposed conv4x4 * 2 -> image
    """

    def __init__(
        self,
        spec: Spec,
        *,
        width: Count,
        residual: Count,
        blocks: Natural,
        halvings: Count,
        code_width: Count,
    ) -> None:
        """spec: shape (C, H, W); the keys as in configs/network/vq_autoencoder.yaml."""
        super().__init__()
        self.grid, self.code_width = _grid(spec, halvings), code_width
        layers: list[nn.Module] = [nn.Conv2d(code_width, width, 3, padding=1)]
        layers += [Residual(width, residual) for _ in range(blocks)]
        for a, b in pairwise(_widths(spec.shape[0], width, halvings)[::-1]):
            layers += [nn.ReLU(), nn.ConvTranspose2d(a, b, 4, 2, 1)]
        self.body = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        """z [B, code_width, h, w] -> [B, C, H, W] float32."""
        x: Tensor = self.body(z).float()
        return x
