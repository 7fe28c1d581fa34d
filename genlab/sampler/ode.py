"""What the ODE samplers share: the grid of times and the velocity in terms of x0."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch

from genlab.contract import Process

__all__ = ["Node", "nodes", "uniform"]


class Node(NamedTuple):
    """One time of the grid, where the probability-flow velocity is u = p x_t + q x0.

    From u = a' x0 + b' eps and eps = (x_t - a x0) / b follow p = b'/b and q = a' - a b'/b.
    The last node of a path has b = 0: no velocity can be asked there, its p and q are 0.
    """

    t: float
    p: float
    q: float


def nodes(process: Process, times: Iterable[float]) -> list[Node]:
    """The nodes of a grid of times, as Python floats computed in float64.

    Floats, because a sampler that reads device scalars waits for the device at every step.
    """
    t = torch.tensor(list(times), dtype=torch.float64)
    columns = (c.tolist() for c in (t, *process.coefficients(t)))
    return [
        Node(t, db / b, da - a * db / b) if b > 0 else Node(t, 0.0, 0.0)
        for t, a, b, da, db in zip(*columns, strict=True)
    ]


def uniform(steps: int) -> list[float]:
    """steps + 1 times from 1 to 0, equally spaced."""
    return [(steps - i) / steps for i in range(steps + 1)]
