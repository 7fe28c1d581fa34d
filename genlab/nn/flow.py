"""Layers of flows of images: invertible maps with their log-determinants.

The state of a flow is [B, H, W, C]: a 1x1 convolution is then one matrix product, and the
convolutions of the coupling networks see channels_last without a copy. It stays float32 (float64
for float64 data) whatever autocast says; only coupling networks compute in `dtype`.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Coupling", "Kind", "Mixing", "Standardize", "product", "squeeze", "unsqueeze"]


def squeeze(x: Tensor) -> Tensor:
    """[B, H, W, C] -> [B, H/2, W/2, 4 C]: blocks of 2x2 pixels become channels."""
    b, h, w, c = x.shape
    return x.view(b, h // 2, 2, w // 2, 2, c).transpose(2, 3).reshape(b, h // 2, w // 2, 4 * c)


def unsqueeze(x: Tensor) -> Tensor:
    """[B, H, W, 4 C] -> [B, 2 H, 2 W, C]: undoes `squeeze`."""
    b, h, w, c = x.shape
    return x.view(b, h, w, 2, 2, c // 4).transpose(2, 3).reshape(b, 2 * h, 2 * w, c // 4)


def product(x: Tensor, matrix: Tensor, vector: Tensor) -> Tensor:
    """A x + a at every pixel; x [B, H, W, C], A [C, C] and a [C] float64 -> [B, H, W, C].

    On GPUs in float64: TF32, which is allowed there, keeps three digits, and an inverse needs
    them all; matrices of a few channels cost nothing.
    """
    wide = torch.float64 if x.is_cuda else x.dtype
    return F.linear(x.to(wide), matrix.to(wide), vector.to(wide)).to(x.dtype)


class Mixing(nn.Module):
    """The linear maps of all steps of a level: actnorm, then an invertible 1x1 convolution.

    y = W (exp(k logs) (x + b)),  W = P L (U + diag(sign exp(log_s)))
    log |dy/dx| = H W sum(k logs + log_s)

    k is the log-scale factor: with 3, as in the official code, scales are learned three times as
    fast. P is a fixed permutation, L unit lower and U strictly upper triangular; W begins as a
    random rotation. Both maps are one matrix and one vector, made for all steps at once: so a step
    costs one product, and an inverse two triangular solves of small matrices.

    Reference: Kingma and Dhariwal 2018, arXiv 1807.03039, sections 3.1 and 3.2, eq. 10 and 11.
    """

    permutation: Tensor
    sign: Tensor

    def __init__(self, steps: int, channels: int, factor: float = 1.0) -> None:
        """steps: K; channels: C; factor: k of the log-scales."""
        super().__init__()
        self.factor = factor
        rotation = torch.linalg.qr(torch.randn(steps, channels, channels, dtype=torch.float64))[0]
        permutation, lower, upper = torch.linalg.lu(rotation)
        diagonal = upper.diagonal(dim1=1, dim2=2)
        self.register_buffer("permutation", permutation.float())
        self.register_buffer("sign", diagonal.sign().float())
        self.lower = nn.Parameter(lower.tril(-1).float())
        self.upper = nn.Parameter(upper.triu(1).float())
        self.log_s = nn.Parameter(diagonal.abs().log().float())
        self.logs = nn.Parameter(torch.zeros(steps, channels))
        self.b = nn.Parameter(torch.zeros(steps, channels))

    def _factors(self) -> tuple[Tensor, Tensor]:
        """L and U [K, C, C] in float64, the actnorm's scale in the columns of U."""
        lower, upper = self.lower.double().tril(-1), self.upper.double().triu(1)
        lower = lower + torch.eye(lower.shape[1], device=lower.device, dtype=lower.dtype)
        upper = upper + (self.sign * self.log_s.double().exp()).diag_embed()
        return lower, upper * (self.factor * self.logs.double()).exp()[:, None]

    def forward(self) -> tuple[Tensor, Tensor, Tensor]:
        """Matrices A [K, C, C], vectors a [K, C] of y = A x + a, log |det A| [], in float64."""
        lower, upper = self._factors()
        matrix = self.permutation.double() @ lower @ upper
        vector = (matrix @ self.b.double()[:, :, None])[:, :, 0]
        return matrix, vector, (self.factor * self.logs.double() + self.log_s.double()).sum()

    def inverse(self) -> Tensor:
        """A^-1 [K, C, C] float64: x = A^-1 y - b."""
        lower, upper = self._factors()
        back = self.permutation.double().transpose(1, 2)
        solved = torch.linalg.solve_triangular(lower, back, upper=False, unitriangular=True)
        return torch.linalg.solve_triangular(upper, solved, upper=True)

    @torch.no_grad()
    def start(self, step: int, x: Tensor) -> None:
        """Makes the channels of x [B, H, W, C] zero mean and unit variance after this step."""
        standardize_(self.b[step], self.logs[step], x, self.factor)


