"""Denoising score matching along a stochastic differential equation."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from genlab.core.contract import Noise
from genlab.core.registry import register
from genlab.core.schema import Count, Density
from genlab.model.path import FIRST, PathModel

__all__ = ["ScoreSDE"]


@register
class ScoreSDE(PathModel):
    """Regression of the score of a path, the gradient of log p(x_t).

    score of x_t given x0 = -eps / b,  loss = E b^2 |s(x_t, t) + eps / b|^2 = E |net + eps|^2

    The network gives b s, which has one size at all times. weight=likelihood has g^2 / 2 in the
    place of b^2, which with uniform times bounds the negative log-likelihood; g^2 = 2 a^2 sigma
    sigma' is the diffusion of the equation that has this path.

    density=ladder learns `levels` noise levels alone, equal steps of ln sigma between the ends of
    the path: NCSN. On the path `ve` uniform times are its limit of many levels.

    Reference: Song et al. 2020, arXiv 2011.13456, eq. 7; Song et al. 2021, arXiv 2101.09258,
    theorem 1; ladder: Song and Ermon 2019, arXiv 1907.05600, eq. 5 and 6.
    """

    def __init__(
        self,
        *given: Any,
        density: Density | Literal["ladder"],
        levels: Count,
        **objective: Any,
    ) -> None:
        """levels: noise levels of the ladder; the rest are of `PathModel`."""
        plain = "uniform" if density == "ladder" else density
        super().__init__(*given, density=plain, **objective)
        ladder = self._ladder(levels) if density == "ladder" else None
        self.register_buffer("ladder", ladder, persistent=False)  # follows from the config

    def times(self, noise: Noise) -> Tensor:
        """[n] times of the chosen density; see `PathModel.times`."""
        if self.ladder is None:
            return super().times(noise)
        level = noise.uniform() * len(self.ladder)
        return self.ladder[level.long().clamp(max=len(self.ladder) - 1)]

    def _ladder(self, levels: int) -> Tensor:
        """[levels] rising times whose sigma are geometric between the ends of the path."""
        steps = self.process.steps
        ends = [0.0, 1 / steps if steps else FIRST, 1.0]
        first, early, last = self.process.sigma(
            torch.tensor(ends, dtype=torch.float64, device="cpu")
        ).tolist()
        if levels < 2 or not math.isfinite(last):
            raise ValueError(
                f"density=ladder has geometric steps from the least sigma to the largest, and "
                f"with levels={levels} and a largest of {last:g} there are none: give 2 levels or "
                "more and a path that keeps some of the datum, like process=ve"
            )
        low, high = math.log(first or early), math.log(last)
        sigma = torch.linspace(low, high, levels, dtype=torch.float64, device="cpu").exp()
        t = self.process.time(sigma)
        return t if steps is None else (t * steps).round().clamp(min=1) / steps
