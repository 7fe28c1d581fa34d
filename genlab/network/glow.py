"""Glow: a flow of images in levels."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from genlab.core.contract import Bijection, Spec
from genlab.core.registry import register
from genlab.core.schema import Count, Positive
from genlab.nn.embed import LabelEmbedding
from genlab.nn.flow import Standardize, squeeze, unsqueeze
from genlab.nn.flow_step import FlowSteps

__all__ = ["Glow"]


@register
class Glow(Bijection):
    """Multi-scale flow of actnorm, invertible 1x1 convolutions and couplings.

    Per level: blocks of 2x2 pixels become channels, `depth` steps, and half of the channels leave,
    standardized by what stays. What is left at the end is standardized by a learned mean and
    deviation of each number, those of the label if there are labels.

    Reference: Kingma and Dhariwal 2018, arXiv 1807.03039, figure 2 and section 3. The prior of a
    label differs in being one of each number, where theirs is one of each channel (and edge); the
    1x1 convolutions are learned by their factors L and U, which their code learns as they are.
    """

    def __init__(
        self,
        spec: Spec,
        *,
        levels: Count,
        depth: Count,
        width: Count,
        coupling: Literal["affine", "sigmoid", "additive"],
        reversible: bool,
        edge_bias: bool,
        logscale_factor: Positive,
    ) -> None:
        """spec: shape (C, H, W), labels K or None; depth: steps of a level; width: of couplings.

        reversible: recompute the steps in the backward pass instead of keeping their states.
        edge_bias: 3x3 convolutions have a channel that is 1 around the image. logscale_factor: k
        of an actnorm's exp(k logs) (x + b).
        """
        super().__init__()
        channels, height, width_px = _plan(spec, levels)
        self.sides, self.flows, self.priors = [], nn.ModuleList(), nn.ModuleList()
        for level in range(levels):
            channels, height, width_px = 4 * channels, height // 2, width_px // 2
            self.flows.append(
                FlowSteps(depth, channels, width, coupling, reversible, edge_bias, logscale_factor)
            )
            self.sides.append((height, width_px))
            if level < levels - 1:
                channels //= 2
                self.priors.append(Standardize(channels, edge_bias))
        self.top = (height, width_px, channels)
        self.label = LabelEmbedding(spec.classes or 0, 2 * height * width_px * channels)
        nn.init.zeros_(self.label.weight)

    def compiled_regions(self) -> list[nn.Module]:
        """The networks of the couplings: nearly all of the arithmetic, and the same code."""
        return [c.net for flow in self.flows for c in flow.couplings]

    def forward(self, x: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
        """x [B, C, H, W], y [B] or None -> (z [B, D], log |dz/dx| [B]), D = C H W."""
        dtype = _compute(x)
        with torch.autocast(x.device.type, enabled=False):
            h = x.permute(0, 2, 3, 1)
            log_det = x.new_zeros(len(x))
            out = []
            for level, flow in enumerate(self.flows):
                h, more = flow(squeeze(h), dtype)
                log_det = log_det + more
                if level < len(self.priors):
                    h, leaving = h.chunk(2, dim=3)
                    z, more = self.priors[level](h, leaving)
                    log_det = log_det + more
                    out.append(z.flatten(1))
            mean, logs = self._moments(y, len(x))
            out.append((h.flatten(1) - mean) * (-logs).exp())
            return torch.cat(out, 1), log_det - logs.sum(1)

    def inverse(self, z: Tensor, y: Tensor | None) -> Tensor:
        """z [B, D], y [B] or None -> x [B, C, H, W]."""
        dtype = _compute(z)
        with torch.autocast(z.device.type, enabled=False):
            sizes = [
                h * w * p.channels for (h, w), p in zip(self.sides, self.priors, strict=False)
            ]
            *leaving, last = z.split([*sizes, z.shape[1] - sum(sizes)], dim=1)
            mean, logs = self._moments(y, len(z))
            h = torch.addcmul(mean, last, logs.exp()).unflatten(1, self.top)
            for level in reversed(range(len(self.flows))):
                if level < len(self.priors):
                    prior = self.priors[level]
                    left = leaving[level].unflatten(1, (*self.sides[level], -1))
                    h = torch.cat([h, prior.inverse(h, left)], 3)
                h = unsqueeze(self.flows[level].inverse(h, dtype))
            return h.permute(0, 3, 1, 2)

    @torch.no_grad()
    def start(self, x: Tensor) -> None:
        """Sets every actnorm to zero mean and unit variance on x [B, C, H, W]."""
        dtype = _compute(x)
        with torch.autocast(x.device.type, enabled=False):
            h = x.permute(0, 2, 3, 1)
            for level, flow in enumerate(self.flows):
                h = flow.start(squeeze(h), dtype)
                if level < len(self.priors):
                    h = h.chunk(2, dim=3)[0]

    def _moments(self, y: Tensor | None, n: int) -> tuple[Tensor, Tensor]:
        """Mean and log deviation [n, D_top] of the last level's prior."""
        return self.label(y, n).chunk(2, dim=1)


def _compute(x: Tensor) -> torch.dtype:
    """What coupling networks compute in: the type of autocast, else that of x."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def _plan(spec: Spec, levels: int) -> tuple[int, int, int]:
    """C, H and W of images whose sides can be halved `levels` times."""
    spec.require("images", "glow", "data of images")
    channels, height, width = spec.shape
    possible = 0
    while height % 2 ** (possible + 1) == 0 and width % 2 ** (possible + 1) == 0:
        possible += 1
    if levels > possible:
        fix = f"levels={possible} or fewer" if possible else "data.size with an even number"
        raise ValueError(
            f"levels={levels} halves the sides of an image {levels} times, and {height}x{width} "
            f"pixels can be halved {possible} time{'s' * (possible != 1)}; use {fix}"
        )
    return channels, height, width
