"""A mask as ranks: which pairs of tokens see each other, and the tensors a backend reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import torch
from torch import Tensor

__all__ = ["ALWAYS", "NEVER", "RankMask", "Sides"]

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
class RankMask:
    """Which query sees which key, without a matrix of Sq x Sk.

    allowed(i, j) = rank_k[j] <= rank_q[i]
                    and segment_q[i] == segment_k[j]
                    and -right <= position_q[i] - position_k[j] <= left
                    and valid[j]

    and score(i, j) gains -slopes[h] |position_q[i] - position_k[j]| (ALiBi). Terms that are None
    hold for every pair. Tensors are [R, S], whole numbers within int32, with R = 1 or the batch;
    heads share them.

    queries, keys: Sq and Sk.
    rank_q, rank_k: both or neither.
    segment_q, segment_k: both or neither; sequences packed into one.
    position_q, position_k: by default the last query stands at the last key.
    window: (left, right), how many keys before and after its own position a query sees; -1 is all.
    valid: bool [R, Sk], False for keys that are padding.
    slopes: float32 [Hq] >= 0, ALiBi's; constants.
    kind: "full" and "causal" masks are known by name, so that a backend may take its fast path;
        anything else is "rank_mask".

    Raises ValueError for tensors that do not belong together.

    Reference: ALiBi is that of Press et al. 2021, arXiv 2108.12409.
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
    kind: Literal["full", "causal", "rank_mask"] = "rank_mask"
    cache: dict[Any, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        lengths = {"q": self.queries, "k": self.keys}
        for name in ("rank", "segment", "position"):
            for side, length in lengths.items():
                _check(f"{name}_{side}", getattr(self, f"{name}_{side}"), length)
        _check("valid", self.valid, self.keys, "bool")
        for name in ("rank", "segment"):
            if (getattr(self, f"{name}_q") is None) != (getattr(self, f"{name}_k") is None):
                raise ValueError(f"a mask has {name}_q and {name}_k or neither of them")
        if self.slopes is not None and self.slopes.dim() != 1:
            raise ValueError(
                f"ALiBi has one slope a head, [Hq], not a tensor of {list(self.slopes.shape)}"
            )
        if self.slopes is not None and self.slopes.requires_grad:
            raise ValueError("no backend learns ALiBi's slopes; detach them")
        if any(bound < -1 for bound in self.window):
            raise ValueError(f"a window is (left, right), each -1 or more, not {self.window}")
        sizes = {len(t) for t in self._tensors().values()} - {1}
        if len(sizes) > 1:
            raise ValueError(f"the tensors of a mask are for batches of {sorted(sizes)}")

    def __getstate__(self) -> dict[str, Any]:
        """What a copy or a file takes along: nothing made of the mask, which may hold code."""
        return {**self.__dict__, "cache": {}}

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

    def to(self, device: torch.device | str) -> Self:
        """The same mask on another device, moved once; the same object when it is there."""
        given = [*self._tensors().values(), *([] if self.slopes is None else [self.slopes])]
        if all(t.device == torch.device(device) for t in given):
            return self  # and not kept: a mask that holds itself is freed late
        return self.once(("on", str(device)), lambda: self._moved(device))

    def _moved(self, device: torch.device | str) -> Self:
        moved: dict[str, Any] = {name: t.to(device) for name, t in self._tensors().items()}
        if self.slopes is not None:
            moved["slopes"] = self.slopes.to(device)
        return replace(self, cache={}, **moved)

    def sides(self, device: torch.device) -> Sides:
        """The mask as a kernel on this device reads it, made once."""
        return self.once(("sides", str(device)), lambda: self._sides(device))

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """What follows from the mask alone, made at the first call and kept under a key.

        Not while torch.compile traces, nor inside a transform or a dispatch mode: what is made
        there belongs to it. And never as tensors of inference mode, which no training after it
        could use.
        """
        if key in self.cache:
            return self.cache[key]
        if torch.compiler.is_compiling() or _inside():
            return make()
        with torch.inference_mode(False):
            self.cache[key] = make()
        return self.cache[key]

    def _sides(self, device: torch.device) -> Sides:
        (rank_q, rank_k), (at_q, at_k) = self.ranks(), self.positions()
        none = torch.zeros((), dtype=torch.int64, device=self.device)
        if self.valid is not None:
            rank_k = rank_k.long().where(self.valid, NEVER)

        def side(*parts: Tensor) -> Tensor:
            shape = (self.batch, parts[0].shape[1])
            wide = torch.stack([t.long().expand(shape) for t in parts], 1)
            return wide.clamp(ALWAYS, NEVER).to(device, torch.int32)  # one copy a side

        return Sides(
            side(rank_q.long().clamp_max(NEVER - 1), _or(self.segment_q, none), at_q),
            side(rank_k, _or(self.segment_k, none), at_k),
        )

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
        return -self.steepness(apart.device)[:, None, None] * apart[:, None]

    def steepness(self, device: torch.device) -> Tensor:
        """The slopes as float32 [Hq] on a device, moved once."""
        assert self.slopes is not None
        slopes = self.slopes
        return self.once(("slopes", str(device)), lambda: slopes.to(device, torch.float32))

    def _tensors(self) -> dict[str, Tensor]:
        """Every tensor [R, S] that is given, by name."""
        sides = [f"{n}_{side}" for n in ("rank", "segment", "position") for side in "qk"]
        found = {name: getattr(self, name) for name in (*sides, "valid")}
        return {name: t for name, t in found.items() if t is not None}


def _inside() -> bool:
    """Whether torch computes on something other than plain tensors."""
    return (
        torch._C._functorch.peek_interpreter_stack() is not None
        or torch.utils._python_dispatch._get_current_dispatch_mode() is not None
    )


def _or(given: Any, otherwise: Any) -> Any:
    return otherwise if given is None else given


def _check(name: str, tensor: Tensor | None, length: int, kind: str = "whole numbers") -> None:
    """Raises ValueError unless it is [R, length] of this kind."""
    if tensor is None:
        return
    if tensor.dim() != 2 or tensor.shape[1] != length:
        raise ValueError(
            f"{name} of a mask is [R, {length}], one value a token, and not a tensor of "
            f"{list(tensor.shape)}"
        )
    if tensor.is_floating_point() or (tensor.dtype == torch.bool) != (kind == "bool"):
        raise ValueError(f"{name} of a mask is {kind}, not {tensor.dtype}")
