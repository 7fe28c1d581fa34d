"""The U-Net of diffusion models."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genlab.contract import Spec
from genlab.nn.attention import SelfAttention2d
from genlab.nn.embed import Condition
from genlab.nn.norm import GroupNorm
from genlab.registry import register
from genlab.schema import Count, Fraction

__all__ = ["UNet"]


def _zero(layer: nn.Conv2d) -> nn.Conv2d:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class _Block(nn.Module):
    """Residual block whose second normalization is scaled and shifted by the condition.

    skip(x) + conv(SiLU((1 + s) norm(conv(SiLU(norm(x)))) + b)),  (s, b) = W e

    The second convolution starts at zero, so the block starts as its skip.
    """

    def __init__(self, inside: int, outside: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = GroupNorm(inside)
        self.conv1 = nn.Conv2d(inside, outside, 3, padding=1)
        self.affine = nn.Linear(embedding, 2 * outside)
        self.norm2 = GroupNorm(outside)
        self.conv2 = _zero(nn.Conv2d(outside, outside, 3, padding=1))
        self.skip = nn.Conv2d(inside, outside, 1) if inside != outside else nn.Identity()
        self.dropout = dropout

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        """x [B, inside, H, W], e [B, E] -> [B, outside, H, W]."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = F.silu(self.norm2(h, *self.affine(e).chunk(2, dim=1)))
        if self.dropout:
            h = F.dropout(h, self.dropout, self.training)
        return self.skip(x) + self.conv2(h)


class _Layer(nn.Module):
    """One residual block, and attention after it where asked."""

    def __init__(
        self, inside: int, outside: int, embedding: int, dropout: float, head_width: int | None
    ) -> None:
        super().__init__()
        self.block = _Block(inside, outside, embedding, dropout)
        self.attention = SelfAttention2d(outside, head_width) if head_width else nn.Identity()

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        return self.attention(self.block(x, e))


@register
class UNet(nn.Module):
    """U-Net with residual blocks, attention and skips, for fields of images.

    Levels of halving size; on each, `blocks` blocks on the way down and as many on the way up,
    each of which is given the output of its mirror image. Upsampling changes the number of
    channels before it doubles the size, which costs a quarter of the other order.

    Reference: Ho et al. 2020, arXiv 2006.11239, appendix B; scale and shift by the condition:
    Dhariwal and Nichol 2021, arXiv 2105.05233, section 3.
    """

    def __init__(
        self,
        spec: Spec,
        *,
        width: Count,
        mults: list[Count],
        blocks: Count,
        skip_inputs: bool,
        attention: list[Count],
        head_width: Count,
        embedding: Count,
        dropout: Fraction,
        outputs: Count,
    ) -> None:
        """spec: shape (C, H, W), labels K or None; the keys as in configs/network/unet.yaml."""
        super().__init__()
        if len(spec.shape) != 3:
            raise ValueError(
                f"unet takes images, not data of shape {list(spec.shape)}; use network=mlp and "
                "codec=points (experiment=toy/flow_matching has both)"
            )
        channels, *size = spec.shape
        halvings = len(mults) - 1
        if any(s % 2**halvings for s in size):
            fits = next(n for n in range(halvings, -1, -1) if not any(s % 2**n for s in size))
            raise ValueError(
                f"mults has {len(mults)} levels, which halve the image {halvings} times, and "
                f"{size[0]}x{size[1]} pixels can be halved {fits} times: "
                f"give mults at most {fits + 1} entries"
            )

        def layer(inside: int, outside: int, side: int) -> _Layer:
            attends = head_width if side in attention else None
            return _Layer(inside, outside, embedding, dropout, attends)

        widths = [width * m for m in mults]
        sides = [max(size) >> level for level in range(len(mults))]
        self.condition = Condition(embedding, spec.classes)
        self.stem = nn.Conv2d(channels, width, 3, padding=1)
        self.down, self.shrink = nn.ModuleList(), nn.ModuleList()
        self.up, self.grow = nn.ModuleList(), nn.ModuleList()
        self.skip_inputs = skip_inputs

        inside, skips = width, []
        for level, (outside, side) in enumerate(zip(widths, sides, strict=True)):
            skips.append([inside] * skip_inputs + [outside] * blocks)
            layers = [layer(inside if i == 0 else outside, outside, side) for i in range(blocks)]
            self.down.append(nn.ModuleList(layers))
            inside = outside
            if level < halvings:
                inside = widths[level + 1]
                self.shrink.append(nn.Conv2d(outside, inside, 3, stride=2, padding=1))
        self.middle = nn.ModuleList(
            [
                _Layer(inside, inside, embedding, dropout, head_width if attention else None),
                _Layer(inside, inside, embedding, dropout, None),
            ]
        )
        for level in reversed(range(len(mults))):
            outside = widths[level]
            layers = []
            for skip in reversed(skips[level]):
                layers.append(layer(inside + skip, outside, sides[level]))
                inside = outside
            self.up.append(nn.ModuleList(layers))
            if level > 0:
                inside = widths[level - 1]
                self.grow.append(nn.Conv2d(outside, inside, 3, padding=1))
        self.norm = GroupNorm(inside)
        self.outputs = outputs
        self.head = _zero(nn.Conv2d(inside, outputs * channels, 3, padding=1))

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        """x [B, C, H, W], t [B] in [0, 1], y [B] or None -> [B, outputs C, H, W] float32."""
        e = self.condition(t, y)
        h = self._laid_out(self.stem(x))
        skips: list[Tensor] = []
        for level, layers in enumerate(self.down):
            if level:
                h = self.shrink[level - 1](h)
            if self.skip_inputs:
                skips.append(h)
            for layer in layers:
                h = layer(h, e)
                skips.append(h)
        for layer in self.middle:
            h = layer(h, e)
        for level, layers in enumerate(self.up):
            if level:
                h = F.interpolate(self.grow[level - 1](h), scale_factor=2.0, mode="nearest")
            for layer in layers:
                h = layer(torch.cat([h, skips.pop()], dim=1), e)
        return self.head(F.silu(self.norm(h))).float()

    def _laid_out(self, h: Tensor) -> Tensor:
        """h in the layout of the weights.

        With one channel, as in grey images, both layouts are the same bytes, and a convolution of
        torch takes its output to be contiguous; what joins h later would have to be converted.
        """
        if self.middle[0].block.conv1.weight.is_contiguous(memory_format=torch.channels_last):
            return h.contiguous(memory_format=torch.channels_last)
        return h
