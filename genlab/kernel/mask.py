"""Which query sees which key: one specification for every kind of Transformer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

__all__ = ["ALWAYS", "NEVER", "MaskSpec", "Sides"]

ALWAYS = -(2**31)
"""The rank of a key that every query sees."""

NEVER = 2**31 - 1
"""The rank of a key that no query sees."""

UNBOUNDED = 2**30  # a window that ends nowhere; differences of positions stay below it


@dataclass(frozen=True)
class Sides:
    """A mask as a kernel reads it: of every query and key its rank, segment and position.

    q: int32 [R, 3, Sq], k: int32 [R, 3, Sk], R = 1 or the batch. Keys that are not there have rank
    NEVER, and no query has.
    """

    q: Tensor
    k: Tensor


@dataclass(frozen=True, eq=False)
class MaskSpec:
    """Which query sees which key, without a matrix of Sq x Sk.

    allowed(i, j) = rank_k[j] <= rank_q[i]
                    and segment_q[i] == segment_k[j]
                    and -right <= position_q[i] - position_k[j] <= left
                    and valid[j]

    and score(i, j) gains -slopes[h] |position_q[i] - position_k[j]| (ALiBi). Terms that are None
    hold for every pair. Tensors are [R, S], with R = 1 or the batch; heads share them.

    queries, keys: Sq and Sk.
    rank_q, rank_k: int32, both or neither.
    segment_q, segment_k: int32, both or neither; sequences packed into one.
    position_q, position_k: int32; by default the last query stands at the last key.
    window: (left, right), how many keys before and after its own position a query sees; -1 is all.
    valid: bool [R, Sk], False for keys that are padding.
    slopes: float32 [Hq] >= 0, ALiBi's.
    kind: "full" and "causal" masks are known by name, so that a backend may take its fast path;
        anything else is "ranks".

    The constructors are the classmethods; `window`, `slopes` and `valid` are added to any of them
    with `within`, `sloped` and `padded`.

    Reference: the kinds are those of Yang et al. 2019, arXiv 1906.08237 (permuted order), Dong et
    al. 2019, arXiv 1905.03197 (prefix), Tian et al. 2024, arXiv 2404.02905 (block-causal), Press
    et al. 2021, arXiv 2108.12409 (ALiBi).
    """

    queries: int
    keys: int
    rank_q: Tensor | None = None
    rank_k: Tensor | None = None
    segment_q: Tensor | None = None
    segment_k: Tensor | None = None
    position_q: Tensor | None = None
    position_k: Tensor | None = None
    window: tuple[int, int] = (-1, -1)
    valid: Tensor | None = None
    slopes: Tensor | None = None
    kind: Literal["full", "causal", "ranks"] = "ranks"
    cache: dict[Any, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        lengths = {"q": self.queries, "k": self.keys}
        for name in ("rank", "segment", "position"):
            for side, length in lengths.items():
                _check(f"{name}_{side}", getattr(self, f"{name}_{side}"), length)
        _check("valid", self.valid, self.keys)
        for name in ("rank", "segment"):
            if (getattr(self, f"{name}_q") is None) != (getattr(self, f"{name}_k") is None):
                raise ValueError(f"a mask has {name}_q and {name}_k or neither of them")
        if self.slopes is not None and self.slopes.dim() != 1:
            raise ValueError(
                f"ALiBi has one slope a head, [Hq], not a tensor of {list(self.slopes.shape)}"
            )
        if any(bound < -1 for bound in self.window):
            raise ValueError(f"a window is (left, right), each -1 or more, not {self.window}")
        sizes = {len(t) for t in self._tensors().values()} - {1}
        if len(sizes) > 1:
            raise ValueError(f"the tensors of a mask are for batches of {sorted(sizes)}")

    # --- the kinds ---------------------------------------------------------------------------

    @classmethod
    def bidirectional(cls, queries: int, keys: int | None = None) -> MaskSpec:
        """Every query sees every key."""
        return cls(queries, _or(keys, queries), kind="full")

    @classmethod
    def causal(cls, queries: int, keys: int | None = None) -> MaskSpec:
        """Query i sees keys up to i + Sk - Sq: the last query sees them all."""
        return cls(queries, _or(keys, queries), kind="causal")

    @classmethod
    def prefix(cls, prefix: int | Tensor, length: int) -> MaskSpec:
        """The first `prefix` tokens see each other; the rest see them and what came before.

        prefix: in 0 .. length, or one for each of the batch, int [B].
        """
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
        rank = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))[None]
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
        targets: bool like order, which tokens are predicted (None: all); the others are known from
            the start, seen by all and seeing each other.
        separators: bool like order; not predicted, but seen only from their turn on.
        stream: content, where a token sees itself and what came before it; query, where a target
            sees only what came before it; both, the content queries followed by the query queries,
            2 S of them over S keys.
        """
        order = order[None] if order.dim() == 1 else order
        turn = torch.ones_like(order, dtype=torch.bool) if targets is None else targets
        predicted = turn.expand_as(order)
        if separators is not None:
            turn = turn | separators
        content = order.where(turn.expand_as(order), -1)
        query = torch.where(predicted, order - 1, content)
        length = order.shape[1]
        at = torch.arange(length, device=order.device)[None]
        if stream == "both":
            ranks, places = torch.cat([content, query], 1), torch.cat([at, at], 1)
            return cls(2 * length, length, ranks, content, position_q=places, position_k=at)
        return cls(length, length, content if stream == "content" else query, content)

    @classmethod
    def sliding_window(
        cls, queries: int, keys: int | None = None, *, left: int, right: int = 0
    ) -> MaskSpec:
        """A query sees `left` keys before its own position and `right` after it; -1 is all."""
        keys = _or(keys, queries)
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
        q, k = (torch.tensor(list(ns), dtype=torch.int64) for ns in (lengths, key_lengths))
        segments = torch.arange(len(lengths))
        segment_q, segment_k = segments.repeat_interleave(q), segments.repeat_interleave(k)
        at_q = torch.arange(len(segment_q)) - (q.cumsum(0) - q)[segment_q] + (k - q)[segment_q]
        at_k = torch.arange(len(segment_k)) - (k.cumsum(0) - k)[segment_k]
        return cls(
            len(segment_q),
            len(segment_k),
            at_q[None] if causal else None,
            at_k[None] if causal else None,
            segment_q[None],
            segment_k[None],
            at_q[None],
            at_k[None],
        )

    # --- what any of them may have -----------------------------------------------------------

    def within(self, left: int, right: int = -1) -> MaskSpec:
        """The same mask inside a window; (left, right) as in `sliding_window`."""
        return self._ranked(window=(left, right))

    def sloped(self, slopes: Tensor) -> MaskSpec:
        """The same mask with ALiBi; slopes [Hq], as of `nn.position.alibi_slopes`."""
        return replace(self, slopes=slopes, cache={})

    def padded(self, valid: Tensor) -> MaskSpec:
        """The same mask where some keys are not there; valid bool [Sk] or [B, Sk]."""
        return self._ranked(valid=valid[None] if valid.dim() == 1 else valid)

    def with_memory(self, keys: int) -> MaskSpec:
        """The same mask with this many more keys in front, which every query sees."""
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
        return replace(self, rank_q=q, rank_k=k, kind="ranks", cache={}, **changed)

    # --- what backends ask -------------------------------------------------------------------

    @property
    def batch(self) -> int:
        """R: 1, or the batch this mask is for."""
        return max((len(t) for t in self._tensors().values()), default=1)

    @property
    def device(self) -> torch.device:
        """Where its tensors lie; the CPU if it has none."""
        return next((t.device for t in self._tensors().values()), torch.device("cpu"))

    def ranks(self) -> tuple[Tensor, Tensor]:
        """(rank_q [R, Sq], rank_k [R, Sk]) int32, written out for a kind known by name."""
        if self.rank_q is not None and self.rank_k is not None:
            return self.rank_q, self.rank_k
        if self.kind == "causal":
            return self.positions()
        zero = torch.zeros(1, dtype=torch.int32, device=self.device)
        return zero.expand(1, self.queries), zero.expand(1, self.keys)

    def positions(self) -> tuple[Tensor, Tensor]:
        """(position_q [R, Sq], position_k [R, Sk]) int32."""
        q, k = self.position_q, self.position_k
        if q is None:
            start = self.keys - self.queries
            q = torch.arange(start, self.keys, dtype=torch.int32, device=self.device)[None]
        if k is None:
            k = torch.arange(self.keys, dtype=torch.int32, device=self.device)[None]
        return q, k

    def bounds(self) -> tuple[int, int]:
        """The window as numbers to compare with: (left, right)."""
        left, right = self.window
        return UNBOUNDED if left < 0 else left, UNBOUNDED if right < 0 else right

    def to(self, device: torch.device | str) -> MaskSpec:
        """The same mask on another device; the same object when it is there."""
        moved = {name: t.to(device) for name, t in self._tensors().items()}
        if self.slopes is not None:
            moved["slopes"] = self.slopes.to(device)
        if all(t is getattr(self, name) for name, t in moved.items()):
            return self
        return replace(self, cache={}, **moved)

    def sides(self, device: torch.device) -> Sides:
        """The mask as a kernel on this device reads it, made once."""
        key = ("sides", str(device))
        if key not in self.cache:
            here = self.to(device)
            (rank_q, rank_k), (at_q, at_k) = here.ranks(), here.positions()
            none = torch.zeros((), dtype=torch.int32, device=device)
            if here.valid is not None:
                rank_k = rank_k.where(here.valid, NEVER)
            self.cache[key] = Sides(
                self._side(rank_q.clamp_max(NEVER - 1), _or(here.segment_q, none), at_q, device),
                self._side(rank_k, _or(here.segment_k, none), at_k, device),
            )
        return self.cache[key]

    def _side(self, rank: Tensor, segment: Tensor, at: Tensor, device: torch.device) -> Tensor:
        shape = (self.batch, rank.shape[1])
        parts = [t.to(device, torch.int32).expand(shape) for t in (rank, segment, at)]
        return torch.stack(parts, 1).contiguous()

    def dense(self, device: torch.device | None = None) -> Tensor:
        """allowed(i, j) as bool [R, Sq, Sk]."""
        sides = self.sides(device or self.device)
        q, k = sides.q[..., None], sides.k[:, :, None]
        allowed = k[:, 0] <= q[:, 0]
        if self.segment_q is not None:
            allowed &= q[:, 1] == k[:, 1]
        if self.window != (-1, -1):
            left, right = self.bounds()
            apart = q[:, 2] - k[:, 2]
            allowed &= (apart <= left) & (apart >= -right)
        return allowed

    def bias(self, device: torch.device | None = None) -> Tensor | None:
        """What ALiBi adds to the scores, float32 [R, Hq, Sq, Sk]; None without it."""
        if self.slopes is None:
            return None
        sides = self.sides(device or self.device)
        apart = (sides.q[:, 2, :, None] - sides.k[:, 2, None]).abs()
        return -self.slopes.to(apart.device, torch.float32)[:, None, None] * apart[:, None]

    def _tensors(self) -> dict[str, Tensor]:
        """Every tensor [R, S] that is given, by name."""
        sides = [f"{n}_{side}" for n in ("rank", "segment", "position") for side in "qk"]
        found = {name: getattr(self, name) for name in (*sides, "valid")}
        return {name: t for name, t in found.items() if t is not None}


def _or(given: Any, otherwise: Any) -> Any:
    return otherwise if given is None else given


def _check(name: str, tensor: Tensor | None, length: int) -> None:
    """Raises ValueError unless it is [R, length]."""
    if tensor is not None and (tensor.dim() != 2 or tensor.shape[1] != length):
        raise ValueError(
            f"{name} of a mask is [R, {length}], one value a token, and not a tensor of "
            f"{list(tensor.shape)}"
        )
