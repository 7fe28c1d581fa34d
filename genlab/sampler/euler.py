"""The first-order ODE sampler."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from torch import Tensor

from genlab.core.contract import BoundDenoiser, Noise, Process
from genlab.core.registry import register
from genlab.sampler.noise_levels import Clipped

__all__ = ["Euler"]


@register
class Euler(Clipped):
    """Euler's method on the probability-flow ODE, in the time of the path.

    x <- x + h u(x, t),  u = a' x0 + b' eps,  h = t_next - t < 0

    Error O(1 / steps); exact where the velocity is constant along the path, which the linear
    path of a single datum is. The last step gives the estimate of the datum. On the linear and on
    EDM's path this is DDIM on the same noise levels; on others it is not.

    Reference: Liu et al. 2022, arXiv 2209.03003, section 2.1.
    """

    def __call__(
        self, denoise: BoundDenoiser, z: Tensor, process: Process, noise: Noise
    ) -> Iterator[Tensor]:
        """steps + 1 states [B, *S], from the noise to the sample."""
        levels, denoise_at = self.noise_levels(process), self.denoise_at(denoise, z)
        x = z * levels[0].b
        yield x
        for here, there in pairwise(levels):
            x0 = denoise_at(x, here)
            if there.b:
                h, p, q = there.t - here.t, *here.velocity
                x = (x * (1 + h * p)).add_(x0, alpha=h * q)
            else:
                x = x0
            yield x
