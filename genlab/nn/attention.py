"""Layers with attention: what knows its backend, and attention over a feature map."""

from __future__ import annotations

from torch import Tensor, nn

from genlab.kernel.dispatch import Backend, attention
from genlab.kernel.mask import MaskSpec
from genlab.nn.norm import GroupNorm

__all__ = ["Attends", "SelfAttention2d", "attention"]


class Attends(nn.Module):
    """A layer with attention inside.

    backend: who computes it, set by the hardware when a model is placed. twice: the model takes
    second derivatives, so that the products are written out. head_width: numbers of a head.
    """

    head_width: int = 64
    backend: Backend = "auto"
    twice: bool = False

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, mask: MaskSpec | None = None, dropout: float = 0.0
    ) -> Tensor:
        """`attention` on the backend of this layer; dropout: while training."""
        return attention(
            q,
            k,
            v,
            mask,
            dropout=dropout if self.training else 0.0,
            backend=self.backend,
            twice=self.twice,
        )


class SelfAttention2d(Attends):
    """Residual self-attention, every pixel a token.

    x + W_o softmax(q k^T / sqrt(D)) v,  (q, k, v) = W norm(x)

    W_o starts at zero, so the layer starts as the identity. In channels_last the tokens are a view
    of the feature map: nothing is copied on the way in or out.

    Reference: Ho et al. 2020, arXiv 2006.11239, appendix B.
    """

    def __init__(self, channels: int, head_width: int) -> None:
        """channels: C; head_width: D, has to divide C."""
        super().__init__()
        if channels % head_width:
            raise ValueError(
                f"attention over {channels} channels needs a head_width that divides them, "
                f"and {head_width} does not"
            )
        self.heads, self.head_width = channels // head_width, head_width
        self.norm = GroupNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> [B, C, H, W]."""
        b, c, height, width = x.shape
        tokens = self.norm(x).permute(0, 2, 3, 1).flatten(1, 2)  # [B, T, C]
        qkv = self.qkv(tokens).view(b, height * width, 3, self.heads, c // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each [B, heads, T, D]
        mixed = self.attend(q, k, v).transpose(1, 2).flatten(2)
        out = self.out(mixed).view(b, height, width, c)
        return x + out.permute(0, 3, 1, 2)
