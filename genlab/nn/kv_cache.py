"""Keys and values of tokens already read, for drawing one after another."""

from __future__ import annotations

import torch
from torch import Tensor

from genlab.kernel.mask import MaskSpec

__all__ = ["KVCache"]


class KVCache:
    """Room for the keys and values of M tokens, in every layer of a network.

    No shape depends on how many are there: `filled` is a tensor, what lies behind it is hidden by
    the ranks of the mask, and nothing is read from the device. So one compiled step serves every
    token, whatever its position. No gradients go through it.

    layers: one `LayerCache` a layer, what attention puts its keys and values into. filled: int32
    [1], tokens that are there.
    """

    def __init__(
        self,
        layers: int,
        batch: int,
        heads: int,
        length: int,
        width: int,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """heads: Hkv, of the keys; length: M; width: D, of a head; dtype: that of the keys."""
        self.length = length
        self.filled = torch.zeros(1, dtype=torch.int32, device=device)
        self.places = torch.arange(length, dtype=torch.int32, device=device)[None]
        shape = (batch, heads, length, width)
        self.layers = [
            LayerCache(*torch.zeros(2, *shape, device=device, dtype=dtype), self.filled)
            for _ in range(layers)
        ]

    def mask(self, queries: int, *, whole: bool = False) -> MaskSpec:
        """Which of the M places the next tokens see: [queries, M].

        Those before them and, of themselves, what a causal mask shows; whole: all of themselves,
        as for the prefix of a text.
        """
        at = self.filled + torch.arange(queries, dtype=torch.int32, device=self.filled.device)
        at = at[None]
        return MaskSpec(
            queries,
            self.length,
            at[:, -1:].expand(1, queries) if whole else at,
            self.places,
            position_q=at,
            position_k=self.places,
            window=(-1, -1 if whole else 0),  # as the ranks have it: nothing lies after
        )

    def advance(self, tokens: int) -> None:
        """Says that every layer has taken this many more."""
        self.filled += tokens


class LayerCache:
    """Keys and values of one layer, [B, Hkv, M, D] each."""

    def __init__(self, k: Tensor, v: Tensor, filled: Tensor) -> None:
        self.k, self.v, self.filled = k, v, filled

    def put(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """k, v [B, Hkv, T, D] of the next T tokens, T at least 1 -> all M, [B, Hkv, M, D] each.

        More tokens than there is room for are an error of torch, on a GPU an asynchronous one:
        the caller has to count.
        """
        at = self.filled + torch.arange(k.shape[2], device=k.device)
        self.k.index_copy_(2, at, k.detach().to(self.k.dtype))
        self.v.index_copy_(2, at, v.detach().to(self.v.dtype))
        return self.k, self.v
