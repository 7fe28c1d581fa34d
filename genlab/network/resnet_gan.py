"""The residual generator and critic of WGAN-GP."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genlab.core.contract import Generator, Network, Spec
from genlab.core.registry import register
from genlab.core.schema import Count
from genlab.nn.double_backward import LeakyReLU, conv2d
from genlab.nn.embed import LabelEmbedding

__all__ = ["ResNetDiscriminator", "ResNetGenerator"]


def _plan(spec: Spec) -> tuple[int, int]:
    """(channels, doublings from 4 pixels to the side): 32 -> 3."""
    spec.require("images", "resnet_gan", "network=mlp_gan and codec=points")
    channels, height, side = spec.shape
    doublings = round(math.log2(max(side, 1) / 4))
    if height != side or side != 4 << max(doublings, 1):
        raise ValueError(
            f"resnet_gan takes square images of 8, 16, 32, 64, ... pixels, not {height}x{side}; "
            "set data.size"
        )
    return channels, doublings


class _Conv(nn.Module):
    """A convolution that keeps the size, between resamplings that are folded into it.

    up: nearest neighbour before it. down: mean of 2x2 pixels after it. Both are linear, so with a
    3x3 kernel the two together are one 4x4 kernel of stride 2, for half the work. A 1x1 kernel
    commutes with them: up follows it, down makes it a 2x2 kernel of stride 2.

    The start is uniform of deviation gain sqrt(2 / (fan in + fan out)), biases are 0.
    """

    def __init__(
        self,
        inside: int,
        outside: int,
        kernel: int,
        *,
        up: bool = False,
        down: bool = False,
        gain: float = math.sqrt(2),
    ) -> None:
        super().__init__()
        self.up, self.down, self.padding = up, down, kernel // 2
        self.weight = nn.Parameter(torch.empty(outside, inside, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outside))
        nn.init.xavier_uniform_(self.weight, gain)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> [B, C', H, W], or twice or half the size."""
        weight, bias = self.weight, self.bias
        if not self.padding:
            if self.down:
                return conv2d(x, weight.expand(-1, -1, 2, 2) / 4, bias, 2, 0)
            return F.interpolate(conv2d(x, weight, bias, 1, 0), scale_factor=2.0)
        if self.down:
            return conv2d(x, _pooled(weight), bias, 2, 1)
        if self.up:  # nearest neighbour is 4 times the transpose of the mean
            swapped = weight.transpose(0, 1).flip(2, 3)
            return F.conv_transpose2d(x, 4 * _pooled(swapped), bias, 2, 1)
        return conv2d(x, weight, bias, 1, 1)


def _pooled(weight: Tensor) -> Tensor:
    """[C', C, 3, 3] -> [C', C, 4, 4]: the mean of the kernel at the pixels of a 2x2 square."""
    return F.avg_pool2d(F.pad(weight, (1, 1, 1, 1)), 2, stride=1)


class _BatchNorm(nn.BatchNorm2d):
    """Batch normalization, its scale and shift those of a label if there are labels."""

    def __init__(self, channels: int, classes: int | None) -> None:
        super().__init__(channels, affine=classes is None)
        self.label = LabelEmbedding(classes, 2 * channels) if classes is not None else None
        if self.label is not None:
            nn.init.zeros_(self.label.weight)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """x [B, C, H, W], y [B] or None -> [B, C, H, W]."""
        x = super().forward(x)
        if self.label is None:
            return x
        scale, shift = self.label(y, len(x)).to(x.dtype)[:, :, None, None].chunk(2, 1)
        return torch.addcmul(shift, x, 1 + scale)


class _UpBlock(nn.Module):
    """x upsampled, plus two normalized convolutions."""

    def __init__(self, width: int, classes: int | None) -> None:
        super().__init__()
        self.norms = nn.ModuleList([_BatchNorm(width, classes), _BatchNorm(width, classes)])
        self.convs = nn.ModuleList([_Conv(width, width, 3, up=True), _Conv(width, width, 3)])
        self.skip = _Conv(width, width, 1, up=True, gain=1)

    def forward(self, x: Tensor, y: Tensor | None) -> Tensor:
        """x [B, D, H, W] -> [B, D, 2 H, 2 W]."""
        h = x
        for norm, conv in zip(self.norms, self.convs, strict=True):
            h = conv(F.relu(norm(h, y)))
        return h + self.skip(x)


