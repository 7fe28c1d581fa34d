"""The layers of Transformers: self-attention, perceptron, and two kinds of blocks."""

from __future__ import annotations

import math
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genlab.kernel.mask import MaskSpec
from genlab.nn.attention import Attends
from genlab.nn.norm import LayerNorm, RMSNorm
from genlab.nn.rotary import Rotary, rotate

__all__ = ["MLP", "AdaLNBlock", "Block", "Cache", "SelfAttention"]


class Cache(Protocol):
    """Keys and values of the tokens before, of one layer."""

    def put(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """k, v [B, Hkv, T, D] of new tokens -> those of all tokens the mask is for."""
        ...


class SelfAttention(Attends):
    """Self-attention over tokens.

    W_o softmax(q k^T / sqrt(D)) v,  (q, k, v) = W norm(h), a head of D numbers at a time

    qk_norm: q and k of a head are normalized, RMSNorm with weights of their own, before they are
    rotated. rotary: turns q and k by their positions. logn: L, the length of training; q at
    position t is multiplied by max(1, ln(t + 1) / ln L).

    Reference: shared keys: Ainslie et al. 2023, arXiv 2305.13245; normalized q and k: Henry et al.
    2020, arXiv 2010.04245, and Dehghani et al. 2023, arXiv 2302.05442, section 2.
    """

    def __init__(
        self,
        width: int,
        head_width: int,
        *,
        kv_heads: int | None = None,
        qk_norm: bool = False,
        rotary: Rotary | None = None,
        logn: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        """width: C; head_width: D, has to divide C; kv_heads: Hkv, None for one a query head.

        dropout: of the attention weights. Raises ValueError for widths and heads that do not fit.
        """
        super().__init__()
        if width % head_width:
            raise ValueError(
                f"tokens of {width} numbers need a head_width that divides them, "
                f"and {head_width} does not"
            )
        self.heads = width // head_width
        self.kv_heads = self.heads if kv_heads is None else kv_heads
        if self.heads % self.kv_heads:
            raise ValueError(
                f"{self.heads} heads cannot share {self.kv_heads} key heads evenly; "
                "use a kv_heads that divides them"
            )
        if logn is not None and logn < 2:
            raise ValueError(f"LogN scaling needs a length of training of 2 or more, not {logn}")
        self.head_width, self.logn, self.dropout = head_width, logn, dropout
        self.qkv = nn.Linear(width, (self.heads + 2 * self.kv_heads) * head_width)
        self.norm_q = RMSNorm(head_width) if qk_norm else nn.Identity()
        self.norm_k = RMSNorm(head_width) if qk_norm else nn.Identity()
        self.rotary = rotary
        self.out = nn.Linear(width, width)

    def forward(
        self,
        h: Tensor,
        mask: MaskSpec | None = None,
        position: Tensor | None = None,
        sources: int | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """h [B, T, C] -> [B, T, C].

        mask: None is bidirectional. position: [T] or [B, T], or [T, 2] of rows and columns for a
        rotary of the plane; 0 .. T - 1 by default. sources: how many tokens, the first ones, give
        keys and values; all by default. cache: where those of earlier tokens are, to which the
        new ones are added; its mask is for all of them.
        """
        q, k, v = self._projected(h, sources)
        q, k = self.norm_q(q), self.norm_k(k)
        if position is None and (self.rotary is not None or self.logn is not None):
            position = torch.arange(h.shape[1], device=h.device)
        if self.rotary is not None:
            wide = torch.float64 if q.dtype == torch.float64 else torch.float32
            cos, sin = self.rotary.table(position, wide)
            keys = k.shape[2]
            q, k = rotate(q, cos, sin), rotate(k, cos[..., :keys, :], sin[..., :keys, :])
        if self.logn is not None:
            q = q * self._stretch(position).to(q.dtype)
        if cache is not None:
            k, v = cache.put(k, v)
        mixed = self.attend(q, k, v, mask, self.dropout)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def _projected(self, h: Tensor, sources: int | None) -> tuple[Tensor, Tensor, Tensor]:
        """(q [B, H, T, D], k, v [B, Hkv, sources, D]), views of one product or two."""
        groups = [self.heads, self.kv_heads, self.kv_heads]
        if sources is None:
            return self._heads(self.qkv(h)).split(groups, 1)
        at = self.heads * self.head_width
        weight, bias = self.qkv.weight, self.qkv.bias
        q = self._heads(F.linear(h, weight[:at], bias[:at]))
        kv = self._heads(F.linear(h[:, :sources], weight[at:], bias[at:]))
        return q, *kv.split(groups[1:], 1)

    def _heads(self, t: Tensor) -> Tensor:
        """[B, T, H D] -> [B, H, T, D]."""
        return t.unflatten(2, (-1, self.head_width)).transpose(1, 2)

    def _stretch(self, position: Tensor) -> Tensor:
        """max(1, ln(t + 1) / ln L), [T, 1] or [B, 1, T, 1] float32."""
        stretch = (position.float() + 1).log() / math.log(self.logn)
        stretch = stretch.clamp_min(1)[..., None]
        return stretch if position.dim() == 1 else stretch[:, None]


class MLP(nn.Sequential):
    """W2 gelu(W1 h), token by token.

    gelu: "none", the exact one, or "tanh", the approximation with it, which takes three times as
    long in bf16 on a CPU.

    Reference: Hendrycks and Gimpel 2016, arXiv 1606.08415.
    """

    def __init__(self, width: int, hidden: int, gelu: Literal["none", "tanh"] = "none") -> None:
        """width: C of the tokens; hidden: numbers between W1 and W2."""
        super().__init__(nn.Linear(width, hidden), nn.GELU(gelu), nn.Linear(hidden, width))


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
