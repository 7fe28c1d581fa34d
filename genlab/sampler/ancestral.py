"""The sampler of DDPM."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Literal

from torch import Tensor

from genlab.core.contract import Noise, Process, Spec
from genlab.core.registry import register
from genlab.core.schema import Count, Grid, Positive
from genlab.sampler.noise_levels import Gridded, bounds

__all__ = ["Ancestral"]


@register
class Ancestral(Gridded):
    """Each level drawn given the one before and the estimated datum.

    x_s ~ q(x_s | x_t, x0)

    The posterior of the Markov chain whose marginals the path has, between any two of its levels,
    so steps of any stride on any path. The last step adds no noise: it gives the estimate of the
    datum. With as many steps as DDPM's path has levels this is its algorithm 2.

    The variance may be learned: then the model says with every estimate where between the small
    and the large one it lies, number by number, ln c^2 = share ln large + (1 - share) ln small.

    Reference: Ho et al. 2020, arXiv 2006.11239, eq. 6, 7 and algorithm 2; learned variances and
    strides: Nichol and Dhariwal 2021, arXiv 2102.09672, eq. 15 and section 4.
    """

    def __init__(
        self,
        spec: Spec,
        *,
        steps: Count | None,
        grid: Grid | list[Positive],
        span: list[Positive] | None,
        rho: Positive,
        variance: Literal["small", "large", "learned"],
        clip: bool,
    ) -> None:
        """steps: network evaluations, None for all levels of the path.

        spec: of model space. grid, span, rho: see `sampler.grid`.
        variance: see `gaussian.Step`; learned: of a model that `Spreads`,
        alone on its own path; clip: keep the estimated datum in the range of its codec.
        """
        self.steps, self.grid, self.span, self.rho = steps, grid, span, rho
        self.variance: Literal["small", "large", "learned"] = variance
        self.bounds, self.learned_variance = bounds(spec, clip), variance == "learned"

    def __call__(
        self,
        denoise: Callable[[Tensor, Tensor], Tensor | tuple[Tensor, Tensor]],
        z: Tensor,
        process: Process,
        noise: Noise,
    ) -> Iterator[Tensor]:
        """steps + 1 states [B, *S], from the noise to the sample."""
        path, t = self.noise_levels(process), z.new_empty(len(z))
        x = z * path[0].b
        yield x
        for here, there in pairwise(path):
            said = denoise(x, t.fill_(here.t))
            x0, share = said if isinstance(said, tuple) else (said, None)
            x0 = self.kept(x0, x)
            if there.b:
                step, new = here.back(there), noise.normal(*x.shape[1:])
                c = math.sqrt(step.large if self.variance == "large" else step.small)
                if share is not None:
                    new = new * (share.to(x.dtype) * math.log(math.sqrt(step.large) / c)).exp()
                x = (x * step.on_here).add_(x0, alpha=step.on_datum).add_(new, alpha=c)
            else:
                x = x0
            yield x
