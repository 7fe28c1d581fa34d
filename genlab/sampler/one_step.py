"""The sampler of models that need none."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from genlab.core.contract import BoundDenoiser, Noise, Process, Sampler
from genlab.core.errors import ConfigError
from genlab.core.registry import register
from genlab.core.schema import NonNegative

__all__ = ["OneStep"]


@register
class OneStep(Sampler):
    """The sampler of models whose network maps noise to data in one call.

    Such a model (`gan`, `glow`) never calls it; one with a path to integrate is refused.
    temperature: what the noise is multiplied by; below 1 a model of densities draws likelier data.
    """

    follows_path = False

    def __init__(self, *, temperature: NonNegative) -> None:
        self.temperature = temperature

    def __call__(
        self, denoise: BoundDenoiser, z: Tensor, process: Process, noise: Noise
    ) -> Iterator[Tensor]:
        """Raises ConfigError: there is a path to integrate."""
        raise ConfigError(
            "sampler=one_step cannot integrate the path of this model; use sampler=heun"
        )
