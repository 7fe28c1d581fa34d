"""The masks there are: one specification for every kind of Transformer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from genlab.kernel.rank_mask import ALWAYS, NEVER, RankMask, Sides

__all__ = ["ALWAYS", "NEVER", "MaskSpec", "Sides"]


class MaskSpec(RankMask):
    """Which query sees which key: a `RankMask` made by one of the classmethods.

    `padded`, `within`, `sloped` and `with_memory` give any of them padding, a window, ALiBi and
    keys in front.

    Reference: permuted order: Yang et al. 2019, arXiv 1906.08237; prefix: Dong et al. 2019, arXiv
    1905.03197; block-causal: Tian et al. 2024, arXiv 2404.02905.
    """

    @classmethod
    def bidirectional(cls, queries: int, keys: int | None = None) -> MaskSpec:
        """Every query sees every key."""
        return cls(queries, _or(keys, queries), kind="full")

    @classmethod
    def causal(cls, queries: int, keys: int | None = None) -> MaskSpec:
        """Query i sees keys up to i + Sk - Sq: the last query sees them all."""
        return cls(queries, _or(keys, queries), kind="full" if queries == 1 else "causal")

    @classmethod
    def prefix(cls, prefix: int | Tensor, length: int) -> MaskSpec:
        """The first `prefix` tokens see each other; the rest see them and what came before.

        prefix: in 0 .. length, or one for each of the batch, int [B].
        """
        if isinstance(prefix, Tensor) and prefix.dim() != 1:
            raise ValueError(f"prefixes are [B], one a sequence, not {list(prefix.shape)}")
        if isinstance(prefix, int):
            if not 0 <= prefix <= length:
                raise ValueError(f"a prefix of {length} tokens is 0 to {length}, not {prefix}")
            if prefix <= 1:
                return cls.causal(length)
            if prefix == length:
                return cls.bidirectional(length)
            prefix = torch.tensor([prefix])
        at = torch.arange(length, device=prefix.device)
        rank = (at - prefix[:, None] + 1).clamp_min(0)
        return cls(length, length, rank, rank)

    @classmethod
    def block_causal(cls, sizes: Sequence[int]) -> MaskSpec:
        """Blocks of these sizes in order; a token sees its own block and those before it."""
        length = sum(sizes)
        if all(size == 1 for size in sizes):
            return cls.causal(length)
        if len(sizes) == 1:
            return cls.bidirectional(length)
        rank = _repeated(sizes)[None]
        return cls(length, length, rank, rank)

    @classmethod
    def permuted(
        cls,
        order: Tensor,
        targets: Tensor | None = None,
        separators: Tensor | None = None,
        *,
        stream: Literal["content", "query", "both"] = "content",
    ) -> MaskSpec:
        """Tokens predicted in any order, at the places they have.

        order: int [S] or [B, S], when token i has its turn, each a permutation of 0 .. S - 1.
        targets: bool [S] or [B, S], which tokens are predicted (None: all but separators); others
            are known from the start, seen by all and seeing each other.
        separators: bool likewise; not predicted, but seen only from their turn on.
        stream: content, where a token sees itself and what came before it; query, where a target
            sees only what came before it; both, the content queries followed by the query queries,
            2 S of them over S keys.
        """
        none = torch.zeros_like(order, dtype=torch.bool)
        given = (order, _or(targets, ~none), _or(separators, none))
        order, wanted, apart = torch.broadcast_tensors(
            *(t if t.dim() > 1 else t[None] for t in given)
        )
        content = order.where(wanted | apart, -1)
        query = content - (wanted & ~apart).to(content.dtype)
        if stream == "both":
            length = order.shape[1]
            at = torch.arange(length, device=order.device)[None]
            ranks, places = torch.cat([content, query], 1), torch.cat([at, at], 1)
            return cls(2 * length, length, ranks, content, position_q=places, position_k=at)
        rank = content if stream == "content" else query
        return cls(order.shape[1], order.shape[1], rank, content)

    @classmethod
    def sliding_window(
        cls, queries: int, keys: int | None = None, *, left: int, right: int = 0
    ) -> MaskSpec:
        """A query sees `left` keys before its own position and `right` after it; -1 is all."""
        keys = _or(keys, queries)
        left, right = -1 if left >= keys - 1 else left, -1 if right >= queries - 1 else right
        if (left, right) == (-1, -1):
            return cls.bidirectional(queries, keys)
        if (left, right) == (-1, 0):
            return cls.causal(queries, keys)
        return cls(queries, keys, window=(left, right))

    @classmethod
    def packed(
        cls, lengths: Sequence[int], key_lengths: Sequence[int] | None = None, *, causal: bool
    ) -> MaskSpec:
        """Sequences of these lengths one behind the other, blind to each other.

        key_lengths: of their keys, when they are not the queries'. causal: each is, with its last
        query at its last key; else each sees all of itself.
        """
        key_lengths = lengths if key_lengths is None else key_lengths
        if len(lengths) != len(key_lengths):
            raise ValueError(
                f"{len(lengths)} sequences of queries are packed with {len(key_lengths)} of keys"
            )
        if len(lengths) == 1:
            kind = cls.causal if causal else cls.bidirectional
            return kind(lengths[0], key_lengths[0])
        queries, keys = sum(lengths), sum(key_lengths)
        q, k = (torch.tensor(list(ns), dtype=torch.int64) for ns in (lengths, key_lengths))
        segment_q, segment_k = _repeated(lengths), _repeated(key_lengths)
        at_q = torch.arange(queries) - (q.cumsum(0) - k)[segment_q]  # the last at the last key
        at_k = torch.arange(keys) - (k.cumsum(0) - k)[segment_k]
        return cls(
            queries,
            keys,
            at_q[None] if causal else None,
            at_k[None] if causal else None,
            segment_q[None],
            segment_k[None],
            at_q[None],
            at_k[None],
        )

    # --- what any of them may have -----------------------------------------------------------

    def within(self, left: int, right: int = -1) -> MaskSpec:
        """The same mask inside a window, too; (left, right) as in `sliding_window`."""
        both = zip(self.window, (left, right), strict=True)
        narrower = tuple(max(b) if min(b) == -1 else min(b) for b in both)  # -1 is the widest
        return self._ranked(window=narrower)

    def sloped(self, slopes: Tensor) -> MaskSpec:
        """The same mask with ALiBi; slopes [Hq], as of `nn.position.alibi_slopes`."""
        return replace(self, slopes=slopes, cache={})

    def padded(self, valid: Tensor) -> MaskSpec:
        """The same mask where some keys are not there; valid bool [Sk] or [B, Sk]."""
        valid = valid[None] if valid.dim() == 1 else valid
        return self._ranked(valid=valid if self.valid is None else valid & self.valid)

    def with_memory(self, keys: int) -> MaskSpec:
        """The same mask with this many more keys in front, which every query sees.

        To be added last: a window or ALiBi put on it afterwards would count them as tokens.
        """
        if self.segment_k is not None or self.window != (-1, -1) or self.slopes is not None:
            raise ValueError("memory keys have no segment and no position for a window or ALiBi")
        full = self._ranked()
        assert full.rank_k is not None
        rank_k = torch.nn.functional.pad(full.rank_k, (keys, 0), value=ALWAYS)
        valid = self.valid
        if valid is not None:
            valid = torch.nn.functional.pad(valid, (keys, 0), value=True)
        return MaskSpec(self.queries, self.keys + keys, full.rank_q, rank_k, valid=valid)

    def _ranked(self, **changed: Any) -> MaskSpec:
        """The same mask as ranks, where a kind by name would no longer tell all of it."""
        written = self.kind == "causal" or not changed
        q, k = self.ranks() if written else (self.rank_q, self.rank_k)
        return replace(self, rank_q=q, rank_k=k, kind="rank_mask", cache={}, **changed)


def _or(given: Any, otherwise: Any) -> Any:
    return otherwise if given is None else given


def _repeated(counts: Sequence[int]) -> Tensor:
    """int64 [sum]: i, counts[i] times, for every i."""
    many = torch.tensor(list(counts), dtype=torch.int64)
    return torch.arange(len(many)).repeat_interleave(many, output_size=sum(counts))
