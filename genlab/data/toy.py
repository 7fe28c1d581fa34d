"""Distributions of the plane, small enough to see everything a model does."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Generator, Tensor

from genlab.core.contract import Dataset, Spec, Split
from genlab.core.registry import register
from genlab.core.schema import Count, Natural

__all__ = ["Toy"]


@register
class Toy(Dataset):
    """Points of the plane from one of six distributions of about unit scale.

    eight_gaussians: means sqrt(2) (cos, sin)(2 pi k / 8), deviation 0.1; label: the mode k.
    grid25: means (i, j) / sqrt(2), i and j in -2..2, deviation 0.05; label: 5 (i + 2) + j + 2.
    two_moons: half circles (cos a, sin a) and (1 - cos a, 1/2 - sin a), a uniform on [0, pi],
        centred, deviation 0.05; label: the moon.
    checkerboard: uniform on the 8 cells of a 4 x 4 board over [-2, 2]^2 whose column + row is
        even; label: 2 row + column // 2, rows and columns counted from the lower left.
    pinwheel: 5 arms of radius sqrt(2) (1 + 0.3 n), turned by 2 pi k / 5 + exp(0.3 n) / 4, wide
        0.1 sqrt(2); label: the arm k. After Johnson et al., arXiv 1603.06277.
    swiss_roll: (a cos a, a sin a) / 7, a uniform on [3 pi / 2, 9 pi / 2], deviation 0.05; one
        curve, hence no labels.
    Each draw is independent: mode, position and noise. The test split has as many points, from
    a stream of its own.

    kind: which of them. count: points of the training split. draw_seed: of the points; the seed of
    a run does not change them.
    """

    def __init__(
        self,
        *,
        kind: Literal[
            "eight_gaussians", "grid25", "two_moons", "checkerboard", "pinwheel", "swiss_roll"
        ],
        count: Count,
        draw_seed: Natural,
    ) -> None:
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {kind!r}")
        if not 1 <= count <= 10**8:  # 1.6 GB with labels
            raise ValueError(f"count must be between 1 and 100 million, not {count}")
        if not 0 <= draw_seed < 2**62:
            raise ValueError(f"draw_seed must be between 0 and 2^62, not {draw_seed}")
        self.draw, classes = KINDS[kind]
        self.count = count
        self.draw_seed = draw_seed
        self.spec = Spec((2,), classes)

    def load(self, split: str) -> Split:
        """split "train" or "test" -> float32 [count, 2], and labels if there are some."""
        g = Generator().manual_seed(2 * self.draw_seed + {"train": 0, "test": 1}[split])
        classes = self.spec.classes or 1
        y = torch.randint(classes, (self.count,), generator=g)
        x = self.draw(y, g).float()
        return Split(x, None if self.spec.classes is None else y)


def _uniform(n: int, g: Generator) -> Tensor:
    return torch.rand(n, generator=g, dtype=torch.float64)


def _normal(n: int, g: Generator) -> Tensor:
    return torch.randn(n, 2, generator=g, dtype=torch.float64)


def _polar(r: Tensor | float, a: Tensor) -> Tensor:
    return torch.stack([r * torch.cos(a), r * torch.sin(a)], dim=1)


def _eight_gaussians(y: Tensor, g: Generator) -> Tensor:
    return _polar(math.sqrt(2), y.double() * (math.tau / 8)) + 0.1 * _normal(len(y), g)


def _grid25(y: Tensor, g: Generator) -> Tensor:
    means = torch.stack([y // 5 - 2, y % 5 - 2], dim=1) / math.sqrt(2)
    return means + 0.05 * _normal(len(y), g)


def _two_moons(y: Tensor, g: Generator) -> Tensor:
    arc = _polar(1.0, math.pi * _uniform(len(y), g))
    lower = torch.tensor([1.0, 0.5], dtype=torch.float64) - arc
    centre = torch.tensor([0.5, 0.25], dtype=torch.float64)
    return torch.where(y[:, None] == 0, arc, lower) - centre + 0.05 * _normal(len(y), g)


def _checkerboard(y: Tensor, g: Generator) -> Tensor:
    row = y // 2
    column = 2 * (y % 2) + row % 2
    corner = torch.stack([column, row], dim=1) - 2
    return corner + torch.stack([_uniform(len(y), g), _uniform(len(y), g)], dim=1)


def _pinwheel(y: Tensor, g: Generator) -> Tensor:
    noise = _normal(len(y), g)
    along, across = 1 + 0.3 * noise[:, 0], 0.1 * noise[:, 1]
    a = y * (math.tau / 5) + 0.25 * torch.exp(0.3 * noise[:, 0])
    return math.sqrt(2) * (_polar(along, a) + _polar(across, a + math.pi / 2))


def _swiss_roll(y: Tensor, g: Generator) -> Tensor:
    a = 1.5 * math.pi * (1 + 2 * _uniform(len(y), g))
    return _polar(a, a) / 7 + 0.05 * _normal(len(y), g)


KINDS: dict[str, tuple[Callable[[Tensor, Generator], Tensor], int | None]] = {
    "eight_gaussians": (_eight_gaussians, 8),
    "grid25": (_grid25, 25),
    "two_moons": (_two_moons, 2),
    "checkerboard": (_checkerboard, 8),
    "pinwheel": (_pinwheel, 5),
    "swiss_roll": (_swiss_roll, None),
}
"""Name -> (draw points given their modes, number of modes that are labels)."""
