"""Images as floats in [-1, 1]."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from genlab.core.contract import Codec, Noise, Spec
from genlab.core.errors import ConfigError
from genlab.core.registry import register

__all__ = ["Pixels"]


@register
class Pixels(Codec):
    """The linear map between bytes 0..255 and floats in [-1, 1].

    x = u / 127.5 - 1;  u = round(127.5 (x + 1)), clamped

    decode(encode(u)) == u for every byte. Nothing is dequantized, so there is no density.
    """

    def __init__(self, spec: Spec) -> None:
        """spec: of the stored images, shape (C, H, W)."""
        spec.require("images", "pixels", "codec=points")
        self.spec = replace(spec, bounds=(-1.0, 1.0))

    def encode(self, u: Tensor, noise: Noise | None) -> Tensor:
        """u uint8 [B, C, H, W] -> x float32 [B, C, H, W] in [-1, 1]."""
        if u.dtype != torch.uint8:
            raise ConfigError(
                f"codec=pixels takes uint8 images, and these data are {u.dtype}; use codec=points"
            )
        return u.float().div_(127.5).sub_(1)

    def logdet(self, x: Tensor) -> None:
        """None: bytes that are not dequantized have no density."""

    def decode(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> uint8 [B, C, H, W]; values outside [-1, 1] are clamped."""
        return x.float().add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)
