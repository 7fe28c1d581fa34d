"""The noise levels a sampler visits."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from genlab.core.contract import BoundDenoiser, Process, Sampler, Spec
from genlab.core.errors import ConfigError
from genlab.core.gaussian_path import NoiseLevel, TruncatedPath, noise_levels
from genlab.core.schema import Count, Grid, Positive

__all__ = ["Clipped", "Gridded", "Spanned", "ends", "grid"]

MANY = 1000
"""Levels by default, of a path that has no number of its own."""

USUAL = (0.002, 80.0)
"""Least and largest sigma of grids in sigma by default, as in EDM's paper."""

NEAR = 1e-3
"""How far outside a path a sigma may lie, in parts: DDPM's quietest is .0100005, written .01."""


class Spanned(Sampler):
    """A sampler that can begin and end at other levels than the path."""

    def __init__(self, *, span: list[Positive] | None) -> None:
        """span: least and largest sigma, None for the whole path."""
        self.span = span

    @property
    def start_given(self) -> bool:
        """Whether there is a span."""
        return self.span is not None


class Gridded(Spanned):
    """A sampler that visits the levels of a grid."""

    bounds: tuple[float, float] | None = None  # estimates are kept between them

    def __init__(
        self,
        *,
        steps: Count | None,
        grid: Grid | list[Positive],
        rho: Positive,
        **span: Any,
    ) -> None:
        """steps: levels with noise, None for all of the path, as many as the grid where that is
        a list; grid, span, rho: see `grid`."""
        super().__init__(**span)
        self.grid, self.rho = grid, rho
        self.steps = len(grid) if isinstance(grid, list) else steps

    @property
    def start_given(self) -> bool:
        """Whether there is a span, or a list of levels."""
        return super().start_given or isinstance(self.grid, list)

    def noise_levels(self, process: Process) -> list[NoiseLevel]:
        """Falling levels with noise, and the datum."""
        steps = self.steps or process.steps or MANY
        return grid(process, steps, self.grid, self.span, self.rho)

    def check(self, process: Process, spec: Spec) -> None:
        """Raises ConfigError where the path lacks the levels."""
        self.noise_levels(process)

    def start(self, process: Process) -> tuple[float, float]:
        """a and b of the loudest level."""
        first = self.noise_levels(process)[0]
        return first.a, first.b

    def denoise_at(
        self, denoise: BoundDenoiser, z: Tensor
    ) -> Callable[[Tensor, NoiseLevel], Tensor]:
        """The denoiser of levels: (x like z [B, *S], level) -> x0 [B, *S] of x's type."""
        t = z.new_empty(len(z))

        return lambda x, level: self.clipped(denoise(x, t.fill_(level.t)), x)

    def clipped(self, x0: Tensor, x: Tensor) -> Tensor:
        """The estimate x0 [B, *S] as a sampler takes it, of the type of the state x [B, *S]."""
        x0 = x0.to(x.dtype)
        return x0 if self.bounds is None else x0.clamp(*self.bounds)


class Clipped(Gridded):
    """Samplers of a grid that can keep estimates in the range of the data."""

    def __init__(self, spec: Spec, *, clip: bool, **levels: Any) -> None:
        """spec: of model space; clip: keep the estimated datum in the range of its codec.

        Raises ValueError where the data have no range.
        """
        super().__init__(**levels)
        if clip and spec.bounds is None:
            raise ValueError(
                "clip=true keeps estimates in the range of the data, and points have none; use "
                "sampler.clip=false"
            )
        self.bounds = spec.bounds if clip else None


