"""Data whose denoiser is known in closed form, and samplers as their yaml has them.

For x0 ~ N(m, sd^2) the best estimate is x0 = m + a sd^2 / v (x_t - a m), v = a^2 sd^2 + b^2, and
the probability flow keeps (x_t - a m) / sqrt(v) constant.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from genlab.core import registry
from tests.helpers.paths import SPEC, made

MEAN, SD = 0.7, 0.4
SAMPLERS = [n for n in registry.names("sampler") if n != "one_step"]
BOUNDS = (-1.0, 1.0)
CLIPPED = ("ancestral", "ddim", "dpmpp_2m", "euler", "heun")


def sampler(name: str, **keys):
    """A sampler with the keys of its yaml but for those given; it does not clip."""
    if name in CLIPPED:
        keys = {"clip": False, **keys}
    return made("sampler", name, keys, spec=replace(SPEC, bounds=BOUNDS))


class Gaussian:
    """The exact denoiser of N(MEAN, SD^2); remembers what it was asked."""

    def __init__(self, process, mean: float = MEAN, sd: float = SD) -> None:
        self.process, self.mean, self.sd = process, mean, sd
        self.times: list[float] = []
        self.states: list[Tensor] = []

    def __call__(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        assert (t == t[0]).all()
        self.times.append(t[0].item())
        self.states.append(x.clone())
        coefficients = self.process.coefficients(t)
        a, b, _, _ = (c.to(x.dtype).view(-1, *[1] * (x.dim() - 1)) for c in coefficients)
        variance = (a * self.sd) ** 2 + b**2
        return self.mean + a * self.sd**2 / variance * (x - a * self.mean)


def z() -> Tensor:
    return torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]


def last(states) -> Tensor:
    *_, x = states
    return x


def flow(process, levels) -> Tensor:
    """Where the exact flow leads b z of the first level: the estimate at the last with noise."""
    first, quietest = levels[0], levels[-2]
    root = [((level.a * SD) ** 2 + level.b**2) ** 0.5 for level in (first, quietest)]
    same = (first.b * z() - first.a * MEAN) / root[0]
    return MEAN + quietest.a * SD**2 / root[1] * same


class Impulses:
    """Noise that shows what becomes of each draw: of call i it is 1 in row i + 1, else 0."""

    def __init__(self, rows: int) -> None:
        self.n, self.calls = rows, 0

    def normal(self, *shape: int) -> Tensor:
        out = torch.zeros(self.n, *shape)
        self.calls += 1
        out[self.calls] = 1
        return out


def influences(sampler, process, rows: int) -> tuple[Tensor, float, Gaussian]:
    """What the start and each draw contribute to a sample of Gaussian data, and the rest.

    All is linear there, so the variance of a sample is the sum of squares of the first result;
    the second is its mean.
    """
    start, noise = torch.zeros(rows, 1, dtype=torch.float64), Impulses(rows)
    start[0] = 1
    denoiser = Gaussian(process)
    x = last(sampler(denoiser, start, process, noise))[:, 0]
    assert noise.calls < rows - 1, "the last row sees no noise"
    return (x - x[-1])[: noise.calls + 1], x[-1].item(), denoiser