class _DownBlock(nn.Module):
    """x, halved where asked, plus two convolutions without normalization.

    first: the block that sees the image, whose first convolution is not activated.
    """

    def __init__(self, inside: int, width: int, *, down: bool, first: bool = False) -> None:
        super().__init__()
        act = LeakyReLU(0.0)  # the second derivative of ReLU that is cheap
        self.body = nn.Sequential(
            *([] if first else [act]),
            _Conv(inside, width, 3),
            act,
            _Conv(width, width, 3, down=down),
        )
        self.skip = _Conv(inside, width, 1, down=True, gain=1) if down else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> [B, D, H, W], or half the size."""
        return self.body(x) + self.skip(x)


@register("resnet_generator")
class ResNetGenerator(Generator):
    """Residual blocks from a latent vector to an image.

    z -> linear -> 4x4 map -> doubled k times -> BN, ReLU, conv -> tanh

    With labels, the scales and shifts of the normalizations in the blocks are those of the label.

    Reference: Gulrajani et al. 2017, arXiv 1704.00028, the ResNet for CIFAR-10; conditional
    normalization: de Vries et al. 2017, arXiv 1707.00683.
    """

    def __init__(self, spec: Spec, *, width: Count, z_dim: Count) -> None:
        """spec: shape (C, H, W), labels K or None; width: channels of every map."""
        super().__init__()
        channels, doublings = _plan(spec)
        self.z_dim = z_dim
        self.stem = nn.Linear(z_dim, 16 * width)
        self.blocks = nn.ModuleList(_UpBlock(width, spec.classes) for _ in range(doublings))
        self.norm = _BatchNorm(width, None)
        self.head = _Conv(width, channels, 3, gain=1)
        nn.init.xavier_uniform_(self.stem.weight)
        nn.init.zeros_(self.stem.bias)

    def forward(self, z: Tensor, y: Tensor | None) -> Tensor:
        """z [B, Z], y [B] or None -> [B, C, H, W] float32 in [-1, 1]."""
        h = self.stem(z).unflatten(1, (4, 4, -1)).permute(0, 3, 1, 2)  # a view in channels_last
        for block in self.blocks:
            h = block(h, y)
        return self.head(F.relu(self.norm(h))).float().tanh()


@register("resnet_discriminator")
class ResNetDiscriminator(Network):
    """Residual blocks without normalization from an image to a score.

    halved to 8 pixels (8 to 4) -> two blocks -> ReLU -> h, the mean over the pixels
    score = linear(h) + <label(y), h>

    Reference: Gulrajani et al. 2017, arXiv 1704.00028, the ResNet for CIFAR-10; the projection on
    the label, in place of a classifier's loss: Miyato and Koyama 2018, arXiv 1802.05637, eq. 9.
    """

    def __init__(self, spec: Spec, *, width: Count) -> None:
        """spec: shape (C, H, W), labels K or None; width: channels of every map."""
        super().__init__()
        channels, doublings = _plan(spec)
        self.body = nn.Sequential(
            _DownBlock(channels, width, down=True, first=True),
            *(_DownBlock(width, width, down=True) for _ in range(doublings - 2)),
            *(_DownBlock(width, width, down=False) for _ in range(2)),
            LeakyReLU(0.0),
        )
        self.head = nn.Linear(width, 1, bias=False)  # differences of scores have none
        self.label = LabelEmbedding(spec.classes, width) if spec.classes is not None else None
        nn.init.xavier_uniform_(self.head.weight)
        if self.label is not None:
            nn.init.normal_(self.label.weight, 0.0, width**-0.5)

    def forward(self, x: Tensor, y: Tensor | None) -> Tensor:
        """x [B, C, H, W], y [B] or None -> scores [B] float32."""
        h = self.body(x).mean((2, 3))
        score = self.head(h).squeeze(1).float()
        if self.label is not None:
            score = score + (self.label(y, len(x)) * h).sum(1).float()
        return score
