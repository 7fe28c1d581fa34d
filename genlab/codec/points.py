"""Points of the plane, brought to unit size."""

from __future__ import annotations

import math

from torch import Tensor

from genlab.core.contract import Codec, Noise, Spec
from genlab.core.errors import ConfigError
from genlab.core.registry import register
from genlab.core.schema import Positive

__all__ = ["Points"]


@register
class Points(Codec):
    """The scaling of float data to the size of the noise.

    x = u / scale,  logdet = -D ln(scale) for D numbers a datum
    """

    def __init__(self, spec: Spec, *, scale: Positive) -> None:
        """spec: of the stored points; scale: their typical size, in units of the data."""
        spec.require("points", "points", "codec=pixels")
        self.spec, self.scale = spec, scale

    def encode(self, u: Tensor, noise: Noise | None) -> Tensor:
        """u float [B, D] -> x float32 [B, D]."""
        if not u.is_floating_point():
            raise ConfigError(
                f"codec=points takes float points, and these data are {u.dtype}; use codec=pixels"
            )
        return u.float() / self.scale

    def logdet(self, x: Tensor) -> Tensor:
        """x [B, D] -> [B] nats."""
        return x.new_full((len(x),), -math.prod(self.spec.shape) * math.log(self.scale))

    def decode(self, x: Tensor) -> Tensor:
        """x [B, D] -> float32 points [B, D] in units of the data."""
        return x.float() * self.scale
