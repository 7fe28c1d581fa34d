"""The convolutional generator and discriminator of DCGAN."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from genlab.core.contract import Generator, Network, Spec
from genlab.core.registry import register
from genlab.core.schema import Count
from genlab.nn.double_backward import Conv2d, LeakyReLU
from genlab.nn.embed import LabelEmbedding

__all__ = ["DCGANCritic", "DCGANDiscriminator", "DCGANGenerator"]

_SIZES = sorted(base * 2**k for base in (3, 4, 5, 7) for k in range(1, 7) if base * 2**k <= 128)


def _plan(spec: Spec) -> tuple[int, int, int]:
    """(channels, side of the smallest map, halvings down to it): 28 -> 7, 2; 32 -> 4, 3."""
    spec.require(
        "images", "dcgan", "network=mlp_gan and codec=points (experiment=toy/gan has both)"
    )
    channels, height, side = spec.shape
    if height != side or side not in _SIZES:
        raise ValueError(
            f"dcgan takes square images of {', '.join(map(str, sorted(set(_SIZES))))} pixels, "
            f"not {height}x{side}; set data.size"
        )
    halvings = 0
    while side % 2 == 0 and side != 4:
        side, halvings = side // 2, halvings + 1
    return channels, side, halvings


def _initialize(module: nn.Module) -> None:
    """Radford et al.: weights N(0, 0.02), scales of batch normalization N(1, 0.02)."""
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(layer.weight, 0.0, 0.02)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight, 1.0, 0.02)


@register("dcgan_generator")
class DCGANGenerator(Generator):
    """Transposed convolutions from a latent vector to an image.

    z -> [2^(k-1) width] smallest map -> doubled k times, channels halved -> tanh

    With labels, an embedding of the label is appended to z.

    Reference: Radford et al. 2015, arXiv 1511.06434; kernel 4 instead of 5, so that every output
    pixel is covered by as many taps.
    """

    def __init__(self, spec: Spec, *, width: Count, z_dim: Count) -> None:
        """spec: shape (C, H, W), labels K or None; width: channels before the last layer."""
        super().__init__()
        channels, base, halvings = _plan(spec)
        self.z_dim = z_dim
        self.label = LabelEmbedding(spec.classes, z_dim) if spec.classes is not None else None
        inside = z_dim if self.label is None else 2 * z_dim
        widths = [width << level for level in reversed(range(halvings))]
        self.stem = nn.ConvTranspose2d(inside, widths[0], base, bias=False)
        layers: list[nn.Module] = [nn.BatchNorm2d(widths[0]), nn.ReLU()]
        for a, b in pairwise(widths):
            layers += [nn.ConvTranspose2d(a, b, 4, 2, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU()]
        self.body = nn.Sequential(
            *layers, nn.ConvTranspose2d(widths[-1], channels, 4, 2, 1), nn.Tanh()
        )
        _initialize(self)
        if self.label is not None:
            # As large as z, the label takes over in the first steps: one image per class.
            nn.init.normal_(self.label.weight, 0.0, 0.1)

    def forward(self, z: Tensor, y: Tensor | None) -> Tensor:
        """z [B, Z], y [B] or None -> [B, C, H, W] float32 in [-1, 1]."""
        if self.label is not None:
            z = torch.cat([z, self.label(y, len(z))], dim=1)
        return self.body(self.stem(z[:, :, None, None])).float()


@register("dcgan_discriminator")
class DCGANDiscriminator(Network):
    """Strided convolutions from an image to a logit.

    logit = conv(h) + <label(y), mean of h over the pixels>,  h the smallest map

    Reference: Radford et al. 2015, arXiv 1511.06434; the projection on the label: Miyato and
    Koyama 2018, arXiv 1802.05637, eq. 9.
    """

    def __init__(self, spec: Spec, *, width: Count, norm: Literal["batch", "none"]) -> None:
        """spec: shape (C, H, W), labels K or None; width: channels after the first layer."""
        super().__init__()
        channels, base, halvings = _plan(spec)
        widths = [width << level for level in range(halvings)]
        # The first layer is not normalized: it would hide the brightness of the image.
        layers: list[nn.Module] = [Conv2d(channels, width, 4, 2, 1), LeakyReLU(0.2)]
        for a, b in pairwise(widths):
            layers.append(Conv2d(a, b, 4, 2, 1, bias=norm == "none"))
            if norm == "batch":
                layers.append(nn.BatchNorm2d(b))
            layers.append(LeakyReLU(0.2))
        self.body = nn.Sequential(*layers)
        self.head = Conv2d(widths[-1], 1, base)
        self.label = LabelEmbedding(spec.classes, widths[-1]) if spec.classes is not None else None
        _initialize(self)

    def forward(self, x: Tensor, y: Tensor | None) -> Tensor:
        """x [B, C, H, W], y [B] or None -> logits [B] float32."""
        h = self.body(x)
        logit = self.head(h).flatten().float()
        if self.label is not None:
            logit = logit + (self.label(y, len(x)) * h.mean((2, 3))).sum(1).float()
        return logit


@register("dcgan_critic")
class DCGANCritic(DCGANDiscriminator):
    """The discriminator for losses of score differences, without batches.

    No normalization mixes images, and there is no last bias, on which no difference of scores
    depends.

    Reference: Gulrajani et al. 2017, arXiv 1704.00028, section 4.
    """

    def __init__(self, spec: Spec, *, width: Count) -> None:
        """spec: shape (C, H, W), labels K or None; width: channels after the first layer."""
        super().__init__(spec, width=width, norm="none")
        self.head.bias = None
