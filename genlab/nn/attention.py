"""Self-attention of tokens and of pixels, on the backend of the hardware."""

from __future__ import annotations

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genlab.kernel.backend import BackendName
from genlab.kernel.dispatch import attention
from genlab.kernel.mask import MaskSpec
from genlab.nn.norm import GroupNorm, RMSNorm
from genlab.nn.rotary import Rotary, rotate

__all__ = ["AttentionLayer", "Cache", "SelfAttention", "SelfAttention2d", "attention"]


class AttentionLayer(nn.Module):
    """A layer with attention inside.

    backend: as hardware.attention, set when a model is placed on its device. double_backward: the
    model takes second derivatives, which only `kernel.math` has. head_width: D of a head. dropout:
    of its attention weights.
    """

    head_width: int = 64
    dropout: float = 0.0
    backend: BackendName = "auto"
    double_backward: bool = False

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
            double_backward=self.double_backward,
        )


class Cache(Protocol):
    """Keys and values of the tokens before, of one layer."""

    def put(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """k, v [B, Hkv, T, D] of new tokens -> those of all tokens the mask is for."""
        ...


class SelfAttention(AttentionLayer):
    """Self-attention over tokens.

    W_o softmax(q k^T / sqrt(D)) v,  (q, k, v) = W h, a head of D numbers at a time

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

        dropout: of the attention weights, in [0, 1). Raises ValueError for others, and for widths
        and heads that do not fit.
        """
        super().__init__()
        if not 0 <= dropout < 1:
            raise ValueError(
                f"dropout of attention weights is at least 0 and below 1, and not {dropout}: "
                "it would leave none; use a smaller one"
            )
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
        self.norm_q = RMSNorm(head_width) if qk_norm else None
        self.norm_k = RMSNorm(head_width) if qk_norm else None
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
        new ones are added; with it mask and position have to be given, the mask for all of them.
        Raises ValueError where they are not.
        """
        turned = self.rotary is not None or self.logn is not None
        if cache is not None and (mask is None or (turned and position is None)):
            raise ValueError(
                "a cache does not say which of its places are filled, nor where new tokens stand; "
                "give the mask, and the positions for rotary and logn"
            )
        q, k, v = self._projected(h, sources)
        if self.norm_q is not None and self.norm_k is not None:
            q, k = self.norm_q(q), self.norm_k(k)
        if turned and position is None:
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


class SelfAttention2d(SelfAttention):
    """Residual self-attention, every pixel a token.

    x + W_o softmax(q k^T / sqrt(D)) v,  (q, k, v) = W norm(x)

    W_o starts at zero, so the layer starts as the identity. In channels_last the tokens are a view
    of the feature map: nothing is copied on the way in or out.

    Reference: Ho et al. 2020, arXiv 2006.11239, appendix B.
    """

    def __init__(
        self, channels: int, head_width: int, skip_scale: float = 1.0, eps: float = 1e-5
    ) -> None:
        """channels: C; head_width: D, has to divide C; skip_scale: of the sum with x; eps: of
        the norm."""
        super().__init__(channels, head_width)
        self.skip_scale = skip_scale
        qkv, out = self.qkv, self.out
        del self.qkv, self.out  # optimizers of checkpoints know parameters by their order
        self.norm, self.qkv, self.out = GroupNorm(channels, eps), qkv, out
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> [B, C, H, W]."""
        tokens = self.norm(x).permute(0, 2, 3, 1).flatten(1, 2)  # [B, T, C]
        mixed = super().forward(tokens).unflatten(1, x.shape[2:])
        x = x + mixed.permute(0, 3, 1, 2)
        return x if self.skip_scale == 1 else x * self.skip_scale
