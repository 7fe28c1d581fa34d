"""The noise levels a sampler visits."""

from __future__ import annotations

from itertools import pairwise

import torch

from genlab.contract import Process
from genlab.errors import ConfigError
from genlab.gaussian import Level, levels

__all__ = ["grid"]

USUAL = (0.002, 80.0)
"""Least and largest sigma of Karras' grid where nothing else is asked, as in his paper."""


def grid(
    process: Process,
    steps: int,
    kind: str | list[float],
    span: list[float] | None,
    rho: float,
) -> list[Level]:
    """`steps` levels with noise, from the loudest to the quietest, and the datum.

    kind: uniform: times equally spaced from 1; quadratic: their roots equally spaced; karras:
    sigma^(1/rho) equally spaced; a list: these sigmas, falling. span: least and largest sigma,
    None for the whole path (for karras .002 to 80, or what of it the path has).

    Raises ConfigError where the path has no such levels.
    """
    if isinstance(kind, list):
        return _at(process, kind)
    low, high = span or (None, None)
    if kind == "karras":
        start, end = _ends(process)
        low = max(USUAL[0], start) if low is None else low
        high = min(USUAL[1], end) if high is None else high
        roots = torch.linspace(high ** (1 / rho), low ** (1 / rho), steps, dtype=torch.float64)
        return _at(process, [high, *(roots[1:] ** rho).tolist()])
    start, end = _times(process, low, high)
    power = 2 if kind == "quadratic" else 1
    # a path that gets to the datum by itself does so in the last step, past the last noisy level
    reaches = low is None and _ends(process)[0] == 0
    t = torch.linspace(
        end ** (1 / power), start ** (1 / power), steps + reaches, dtype=torch.float64
    )
    times = (t[:steps] ** power).tolist()
    if process.steps is None:
        return levels(process, times)
    whole = [round(t * process.steps) for t in times]
    if len({*whole, 0}) <= steps:
        raise ConfigError(
            f"sampler.steps={steps}: the {process.steps} noise levels of this path have no "
            f"{steps} different ones on a {kind} grid; use fewer steps or sampler.grid=karras"
        )
    return levels(process, [i / process.steps for i in whole])


def _ends(process: Process) -> tuple[float, float]:
    """Least and largest sigma of a path."""
    first, last = process.sigma(torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist()
    return first, last


def _checked(process: Process, sigmas: list[float]) -> torch.Tensor:
    first, last = _ends(process)
    for sigma in sigmas:
        if not (sigma > 0 and first * (1 - 1e-9) <= sigma <= last * (1 + 1e-9)):
            raise ConfigError(
                f"sigma={sigma:g} lies outside this path, whose sigma goes from {first:g} to "
                f"{last:g}; change sampler.span or sampler.grid, or follow another path with "
                "sampler.through"
            )
    return torch.tensor(sigmas, dtype=torch.float64)


def _times(process: Process, low: float | None, high: float | None) -> tuple[float, float]:
    """The times of the least and largest sigma, 0 and 1 for None."""
    ends = [v for v in (low, high) if v is not None]
    found = process.time(_checked(process, ends)).tolist() if ends else []
    start = found.pop(0) if low is not None else 0.0
    return start, found[0] if found else 1.0


def _at(process: Process, sigmas: list[float]) -> list[Level]:
    if any(a <= b for a, b in pairwise(sigmas)) or not sigmas:
        raise ConfigError(f"sampler.grid={sigmas} must fall from the largest sigma to the least")
    return levels(process, process.time(_checked(process, sigmas)).tolist())
