"""Layers that keep the magnitude: variance 1 in, variance 1 out.

No layer has a bias, and none but the head a learned scale. Weights are normalized where they are
used, so that the gradient only turns them, and forced back to that length after every step
(`normalize_weights`), so that the rate at which they turn is the learning rate and does not fade
as they grow.

Reference: Karras et al. 2024, arXiv 2312.02696, section 2 and appendix B.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genlab.nn.attention import AttentionLayer

__all__ = [
    "Attention2d",
    "Conv",
    "Labels",
    "Linear",
    "normalize_weights",
    "pixel_norm",
    "silu",
    "weighted_cat",
    "weighted_sum",
]

SILU = 0.5965
"""Root mean square of SiLU of a standard normal number, sqrt(E silu(z)^2)."""

LEAST = 1e-4
"""Added to a root mean square that is divided by: of features that vanish, noise would be left."""


def silu(x: Tensor) -> Tensor:
    """SiLU(x) / 0.5965, whose mean square is 1 for standard normal x."""
    return F.silu(x) / SILU


def weighted_sum(a: Tensor, b: Tensor, t: float) -> Tensor:
    """((1 - t) a + t b) / sqrt((1 - t)^2 + t^2), of variance 1 as independent a and b are."""
    return a.lerp(b, t) / math.hypot(1 - t, t)


def weighted_cat(a: Tensor, b: Tensor, t: float = 0.5) -> Tensor:
    """a [B, M, H, W] and b [B, N, H, W] side by side, with shares 1 - t and t of what follows.

    sqrt((M + N) / ((1 - t)^2 + t^2)) [(1 - t) / sqrt(M) a, t / sqrt(N) b]

    As they are, the wider of two would have the larger share.
    """
    m, n = a.shape[1], b.shape[1]
    scale = math.sqrt(m + n) / math.hypot(1 - t, t)
    parts = [a * (scale * (1 - t) / math.sqrt(m)), b * (scale * t / math.sqrt(n))]
    return torch.cat(parts, dim=1)


def pixel_norm(x: Tensor, dim: int = 1) -> Tensor:
    """x divided by the root of its mean square over `dim`."""
    wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    root = wide.square().mean(dim, keepdim=True).sqrt() + LEAST
    return (wide / root).to(x.dtype)


def _long(weight: Tensor) -> Tensor:
    """The rows of a weight [O, ...] with mean square 1, in float32 at least."""
    rows = weight.flatten(1)
    return (rows / rows.square().mean(1, keepdim=True).sqrt()).view_as(weight)


class _Forced(nn.Module):
    """A weight [O, ...] whose rows have mean square 1, which is stored and learned at that."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(*shape))
        self.normalize_weights()

    @torch.no_grad()
    def normalize_weights(self) -> None:
        """Brings the rows back to their length after a step."""
        self.weight.copy_(_long(self.weight))

    def unit(self) -> Tensor:
        """The rows with norm 1, so that products with variance 1 have variance 1."""
        return _long(self.weight) / math.sqrt(self.weight[0].numel())


def normalize_weights(network: nn.Module) -> None:
    """Brings all weights of a network back to their length."""
    for module in network.modules():
        if isinstance(module, _Forced):
            module.normalize_weights()


class Linear(_Forced):
    """y = W x / |W|, row by row."""

    def __init__(self, inside: int, outside: int) -> None:
        """inside, outside: numbers of a vector."""
        super().__init__(outside, inside)

    def forward(self, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        """x [..., inside], gain [] -> [..., outside]."""
        return F.linear(x, self.unit() * gain)


class Conv(_Forced):
    """A convolution with filters of norm 1, which pads with zeros."""

    def __init__(self, inside: int, outside: int, kernel: int) -> None:
        """inside, outside: channels; kernel: odd."""
        super().__init__(outside, inside, kernel, kernel)

    def forward(self, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        """x [B, inside, H, W], gain [] -> [B, outside, H, W]."""
        return F.conv2d(x, self.unit() * gain, padding=self.weight.shape[-1] // 2)


class Labels(_Forced):
    """Vectors of mean square 1 of K labels and, in the last row, of no label."""

    def __init__(self, classes: int, width: int) -> None:
        """classes: K; width: of the vectors."""
        super().__init__(classes + 1, width)

    def forward(self, y: Tensor | None, n: int) -> Tensor:
        """y [n] int64 in -1 .. K, or None -> [n, width]."""
        table = _long(self.weight)
        if y is None:
            return table[-1].expand(n, -1)
        return F.embedding(y.where(y >= 0, len(table) - 1), table)


class Attention2d(AttentionLayer):
    """Self-attention over pixels between x and a branch, with q, k and v of mean square 1.

    weighted_sum(x, W_o softmax(q k^T / sqrt(D)) v, balance)

    q k^T is then sqrt(D) times a cosine. Means of values are smaller than values: where attention
    is spread over many pixels, the branch is small.
    """

    def __init__(self, channels: int, head_width: int, balance: float) -> None:
        """channels: C; head_width: D, has to divide C; balance: share of the branch, in [0, 1]."""
        super().__init__()
        if channels % head_width:
            raise ValueError(
                f"{channels} channels need a head_width that divides them, "
                f"and {head_width} does not"
            )
        self.head_width, self.balance = head_width, balance
        self.qkv, self.out = Conv(channels, 3 * channels, 1), Conv(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> [B, C, H, W]."""
        tokens = self.qkv(x).permute(0, 2, 3, 1).flatten(1, 2)  # [B, T, 3 C]
        heads = tokens.unflatten(2, (3, -1, self.head_width)).permute(2, 0, 3, 1, 4)
        q, k, v = pixel_norm(heads, -1)  # [B, heads, T, D] each
        mixed = self.attend(q, k, v).transpose(1, 2).flatten(2).unflatten(1, x.shape[2:])
        return weighted_sum(x, self.out(mixed.permute(0, 3, 1, 2)).to(x.dtype), self.balance)
