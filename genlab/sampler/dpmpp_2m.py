"""The second-order sampler that remembers its last estimate."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

from torch import Tensor

from genlab.core.contract import BoundDenoiser, Noise, Process
from genlab.core.registry import register
from genlab.sampler.noise_levels import Clipped

__all__ = ["DPMSolverPlusPlus"]


@register
class DPMSolverPlusPlus(Clipped):
    """DPM-Solver++(2M): multistep in lambda = ln(a / b).

    x_s = b_s / b_t x_t + (a_s - a_t b_s / b_t) D,
    D = x0 + h / (2 h_last) (x0 - x0_last),  h = lambda_s - lambda_t

    Exact but for the estimate, which is taken as linear from x0_last, that of the step before.
    D = x0, which is DDIM, in the first step and the last and after a level with a = 0, whose
    lambda is infinite. One evaluation a step, error O(1 / steps^2), on a uniform grid to the datum
    O(ln(steps) / steps^2).

    Reference: Lu et al. 2022, arXiv 2211.01095, algorithm 2.
    """

    def __call__(
        self, denoise: BoundDenoiser, z: Tensor, process: Process, noise: Noise
    ) -> Iterator[Tensor]:
        """steps + 1 states [B, *S], from the noise to the sample."""
        levels, denoise_at = self.noise_levels(process), self.denoise_at(denoise, z)
        x = z * levels[0].b
        yield x
        last, before = None, math.inf  # the estimate and the h of the step before
        for here, there in pairwise(levels):
            x0 = denoise_at(x, here)
            if there.b:
                h = math.log(here.sigma / there.sigma)  # infinite where a = 0, as 1 / h is 0 then
                ahead = x0 if last is None else x0.lerp(last, -h / (2 * before))
                left = there.b / here.b
                x = (x * left).add_(ahead, alpha=there.a - here.a * left)
                last, before = x0, h
            else:
                x = x0
            yield x
