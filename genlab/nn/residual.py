"""The residual blocks of U-Nets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from genlab.nn.attention import SelfAttention2d
from genlab.nn.norm import GroupNorm
from genlab.nn.resample import grow, shrink

__all__ = ["Block", "Layer", "Style", "zero"]


def zero(layer: nn.Conv2d) -> nn.Conv2d:
    """The layer with all weights zero."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


@dataclass(frozen=True)
class Style:
    """What all blocks of a network have in common.

    embedding: numbers of the condition. modulation: what it does to a block's second
    normalization. skip_scale: what the sum of a branch and its skip is multiplied by; 1 / sqrt 2
    keeps the variance. fir: sizes are changed with the filter 1-3-3-1. project: a skip that
    changes the size has a 1x1 convolution, as one that changes the channels. eps: of the norms.
    """

    embedding: int
    modulation: Literal["scale_shift", "shift"] = "scale_shift"
    skip_scale: float = 1.0
    fir: bool = False
    project: bool = False
    eps: float = 1e-5


class Block(nn.Module):
    """Residual block whose second normalization is scaled and shifted by the condition.

    skip(x) + conv(SiLU((1 + s) norm(conv(SiLU(norm(x)))) + b)),  (s, b) = W e

    With the modulation `shift`, conv(SiLU(norm(conv(SiLU(norm(x))) + b))) as in DDPM. A block that
    changes the size does so to its skip and before its first convolution.

    The second convolution starts at zero, so the block starts as its skip.

    Reference: Dhariwal and Nichol 2021, arXiv 2105.05233, section 3; changes of size: Brock et al.
    2019, arXiv 1809.11096, appendix B.
    """

    def __init__(
        self,
        inside: int,
        outside: int,
        dropout: float,
        style: Style,
        size: Literal["same", "half", "double"] = "same",
    ) -> None:
        """inside, outside: channels; size: of the result."""
        super().__init__()
        self.norm1 = GroupNorm(inside, style.eps)
        self.conv1 = nn.Conv2d(inside, outside, 3, padding=1)
        self.scaled = style.modulation == "scale_shift"
        self.affine = nn.Linear(style.embedding, (1 + self.scaled) * outside)
        self.norm2 = GroupNorm(outside, style.eps)
        self.conv2 = zero(nn.Conv2d(outside, outside, 3, padding=1))
        projects = inside != outside or (style.project and size != "same")
        self.skip = nn.Conv2d(inside, outside, 1) if projects else nn.Identity()
        self.dropout, self.size, self.style = dropout, size, style

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        """x [B, inside, H, W], e [B, E] -> [B, outside, H, W], or half or twice the sides."""
        h = self.conv1(self._resized(F.silu(self.norm1(x))))
        if self.scaled:
            h = self.norm2(h, *self.affine(e).chunk(2, dim=1))
        else:
            h = self.norm2(h + self.affine(e)[:, :, None, None])
        h = F.silu(h)
        if self.dropout:
            h = F.dropout(h, self.dropout, self.training)
        h = self.skip(self._resized(x)) + self.conv2(h)
        return h if self.style.skip_scale == 1 else h * self.style.skip_scale

    def _resized(self, x: Tensor) -> Tensor:
        if self.size == "same":
            return x
        return (shrink if self.size == "half" else grow)(x, self.style.fir)


class Layer(nn.Module):
    """One residual block, and attention after it where asked."""

    def __init__(
        self, inside: int, outside: int, dropout: float, style: Style, head_width: int | None
    ) -> None:
        """head_width: channels of an attention head, None without attention."""
        super().__init__()
        self.block = Block(inside, outside, dropout, style)
        self.attention = (
            SelfAttention2d(outside, head_width, style.skip_scale, style.eps)
            if head_width
            else nn.Identity()
        )

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        """x [B, inside, H, W], e [B, E] -> [B, outside, H, W]."""
        return self.attention(self.block(x, e))
