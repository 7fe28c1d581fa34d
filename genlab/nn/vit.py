"""Vision transformers that others trained: the image towers of CLIP, and DINOv2."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genlab.nn.attention import SelfAttention
from genlab.nn.pretrained_weights import fit, wrong_weights

__all__ = ["GELUS", "ViT"]

HEAD = 64  # numbers of a head in every network this is for
WIDEST = 1024  # beyond, other networks have other heads


def quick_gelu(x: Tensor) -> Tensor:
    """x sigmoid(1.702 x)."""
    return x * torch.sigmoid(1.702 * x)


GELUS: Mapping[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "quick_gelu": quick_gelu}
"""Activations by name: the exact one, and the approximation OpenAI trained CLIP with."""


class ViT(nn.Module):
    """Transformer over patches; the output is the class token of its last layer.

    h = [class; W patch + b] + position, with registers after the class token; then
    h += s1 attention(norm(h)), h += s2 W2 gelu(W1 norm(h)) for each block; norm(h[0]) P at last.

    width: D, a multiple of 64, 64 to a head. depth: blocks. patch: pixels of the side of one.
    grid: patches along a side that the position embedding is for. hidden: numbers inside the MLP.
    registers: further tokens. projection: numbers that come out, None for D without P.
    bias: b. first: normalize h before the blocks. scaled: s1 and s2, else 1.

    side, grid, out: the patch, the grid, and how many numbers come out.

    Reference: Dosovitskiy et al. 2020, arXiv 2010.11929; registers: Darcet et al. 2023, arXiv
    2309.16588.
    """

    def __init__(
        self,
        *,
        width: int,
        depth: int,
        patch: int,
        grid: int,
        hidden: int,
        registers: int,
        projection: int | None,
        bias: bool,
        first: bool,
        scaled: bool,
        gelu: Callable[[Tensor], Tensor],
        eps: float,
    ) -> None:
        super().__init__()
        self.side, self.grid, self.scaled = patch, grid, scaled
        self.out = projection or width
        self.patch = nn.Conv2d(3, width, patch, stride=patch, bias=bias)
        self.class_token = nn.Parameter(torch.zeros(width))
        self.position = nn.Parameter(torch.zeros(1 + grid**2, width))
        self.registers = nn.Parameter(torch.zeros(registers, width)) if registers else None
        self.first = nn.LayerNorm(width, eps) if first else nn.Identity()
        self.blocks = nn.ModuleList(Block(width, hidden, scaled, gelu, eps) for _ in range(depth))
        self.last = nn.LayerNorm(width, eps)
        self.projection = nn.Parameter(torch.zeros(width, projection)) if projection else None

    def forward(self, x: Tensor) -> Tensor:
        """x [n, 3, S, S], S the patch times the grid -> [n, D], or as many as projected to."""
        patches = self.patch(x).flatten(2).transpose(1, 2)  # [n, T, D]
        cls = self.class_token.expand(len(x), 1, -1)
        h = torch.cat([cls, patches], 1) + self.position
        if self.registers is not None:
            h = torch.cat([h[:, :1], self.registers.expand(len(x), -1, -1), h[:, 1:]], 1)
        h = self.first(h)
        for block in self.blocks:
            h = block(h)
        out = self.last(h[:, 0])
        return out if self.projection is None else out @ self.projection

    @classmethod
    def of(
        cls, tensors: Mapping[str, Tensor], path: Path, wanted: str, *, gelu: str, eps: float
    ) -> ViT:
        """The network whose sizes are those of tensors named as its own, with their values.

        q, k and v of a block may come apart, a projection transposed, and what belongs to all
        images with a leading axis of one. wanted: what it is, for messages. Raises DataError for
        tensors of another network.
        """
        own = _gathered(tensors)
        for name in ("position", "patch.weight", "blocks.0.up.weight"):
            if name not in own:
                raise wrong_weights(path, tensors, wanted, f"it has no {name}")
        (tokens, width), patch = own["position"].shape, own["patch.weight"].shape[-1]
        grid = math.isqrt(tokens - 1)
        if width % HEAD or width > WIDEST or grid**2 != tokens - 1:
            raise wrong_weights(
                path, tensors, wanted, f"it has {tokens} tokens of {width} numbers"
            )
        blocks = {name.split(".")[1] for name in own if name.startswith("blocks.")}
        net = cls(
            width=width,
            depth=len(blocks),
            patch=patch,
            grid=grid,
            hidden=len(own["blocks.0.up.weight"]),
            registers=len(own.get("registers", ())),
            projection=own["projection"].shape[1] if "projection" in own else None,
            bias="patch.bias" in own,
            first="first.weight" in own,
            scaled="blocks.0.scale1" in own,
            gelu=GELUS[gelu],
            eps=eps,
        )
        fit(net, own, path, wanted)
        return net

    @torch.no_grad()
    def regrid(self, grid: int, offset: float, antialias: bool) -> None:
        """Resamples the position embedding for grid x grid patches, bicubic.

        offset: samples lie as far apart as if grid + offset of them filled the plane.
        """
        if grid == self.grid:
            return
        cls, rest = self.position.split([1, self.grid**2])
        plane = rest.T.unflatten(1, (self.grid, self.grid))[None]
        target = {"scale_factor": (grid + offset) / self.grid} if offset else {"size": (grid,) * 2}
        plane = F.interpolate(plane, mode="bicubic", antialias=antialias, **target)
        self.position = nn.Parameter(torch.cat([cls, plane[0].flatten(1).T]), requires_grad=False)
        self.grid = grid


class Block(SelfAttention):
    """One layer of a transformer, normalized first; its names are those of files of weights."""

    backend = "sdpa"  # not what a run is set to: features are compared between runs

    def __init__(
        self, width: int, hidden: int, scaled: bool, gelu: Callable[[Tensor], Tensor], eps: float
    ) -> None:
        super().__init__(width, HEAD)
        self.norm1, self.norm2 = nn.LayerNorm(width, eps), nn.LayerNorm(width, eps)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.gelu = gelu
        self.scale1 = nn.Parameter(torch.ones(width)) if scaled else None
        self.scale2 = nn.Parameter(torch.ones(width)) if scaled else None

    def forward(self, h: Tensor) -> Tensor:
        """h [n, T, D] -> [n, T, D]."""
        mixed = super().forward(self.norm1(h))
        h = h + (mixed if self.scale1 is None else self.scale1 * mixed)
        more = self.down(self.gelu(self.up(self.norm2(h))))
        return h + (more if self.scale2 is None else self.scale2 * more)


def _gathered(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """blocks.N.q, k and v -> blocks.N.qkv; transposed -> projection; no leading axis of one."""
    own = dict(tensors)
    for name in tensors:
        start, _, kind = name.rpartition(".q.")
        parts = [f"{start}.{letter}.{kind}" for letter in "qkv"]
        if start and all(p in own for p in parts):
            own[f"{start}.qkv.{kind}"] = torch.cat([own.pop(p) for p in parts])
    if "transposed" in own:
        own["projection"] = own.pop("transposed").T
    for name, axes in (("class_token", 1), ("position", 2), ("registers", 2)):
        while name in own and own[name].dim() > axes and len(own[name]) == 1:
            own[name] = own[name][0]
    return own
