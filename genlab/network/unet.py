"""The U-Net of diffusion models."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genlab.core.contract import Network, Spec
from genlab.core.registry import register
from genlab.core.schema import Count, Fraction, Positive
from genlab.network.image import halvable, patches
from genlab.nn.attention import SelfAttention2d
from genlab.nn.embed import Condition
from genlab.nn.norm import GroupNorm
from genlab.nn.patch import narrow
from genlab.nn.resample import ConvDown, ConvUp, FIRDown
from genlab.nn.residual import Block, Layer, Style, zero

__all__ = ["UNet"]

QUIET = 1e-5  # what the last layer of a branch is multiplied by where it does not start at zero

QKV = {"xavier": 1.0, "ddpm": 2.0, "song": 0.2}
"""Variance of the weights of q, k and v at the start, in that of Xavier's for one matrix [3 C, C].

DDPM has three of [C, C] (diffusion_tf/models/unet.py), twice the variance; Song et al. give these
a tenth (NIN of score_sde_pytorch, models/layers.py), which is a fifth of one of [3 C, C], as EDM
writes it (training/networks.py).
"""


@register
class UNet(Network):
    """U-Net with residual blocks, attention and skips, that denoises images.

    Levels of halving size; on each, `blocks` blocks on the way down and as many on the way up,
    each of which is given the output of its mirror image. What is between two levels keeps the
    number of channels; but resample=conv, which is no paper's, changes it before it doubles the
    size, which costs a quarter of the other order.

    The keys make one network of several papers: DDPM (Ho et al. 2020, arXiv 2006.11239, appendix
    B), ADM (Dhariwal and Nichol 2021, arXiv 2105.05233), DDPM++ and NCSN++ (Song et al. 2021,
    arXiv 2011.13456, appendix H; as in Karras et al. 2022, arXiv 2206.00364, table 7).
    """

    any_size = True
    """A multiple of the size of training is taken too; attention stays on the same levels."""

    def __init__(
        self,
        spec: Spec,
        *,
        patch: Count,
        width: Count,
        mults: list[Count],
        blocks: Count | list[Count],
        skip_inputs: bool,
        resample: Literal["conv", "ddpm", "iddpm", "block", "fir"],
        resample_proj: bool,
        pyramid: Literal["none", "residual"],
        attention: list[Count],
        attention_up: Literal["all", "last"],
        head_width: Count | None,
        embedding: Count,
        frequencies: Count | None,
        embed: Literal["sinusoids", "closed", "fourier"],
        modulation: Literal["scale_shift", "shift"],
        skip_scale: Positive,
        norm_eps: Positive,
        init: Literal["torch", "xavier", "ddpm", "song"],
        dropout: Fraction | list[Fraction],
        outputs: Literal[1, 2],
    ) -> None:
        """spec: shape (C, H, W), labels K or None; the keys as in configs/network/unet.yaml."""
        super().__init__()
        (channels, size), levels = patches("unet", spec, patch), len(mults)
        halvable(size, levels, "pixels" if patch == 1 else "patches")
        widths, counts = [width * m for m in mults], _each("blocks", blocks, levels)
        drops, sides = _each("dropout", dropout, levels), [max(size) >> n for n in range(levels)]
        in_blocks = resample in ("block", "fir")
        if resample_proj and not in_blocks:
            raise ValueError(
                "resample_proj=true is of blocks that change the size, and there are none with "
                f"resample={resample}; use resample=block, resample=fir or resample_proj=false"
            )
        style = Style(
            embedding, modulation, skip_scale, resample == "fir", resample_proj, norm_eps
        )

        def layer(inside: int, level: int, attends: bool = True) -> Layer:
            head = (head_width or widths[level]) if attends and sides[level] in attention else None
            return Layer(inside, widths[level], drops[level], style, head)

        self.condition = Condition(embedding, spec.classes, frequencies, embed)
        self.stem = nn.Conv2d(patch**2 * channels, width, 3, padding=1)
        self.down, self.shrink = nn.ModuleList(), nn.ModuleList()
        self.up, self.grow = nn.ModuleList(), nn.ModuleList()
        self.pyramid = nn.ModuleList()
        self.skip_inputs, self.patch, self.skip_scale = skip_inputs, patch, skip_scale
        self.notes = narrow(patch, channels, width)

        inside, aside, skips = width, patch**2 * channels, []
        for level, outside in enumerate(widths):
            skips.append([inside] * skip_inputs + [outside] * counts[level])
            self.down.append(
                nn.ModuleList(
                    layer(inside if i == 0 else outside, level) for i in range(counts[level])
                )
            )
            inside = outside
            if level < levels - 1 and in_blocks:
                self.shrink.append(Block(outside, outside, drops[level + 1], style, "half"))
            elif level < levels - 1:
                inside = widths[level + 1] if resample == "conv" else outside
                self.shrink.append(ConvDown(outside, inside, around=resample != "ddpm"))
            if level < levels - 1 and pyramid == "residual":
                self.pyramid.append(FIRDown(aside, inside))
                aside = inside
        head = (head_width or inside) if attention else None
        self.middle = nn.ModuleList(
            Layer(inside, inside, drops[-1], style, width) for width in (head, None)
        )
        for level in reversed(range(levels)):
            layers = []
            for skip in reversed(skips[level]):
                last = len(layers) == len(skips[level]) - 1
                layers.append(layer(inside + skip, level, attention_up == "all" or last))
                inside = widths[level]
            self.up.append(nn.ModuleList(layers))
            if level > 0 and in_blocks:
                self.grow.append(Block(inside, inside, drops[level - 1], style, "double"))
            elif level > 0:
                outside, inside = inside, widths[level - 1] if resample == "conv" else inside
                self.grow.append(ConvUp(outside, inside, large=resample != "conv"))
        self.norm = GroupNorm(inside, norm_eps)
        self.outputs = outputs
        self.head = zero(nn.Conv2d(inside, patch**2 * outputs * channels, 3, padding=1))
        if init != "torch":
            self._xavier(QKV[init])

    def _xavier(self, qkv: float) -> None:
        """Starting weights that keep the variance; those at the end of a branch are near zero.

        qkv: of the variance of what makes queries, keys and values.
        """
        ends, queries = [self.head], []
        for part in self.modules():
            if isinstance(part, (nn.Conv2d, nn.Linear)):
                nn.init.xavier_uniform_(part.weight)
                nn.init.zeros_(part.bias)
            if isinstance(part, (Block, SelfAttention2d)):
                ends.append(part.conv2 if isinstance(part, Block) else part.out)
            if isinstance(part, SelfAttention2d):
                queries.append(part.qkv)
        with torch.no_grad():
            for end in ends:
                end.weight.mul_(QUIET)
            for layer in queries:
                layer.weight.mul_(math.sqrt(qkv))

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        """x [B, C, H, W], t [B] in [0, 1], y [B] or None -> [B, outputs C, H, W] float32."""
        e = self.condition(t, y)
        x = F.pixel_unshuffle(x, self.patch) if self.patch > 1 else x
        h = self._laid_out(self.stem(x))
        skips: list[Tensor] = []
        for level, layers in enumerate(self.down):
            if level:
                h = _resized(self.shrink[level - 1], h, e)
            if level and self.pyramid:
                x = h = (self.pyramid[level - 1](x) + h) * self.skip_scale
            if self.skip_inputs:
                skips.append(h)
            for layer in layers:
                h = layer(h, e)
                skips.append(h)
        for layer in self.middle:
            h = layer(h, e)
        for level, layers in enumerate(self.up):
            if level:
                h = _resized(self.grow[level - 1], h, e)
            for layer in layers:
                h = layer(torch.cat([h, skips.pop()], dim=1), e)
        out = self.head(F.silu(self.norm(h))).float()
        return F.pixel_shuffle(out, self.patch) if self.patch > 1 else out

    def _laid_out(self, h: Tensor) -> Tensor:
        """h in the layout of the weights.

        With one channel, as in grey images, both layouts are the same bytes, and a convolution of
        torch takes its output to be contiguous; what joins h later would have to be converted.
        """
        if self.middle[0].block.conv1.weight.is_contiguous(memory_format=torch.channels_last):
            return h.contiguous(memory_format=torch.channels_last)
        return h


def _resized(between: nn.Module, h: Tensor, e: Tensor) -> Tensor:
    """h on the next level, by a block or a convolution."""
    return between(h, e) if isinstance(between, Block) else between(h)


def _each(key: str, value: Any, levels: int) -> list[Any]:
    """A value for each level, from one or from a list of them."""
    values = value if isinstance(value, list) else [value] * levels
    if len(values) != levels:
        raise ValueError(
            f"{key} has {len(values)} entries and mults {levels}: give one number or one a level"
        )
    return values
