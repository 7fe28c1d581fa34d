"""The layers of Transformers: a perceptron, and two kinds of blocks."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from genlab.kernel.mask import MaskSpec
from genlab.nn.attention import Cache, SelfAttention
from genlab.nn.norm import LayerNorm

__all__ = ["MLP", "AdaLNBlock", "Block"]


class MLP(nn.Sequential):
    """W2 gelu(W1 h), token by token.

    gelu(x) = x P(z <= x), z standard normal, or x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2

    Reference: Hendrycks and Gimpel 2016, arXiv 1606.08415.
    """

    def __init__(self, width: int, hidden: int, gelu: Literal["exact", "tanh"] = "exact") -> None:
        """width: C of the tokens; hidden: numbers between W1 and W2.

        Raises ValueError without any.
        """
        if hidden < 1:
            raise ValueError(
                f"a perceptron of tokens of {width} numbers has {hidden} inside; use a larger mlp"
            )
        act = nn.GELU("tanh" if gelu == "tanh" else "none")
        super().__init__(nn.Linear(width, hidden), act, nn.Linear(hidden, width))


class Block(nn.Module):
    """A layer of a Transformer, normalized first.

    h += attention(norm(h)),  h += MLP(norm(h))

    dropout: of what is added.

    Reference: Vaswani et al. 2017, arXiv 1706.03762, with the norms of Xiong et al. 2020, arXiv
    2002.04745.
    """

    def __init__(
        self, width: int, attention: SelfAttention, mlp: nn.Module, dropout: float = 0.0
    ) -> None:
        """width: C of the tokens; the two layers keep it."""
        super().__init__()
        self.norm1, self.norm2 = LayerNorm(width), LayerNorm(width)
        self.attention, self.mlp = attention, mlp
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        h: Tensor,
        mask: MaskSpec | None = None,
        position: Tensor | None = None,
        sources: int | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """h [B, T, C] -> [B, T, C]; the rest as for `SelfAttention`."""
        mixed = self.attention(self.norm1(h), mask, position, sources, cache)
        h = h + self.dropout(mixed)
        return h + self.dropout(self.mlp(self.norm2(h)))


class AdaLNBlock(nn.Module):
    """A layer of a Transformer whose norms and gates are set by a condition (adaLN-zero).

    h += g1 attention((1 + s1) norm(h) + b1),  h += g2 MLP((1 + s2) norm(h) + b2),
    (b1, s1, g1, b2, s2, g2) = W e

    W starts at zero, so the block starts as the identity. dropout: of what is added.

    Reference: Peebles and Xie 2023, arXiv 2212.09748, section 3.2.
    """

    def __init__(
        self,
        width: int,
        embedding: int,
        attention: SelfAttention,
        mlp: nn.Module,
        dropout: float = 0.0,
    ) -> None:
        """width: C of the tokens, which the two layers keep; embedding: E of the condition."""
        super().__init__()
        self.norm1, self.norm2 = LayerNorm(width, affine=False), LayerNorm(width, affine=False)
        self.attention, self.mlp = attention, mlp
        self.modulation = nn.Linear(embedding, 6 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, h: Tensor, e: Tensor, mask: MaskSpec | None = None, position: Tensor | None = None
    ) -> Tensor:
        """h [B, T, C], e [B, E] -> [B, T, C]; mask and position as for `SelfAttention`."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(e).chunk(6, 1)
        mixed = self.attention(self.norm1(h, scale1, shift1), mask, position)
        h = torch.addcmul(h, gate1[:, None], self.dropout(mixed))
        more = self.mlp(self.norm2(h, scale2, shift2))
        return torch.addcmul(h, gate2[:, None], self.dropout(more))
