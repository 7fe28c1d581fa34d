"""The U-Net of EDM2, which keeps the magnitude of its features."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genlab.core.contract import Network, Spec
from genlab.core.registry import register
from genlab.core.schema import Count, Fraction, Positive
from genlab.network.image import halvable, patches
from genlab.nn import magnitude_preserving as mp
from genlab.nn.embed import Waves
from genlab.nn.resample import grow, shrink

__all__ = ["UNetMP"]


class _Block(nn.Module):
    """Residual block; the condition scales the channels inside it.

    s = skip(x), on the way down divided by its mean square over the channels
    weighted_sum(s, conv(silu(c conv(silu(r)))), balance),  c = 1 + gain W e

    r is s on the way down and x on the way up. gain starts at zero. What leaves the block, after
    attention if there is any, lies in -clip .. clip.
    """

    def __init__(
        self,
        inside: int,
        outside: int,
        embedding: int,
        *,
        down: bool,
        size: Literal["same", "half", "double"] = "same",
        head_width: int | None = None,
        balance: float,
        dropout: float,
        clip: float | None,
    ) -> None:
        super().__init__()
        self.down, self.size, self.balance, self.dropout = down, size, balance, dropout
        self.clip = clip
        self.skip = mp.Conv(inside, outside, 1) if inside != outside else nn.Identity()
        self.conv1 = mp.Conv(outside if down else inside, outside, 3)
        self.affine = mp.Linear(embedding, outside)
        self.gain = nn.Parameter(torch.zeros(()))
        self.conv2 = mp.Conv(outside, outside, 3)
        self.attention = (
            mp.Attention2d(outside, head_width, balance) if head_width else nn.Identity()
        )

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        """x [B, inside, H, W], e [B, E] -> [B, outside, H, W], or half or twice the sides."""
        if self.size != "same":
            x = (shrink if self.size == "half" else grow)(x, fir=False)
        s = self.skip(x)
        if self.down:
            x = s = mp.pixel_norm(s)
        h = self.conv1(mp.silu(x))
        c = 1 + self.affine(e, self.gain)
        h = mp.silu(h * c[:, :, None, None].to(h.dtype))
        if self.dropout:
            h = F.dropout(h, self.dropout, self.training)
        h = self.attention(mp.weighted_sum(s, self.conv2(h), self.balance))
        return h if self.clip is None else h.clamp(-self.clip, self.clip)


@register
class UNetMP(Network):
    """U-Net whose layers all keep the variance of features at 1.

    Levels of halving size, `blocks` blocks on each on the way down and one more on the way up,
    between them blocks that change the size. There are no norms with weights and no biases; a
    channel of ones beside the image takes the place of those.

    Made for paths whose c_noise is the logarithm of sigma (`edm`, `ve`), predict=F and
    schedule=inverse_sqrt: weights of fixed length turn at the learning rate, to the
    end. `normalize_weights` keeps them at that length.

    Reference: Karras et al. 2024, arXiv 2312.02696, config G. Vectors of labels differ in being of
    mean square 1 each, where theirs are the columns of a matrix whose rows are.
    """

    def __init__(
        self,
        spec: Spec,
        *,
        width: Count,
        mults: list[Count],
        blocks: Count,
        attention: list[Count],
        head_width: Count,
        balance: Fraction,
        dropout: Fraction,
        clip: Positive | None,
        outputs: Literal[1, 2],
    ) -> None:
        """spec: shape (C, H, W), labels K or None; the keys as in configs/network/unet_mp.yaml."""
        super().__init__()
        channels, size = patches("unet_mp", spec)
        halvable(size, len(mults))
        widths, embedding = [width * m for m in mults], width * max(mults)
        sides = [max(size) >> level for level in range(len(mults))]

        def block(inside: int, outside: int, level: int, down: bool, size: str = "same") -> _Block:
            attends = size == "same" and sides[level] in attention
            return _Block(
                inside, outside, embedding, down=down, size=size,
                head_width=head_width if attends else None, balance=balance, dropout=dropout,
                clip=clip,
            )  # fmt: skip

        self.waves = Waves(width)
        self.time = mp.Linear(width, embedding)
        self.label = mp.Labels(spec.classes, embedding) if spec.classes is not None else None
        self.stem = mp.Conv(channels + 1, width, 3)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        inside, skips = width, [width]
        for level, outside in enumerate(widths):
            if level:
                self.down.append(block(inside, inside, level, True, "half"))
                skips.append(inside)
            for _ in range(blocks):
                self.down.append(block(inside, outside, level, True))
                inside = outside
                skips.append(inside)
        self.middle = nn.ModuleList(
            _Block(
                inside, inside, embedding, down=False, balance=balance, dropout=dropout, clip=clip,
                head_width=attends,
            )
            for attends in (head_width if attention else None, None)
        )  # fmt: skip
        for level in reversed(range(len(mults))):
            if level < len(mults) - 1:
                self.up.append(block(inside, inside, level, False, "double"))
            for _ in range(blocks + 1):
                self.up.append(block(inside + skips.pop(), widths[level], level, False))
                inside = widths[level]
        self.outputs = outputs
        self.head = mp.Conv(inside, outputs * channels, 3)
        self.gain = nn.Parameter(torch.zeros(()))

    def normalize_weights(self) -> None:
        """Brings the weights back to their length."""
        mp.normalize_weights(self)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        """x [B, C, H, W], t [B] in [0, 1], y [B] or None -> [B, outputs C, H, W] float32."""
        e = self.time(self.waves(t))
        if self.label is not None:
            e = mp.weighted_sum(e, self.label(y, len(t)).to(e.dtype), 0.5)
        e = mp.silu(e)
        h = self.stem(torch.cat([x, torch.ones_like(x[:, :1])], dim=1))
        skips = [h]
        for block in self.down:
            h = block(h, e)
            skips.append(h)
        for block in self.middle:
            h = block(h, e)
        for block in self.up:
            if block.size == "same":
                h = mp.weighted_cat(h, skips.pop())
            h = block(h, e)
        return self.head(h, self.gain).float()
