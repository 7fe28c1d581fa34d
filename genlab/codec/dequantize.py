"""Bytes as floats with a density: uniform noise within each grey level."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from genlab.core.contract import Codec, Noise, Spec
from genlab.core.errors import ConfigError
from genlab.core.registry import register
from genlab.core.schema import Count, Positive

__all__ = ["Dequantize"]


@register
class Dequantize(Codec):
    """Images of `bits` bits, spread evenly over [-half, half).

    v = floor(u / 2^(8 - bits)),  x = 2 half (v + U) / 2^bits - half,  U ~ U[0, 1)
    log |dx/dv| = D ln(2 half / 2^bits)

    decode(encode(u)) == u for 8 bits; for fewer, the levels are spread over 0..255. The density of
    x bounds the probability of the bytes: Theis et al. 2015, arXiv 1511.01844, section 3.1.
    Fewer bits: Kingma and Dhariwal 2018, arXiv 1807.03039, section 6.
    """

    def __init__(self, spec: Spec, *, bits: Count, half: Positive) -> None:
        """spec: of the stored images, shape (C, H, W); bits: 1 to 8; half: of the range of x."""
        spec.require("images", "dequantize", "codec=points")
        if bits > 8:
            raise ValueError(f"bits={bits}, but stored images have 8; use 1 to 8")
        self.spec = replace(spec, bounds=(-half, half))
        self.bits, self.half = bits, half
        self._levels = 2**bits

    def encode(self, u: Tensor, noise: Noise | None) -> Tensor:
        """u uint8 [B, C, H, W] -> x float32 [B, C, H, W]; without noise U is 1/2."""
        if u.dtype != torch.uint8:
            raise ConfigError(
                f"codec=dequantize takes uint8 images, and these data are {u.dtype}; "
                "use codec=points"
            )
        v = u.bitwise_right_shift(8 - self.bits).float()
        if noise is None:
            v += 0.5
        else:  # in float32 200 + U may round up to 201, another byte; a little less than U may not
            v.add_(noise.uniform(*u.shape[1:]), alpha=1 - 2**-16)
        return v.mul_(2 * self.half / self._levels).sub_(self.half)

    def logdet(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> [B] nats."""
        per_number = math.log(2 * self.half / self._levels)
        return x.new_full((len(x),), math.prod(self.spec.shape) * per_number)

    def decode(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> uint8 [B, C, H, W]; values outside the range are clamped."""
        v = x.float().add(self.half).mul_(self._levels / (2 * self.half)).floor_()
        v.clamp_(0, self._levels - 1).mul_(255 / (self._levels - 1))
        return v.round_().to(torch.uint8)