def standardize_(b: Tensor, logs: Tensor, x: Tensor, factor: float = 1.0) -> None:
    """Sets b, logs [C] such that exp(factor logs) (x + b) has mean 0, variance 1; x [..., C]."""
    x = x.double().flatten(0, -2)
    b.copy_(-x.mean(0))
    logs.copy_(-x.std(0, correction=0).clamp_min(1e-6).log() / factor)


def edges(kernel: Tensor, height: int, width: int) -> Tensor:
    """What a channel of 1 around the image and 0 in it adds: kernel [O, 3, 3] -> [1, O, H, W].

    So a convolution knows where the image ends, which zeros around it do not tell.

    Reference: github.com/openai/glow, tfops.py, add_edge_padding.
    """
    around = F.pad(kernel.new_zeros(1, 1, height, width), (1, 1, 1, 1), value=1.0)
    return F.conv2d(around, kernel[:, None])


class Net(nn.Module):
    """The network of a coupling: 3x3, 1x1 and 3x3 convolution with ReLU between.

    An actnorm follows the first two, as in the official code; it is folded into their weights. The
    last begins at zero and is scaled by exp(3 logs), so that a coupling begins as the identity.
    edge: the 3x3 ones see where the image ends (`edges`).

    Reference: Kingma and Dhariwal 2018, arXiv 1807.03039, section 3.3 (zero initialization).
    """

    def __init__(
        self, inside: int, width: int, outside: int, edge: bool = False, factor: float = 1.0
    ) -> None:
        """inside, outside: channels; width: of the two hidden layers; factor: of log-scales."""
        super().__init__()
        self.factor = factor
        self.first = nn.Parameter(torch.randn(width, inside, 3, 3) * 0.05)
        self.second = nn.Parameter(torch.randn(width, width, 1, 1) * 0.05)
        self.b = nn.Parameter(torch.zeros(2, width))
        self.logs = nn.Parameter(torch.zeros(2, width))
        self.last = ZeroConv(width, outside, edge)
        self.edge = nn.Parameter(torch.randn(width, 3, 3) * 0.05) if edge else None

    def forward(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """x [B, H, W, inside] -> [B, H, W, outside] in the type of x, computed in `dtype`."""
        gain = (self.factor * self.logs).exp()[:, :, None, None, None]
        bias = (self.b * gain[..., 0, 0, 0]).to(dtype)
        h = x.to(dtype).permute(0, 3, 1, 2)
        h = F.conv2d(h, (self.first * gain[0]).to(dtype), bias[0], padding=1)
        if self.edge is not None:
            h = h + edges(self.edge * gain[0, :, 0], *h.shape[2:]).to(dtype)
        h = F.relu_(h)
        h = F.relu_(F.conv2d(h, (self.second * gain[1]).to(dtype), bias[1]))
        return self.last(h.permute(0, 2, 3, 1), dtype).to(x.dtype)

    @torch.no_grad()
    def start(self, x: Tensor) -> None:
        """Makes what enters each ReLU zero mean and unit variance on x [B, H, W, inside]."""
        h = F.conv2d(x.permute(0, 3, 1, 2), self.first.to(x.dtype), padding=1)
        if self.edge is not None:
            h = h + edges(self.edge, *h.shape[2:]).to(x.dtype)
        standardize_(self.b[0], self.logs[0], h.permute(0, 2, 3, 1), self.factor)
        gain = (self.factor * self.logs[0, :, None, None]).exp()
        h = F.relu((h + self.b[0, :, None, None]) * gain)
        h = F.conv2d(h, self.second.to(x.dtype))
        standardize_(self.b[1], self.logs[1], h.permute(0, 2, 3, 1), self.factor)


class ZeroConv(nn.Module):
    """A 3x3 convolution that begins at zero: exp(3 logs) (conv(x) + b), with `edges` if asked."""

    def __init__(self, inside: int, outside: int, edge: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(outside, inside, 3, 3))
        self.b = nn.Parameter(torch.zeros(outside))
        self.logs = nn.Parameter(torch.zeros(outside))
        self.edge = nn.Parameter(torch.zeros(outside, 3, 3)) if edge else None

    def forward(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """x [B, H, W, inside] -> [B, H, W, outside] in `dtype`."""
        gain = (3 * self.logs).exp()
        weight = (self.weight * gain[:, None, None, None]).to(dtype)
        x = x.to(dtype).permute(0, 3, 1, 2)
        y = F.conv2d(x, weight, (self.b * gain).to(dtype), padding=1)
        if self.edge is not None:
            y = y + edges(self.edge * gain[:, None, None], *y.shape[2:]).to(dtype)
        return y.permute(0, 2, 3, 1)


Kind = Literal["affine", "sigmoid", "additive"]


class Coupling(nn.Module):
    """Shifts and scales one half of the channels by a function of the other half.

    y1 = x1,  y2 = (x2 + shift(x1)) scale(x1)

    affine: scale = exp(tanh(s(x1))), between 1/e and e
    sigmoid: scale = sigmoid(s(x1) + 2), as in the official code
    additive: scale = 1

    A sigmoid only ever shrinks, and without a bound: its inverse magnifies so much where the data
    never were that samples overflow, and what other layers must make up for is learned slowly.
    Where a scale may be larger than e, a rare image can grow from step to step beyond all numbers.

    Reference: Kingma and Dhariwal 2018, arXiv 1807.03039, table 1; shift before scale as in the
    official code; the bound: Dinh et al. 2016, arXiv 1605.08803, section 4.1.
    """

    def __init__(
        self, channels: int, width: int, kind: Kind, edge: bool = False, factor: float = 1.0
    ) -> None:
        """channels: even; width: of the network's hidden layers; edge, factor: of `Net`."""
        super().__init__()
        half = channels // 2
        self.kind = kind
        self.net = Net(half, width, half if kind == "additive" else channels, edge, factor)

    def parts(self, x1: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """shift and log scale (None: additive), each [B, H, W, C/2]."""
        h = self.net(x1, dtype)
        if self.kind == "additive":
            return h, None
        shift, s = h.chunk(2, dim=3)
        if self.kind == "affine":
            return shift, torch.tanh(s)
        # logsigmoid takes ten times as long on a CPU as the logarithm of a sigmoid
        return shift, torch.sigmoid(s + 2).log()

    def forward(self, x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """x [B, H, W, C] -> (y, log |dy/dx| [B]; None: zero)."""
        x1, x2 = x.chunk(2, dim=3)
        shift, log_scale = self.parts(x1, dtype)
        if log_scale is None:
            return torch.cat([x1, x2 + shift], 3), None
        return torch.cat([x1, (x2 + shift) * log_scale.exp()], 3), log_scale.sum((1, 2, 3))

    def inverse(self, y: Tensor, dtype: torch.dtype) -> Tensor:
        """y [B, H, W, C] -> x."""
        y1, y2 = y.chunk(2, dim=3)
        shift, log_scale = self.parts(y1, dtype)
        x2 = y2 if log_scale is None else y2 * (-log_scale).exp()
        return torch.cat([y1, x2 - shift], 3)


class Standardize(nn.Module):
    """The learned prior of channels that leave at a split, as an affine map to the normal one.

    z = (x2 - mean(x1)) exp(-logs(x1)),  x2 ~ N(mean(x1), exp(logs(x1)))

    Reference: Kingma and Dhariwal 2018, arXiv 1807.03039, figure 2b; the moments start at 0 as in
    the official code.
    """

    def __init__(self, channels: int, edge: bool = False) -> None:
        """channels: of x1, and of x2; edge: of the convolution."""
        super().__init__()
        self.channels = channels
        self.conv = ZeroConv(channels, 2 * channels, edge)

    def _moments(self, x1: Tensor) -> tuple[Tensor, Tensor]:
        return self.conv(x1, x1.dtype).chunk(2, dim=3)

    def forward(self, x1: Tensor, x2: Tensor) -> tuple[Tensor, Tensor]:
        """x1, x2 [B, H, W, C] -> (z [B, H, W, C], log |dz/dx2| [B])."""
        mean, logs = self._moments(x1)
        return (x2 - mean) * (-logs).exp(), -logs.sum((1, 2, 3))

    def inverse(self, x1: Tensor, z: Tensor) -> Tensor:
        """x1, z [B, H, W, C] -> x2."""
        mean, logs = self._moments(x1)
        return torch.addcmul(mean, z, logs.exp())
