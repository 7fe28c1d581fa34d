"""Rotary positions whose distance is bounded, for texts longer than those trained on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from genlab.kernel.dispatch import attention
from genlab.kernel.mask import MaskSpec
from genlab.kernel.merge import merge
from genlab.nn.attention import Cache, SelfAttention
from genlab.nn.rotary import Rotary

__all__ = ["ReRoPE", "rerope"]


def rerope(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: MaskSpec,
    rotary: Rotary,
    reach: int,
    **options: Any,
) -> Tensor:
    """Attention with the relative position bounded: max(-w, min(w, i - j)) instead of i - j.

    A score is that of q and k as `rotary` turns them where |i - j| < w, and that of q turned by w
    (by -w for keys after it) and k as it is elsewhere. Each kind of score is one call of
    `attention` over its own keys, and the results are merged; nothing is approximated.

    q [B, Hq, Sq, D], k, v [B, Hkv, Sk, D], q and k not turned yet; positions are those of the
    mask. reach: w >= 1. options: those of `attention` but lse. -> [B, Hq, Sq, D], differentiable.
    Raises ValueError for a mask with ALiBi, whose distances are not bounded.

    Reference: Su, github.com/bojone/rerope, for keys before their query.
    """
    sides = mask.sides(q.device)
    parts = []
    for turn, part in _split(mask, reach):
        if turn:
            pair = rotary(q, sides.q.new_full((1,), turn)), k
        else:
            pair = rotary(q, sides.q[:, 2]), rotary(k, sides.k[:, 2])
        parts.append(attention(*pair, v, part, lse=True, **options))
    return merge(*parts)[0]


def _split(mask: MaskSpec, reach: int) -> list[tuple[int, MaskSpec]]:
    """(0, keys nearer than w), (w, those further before their query), (-w, those further after).

    A window has no inner bound, so the far ones are a window from 0 on over positions moved by w.
    """
    if mask.slopes is not None:
        raise ValueError("ReRoPE bounds distances and ALiBi does not; use one of them")
    _checked(reach)
    return mask.once(("rerope", reach), lambda: _parts(mask, reach))


def _checked(reach: int) -> int:
    if reach < 1:
        raise ValueError(f"the reach of ReRoPE is 1 or more, not {reach}")
    return reach


def _parts(mask: MaskSpec, reach: int) -> list[tuple[int, MaskSpec]]:
    left, right = mask.window
    parts = [(0, mask.within(reach - 1, reach - 1))]
    if not 0 <= left < reach:
        parts.append((reach, _moved(mask.within(max(-1, left - reach), 0), reach)))
    if mask.kind != "causal" and not 0 <= right < reach:
        parts.append((-reach, _moved(mask.within(0, max(-1, right - reach)), -reach)))
    return parts


def _moved(mask: MaskSpec, by: int) -> MaskSpec:
    """The same mask with its keys at later positions."""
    return replace(mask, position_k=mask.positions()[1] + by, cache={})


class ReRoPE(SelfAttention):
    """Self-attention with the relative position bounded; a cache holds its keys not turned."""

    def __init__(
        self, width: int, head_width: int, *, rotary: Rotary, reach: int, **rest: Any
    ) -> None:
        """reach: w >= 1; the rest as for `SelfAttention`. Raises ValueError for other reaches."""
        super().__init__(width, head_width, rotary=None, **rest)
        self.bounded, self.reach = rotary, _checked(reach)

    def forward(
        self,
        h: Tensor,
        mask: MaskSpec | None = None,
        position: Tensor | None = None,
        sources: int | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """As for `SelfAttention`, where positions are those of the mask.

        Raises ValueError where others are given.
        """
        if position is not None:
            raise ValueError(
                "ReRoPE takes the positions of its mask; give them there, as its position_q"
            )
        if self.logn is not None and mask is not None:
            position = mask.sides(h.device).q[:, 2]
        return super().forward(h, mask, position, sources, cache)

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: MaskSpec | None = None,
        dropout: float = 0.0,
    ) -> Tensor:
        """`rerope` on the backend of this layer; dropout: while training."""
        return rerope(
            q,
            k,
            v,
            mask or MaskSpec.bidirectional(q.shape[2], k.shape[2]),
            self.bounded,
            self.reach,
            dropout=dropout if self.training else 0.0,
            backend=self.backend,
            double_backward=self.double_backward,
        )
