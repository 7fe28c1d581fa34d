"""Data whose paths are known in closed form, and noise whose signs are all there are."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from tests.helpers.paths import PATHS, path

FIRST = 1e-5

BY_NAME = {name: path(name) for name in [*PATHS, "ddpm"]}


@dataclass
class Signs:
    """Noise whose uniform numbers are given: the signs of a probe are those of u - 1/2, turned."""

    u: Tensor

    @property
    def n(self) -> int:
        return len(self.u)

    def uniform(self, *shape: int) -> Tensor:
        return self.u

    def normal(self, *shape: int) -> Tensor:
        raise AssertionError("a probe has random signs")


def every_sign(x: Tensor) -> tuple[Tensor, Signs]:
    """x [B, D] -> each row under 2^(D-1) signs, [2^(D-1) B, D], and that noise.

    e'Je and (-e)'J(-e) are the same, and the mean over all signs of e'Je is the trace.
    """
    half = torch.tensor(list(product([0.25, 0.75], repeat=x.shape[1] - 1)))
    signs = torch.cat([torch.full((len(half), 1), 0.25), half], 1)
    return x.repeat(len(half), 1), Signs(signs.repeat_interleave(len(x), 0))


def exact(density, x: Tensor) -> Tensor:
    """density(x, noise) [B] -> [B] its mean over all signs: with the exact trace."""
    rows, noise = every_sign(x)
    return density(rows, noise).view(-1, len(x)).mean(0)


def ends(process) -> tuple[float, float]:
    """Least and largest sigma that a likelihood is integrated between."""
    first = FIRST if process.steps is None else 1 / process.steps
    low, high = process.sigma(torch.tensor([first, 1.0], dtype=torch.float64)).tolist()
    return low, high


def gaussian(process, covariance: Tensor):
    """denoise(x, t, y) of data N(0, covariance [D, D]): a C (a^2 C + b^2)^-1 x."""
    one = torch.eye(len(covariance), dtype=torch.float64)

    def denoiser(x, t, y):
        a, b, _, _ = (c.view(-1, 1, 1) for c in process.coefficients(t))
        matrix = a * covariance @ torch.linalg.inv(a.square() * covariance + b.square() * one)
        return (matrix @ x.double()[:, :, None])[:, :, 0].to(x.dtype)

    return denoiser
