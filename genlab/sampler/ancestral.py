"""The sampler of DDPM."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Any, Literal

from torch import Tensor

from genlab.core.contract import Guidance, Model, Noise, Process
from genlab.core.registry import register
from genlab.sampler.noise_levels import Clipped

__all__ = ["Ancestral"]


@register
class Ancestral(Clipped):
    """Each level drawn given the one before and the estimated datum.

    x_s ~ q(x_s | x_t, x0)

    The posterior of the Markov chain whose marginals the path has, between any two of its levels,
    so steps of any stride on any path. The last step adds no noise: it gives the estimate of the
    datum. With as many steps as DDPM's path has levels this is its algorithm 2.

    With variance=learned the model predicts v beside every estimate of the datum, and
    ln c^2 = v ln large + (1 - v) ln small, number by number.

    Reference: Ho et al. 2020, arXiv 2006.11239, eq. 6, 7 and algorithm 2; learned variances and
    strides: Nichol and Dhariwal 2021, arXiv 2102.09672, eq. 15 and section 4.
    """

    def __init__(
        self,
        *given: Any,
        variance: Literal["small", "large", "learned"],
        **levels: Any,
    ) -> None:
        """variance: see `gaussian_path.Step`; learned: of a model with `predict_variance`, on its
        own path without guidance; the rest are of `Clipped`.
        """
        super().__init__(*given, **levels)
        self.variance: Literal["small", "large", "learned"] = variance
        self.learned_variance = variance == "learned"

    def check_model(
        self, model: Model, guidance: Guidance | None, own_path: bool, names: Mapping[str, str]
    ) -> list[str]:
        """A learned variance is of the estimate of the network, on the path of training."""
        if self.variance != "learned":
            return []
        if not model.learned_variance:
            return [
                "sampler.variance=learned is of model=ddpm with model.variance=learned, and "
                f"{names['model']!r} here learns none; use sampler.variance=small"
            ]
        problems = []
        if not own_path:
            problems.append(
                "sampler.variance=learned is of steps on the path of training; use "
                "sampler.through=null, or sampler.variance=small"
            )
        if guidance is not None and guidance.changes_estimate:
            problems.append(
                "sampler.variance=learned is of the estimate that the network gives, and guidance="
                f"{names['guidance']} makes another; use "
                f"{'guidance=none' if guidance.factor != 1 else 'guidance.scale=1'}, or "
                "sampler.variance=small"
            )
        return problems

    def __call__(
        self,
        denoise: Callable[[Tensor, Tensor], Tensor | tuple[Tensor, Tensor]],
        z: Tensor,
        process: Process,
        noise: Noise,
    ) -> Iterator[Tensor]:
        """steps + 1 states [B, *S], from the noise to the sample; denoise: -> x0, or (x0, v)."""
        levels, t = self.noise_levels(process), z.new_empty(len(z))
        x = z * levels[0].b
        yield x
        for here, there in pairwise(levels):
            predicted = denoise(x, t.fill_(here.t))
            x0, v = predicted if isinstance(predicted, tuple) else (predicted, None)
            x0 = self.clipped(x0, x)
            if there.b:
                step, new = here.back(there), noise.normal(*x.shape[1:])
                c = math.sqrt(step.large if self.variance == "large" else step.small)
                if v is not None:
                    new = new * (v.to(x.dtype) * math.log(math.sqrt(step.large) / c)).exp()
                x = (x * step.on_here).add_(x0, alpha=step.on_datum).add_(new, alpha=c)
            else:
                x = x0
            yield x