def grid(
    process: Process,
    steps: int,
    kind: str | list[float],
    span: list[float] | None,
    rho: float,
) -> list[NoiseLevel]:
    """`steps` levels with noise, from the loudest to the quietest, and the datum.

    kind: how they are spaced.

        auto       karras where time is sigma, as on EDM's path, and uniform elsewhere
        uniform    times equally, from 1
        quadratic  roots of times equally
        geometric  ln sigma equally
        karras     sigma^(1/rho) equally (Karras et al. 2022, arXiv 2206.00364, eq. 5)
        a list     these sigmas, falling, as many as they are, whatever `steps` is

    span: least and largest sigma, None for the whole path (for geometric and karras .002 to 80, or
    what of it the path has). A discrete path is visited at its own times, but for grids in sigma.

    Raises ConfigError where the path has no such levels.
    """
    if isinstance(kind, list):
        return _at(process, kind)
    low, high = ends(process, span)
    if kind == "auto":  # times equal in sigma would jump from far above the data to the datum
        kind = "karras" if _in_sigma(process) else "uniform"
    if kind in ("geometric", "karras"):
        if span is None:
            low, high = max(low, USUAL[0]), min(high, USUAL[1])
        if kind == "karras":
            roots = torch.linspace(high ** (1 / rho), low ** (1 / rho), steps, dtype=torch.float64)
            sigmas = (roots**rho).tolist()
        else:
            sigmas = torch.logspace(
                math.log10(high), math.log10(low), steps, dtype=torch.float64
            ).tolist()
        return _at(process, [high, *sigmas[1:-1], low][:steps])
    start, end = 0.0, 1.0
    if span is not None:
        start, end = process.time(_float64(low, high)).tolist()
    power = 2 if kind == "quadratic" else 1
    # a path that gets to the datum by itself does so in the last step, past the last noisy level
    reaches = span is None and process.sigma(_float64(0.0)).item() == 0
    t = torch.linspace(
        end ** (1 / power), start ** (1 / power), steps + reaches, dtype=torch.float64
    )
    times = (t[:steps] ** power).tolist()
    if process.steps is None:
        return noise_levels(process, times)
    _most(process, steps)
    whole = [round(t * process.steps) for t in times]
    if len({*whole, 0}) <= steps:
        raise ConfigError(
            f"sampler.steps={steps}: a {kind} grid meets some of the {process.steps} noise levels "
            "of this path twice; use fewer steps, or sampler.grid=uniform on the whole path"
        )
    return noise_levels(process, [i / process.steps for i in whole])


def ends(process: Process, span: list[float] | None) -> tuple[float, float]:
    """Least and largest sigma: those of `span`, or of the path, a discrete one's first level.

    Raises ConfigError where the path does not have them.
    """
    if span is None:
        first = 0.0 if process.steps is None else 1 / process.steps
        low, high = process.sigma(_float64(first, 1.0)).tolist()
        return low, high
    if len(span) != 2 or span[0] >= span[1]:
        raise ConfigError(
            f"sampler.span={span} must be the least and the largest sigma, e.g. [.002,80]"
        )
    _inside(process, span)
    return span[0], span[1]


def _at(process: Process, sigmas: list[float]) -> list[NoiseLevel]:
    _inside(process, sigmas)
    _most(process, len(sigmas))
    times = process.time(_float64(*sigmas)).tolist()
    if any(a <= b for a, b in pairwise(times)) or not sigmas:
        raise ConfigError(
            f"sampler.grid={sigmas} must fall from the largest sigma to the least, e.g. [80,5,.1]"
        )
    return noise_levels(process, times)


def _most(process: Process, steps: int) -> None:
    if process.steps is not None and steps > process.steps:
        above = ""
        if isinstance(process, TruncatedPath):
            last = process.sigma(_float64(1.0)).item()
            above = f" up to sigma={last:.3g}, the loudest that was learned"
        raise ConfigError(
            f"sampler.steps={steps}: this path has {process.steps} noise levels{above}; "
            f"use at most {process.steps}"
        )


def _inside(process: Process, sigmas: list[float]) -> None:
    first, last = ends(process, None)
    for sigma in sigmas:
        if not (sigma > 0 and first * (1 - NEAR) <= sigma <= last * (1 + NEAR)):
            raise ConfigError(
                f"sigma={sigma:g} lies outside this path, whose sigma goes from {first:g} to "
                f"{last:g}; change sampler.span or sampler.grid, or follow another path with "
                "sampler.through"
            )


def _in_sigma(process: Process) -> bool:
    """Whether time is sigma, but for a factor."""
    quarter, whole = process.sigma(_float64(0.25, 1.0)).tolist()
    return math.isclose(4 * quarter, whole, rel_tol=1e-9)  # not where both are infinite


def _float64(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)
