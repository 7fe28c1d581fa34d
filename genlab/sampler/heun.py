"""The second-order ODE sampler."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Literal

from torch import Tensor

from genlab.contract import Noise, Process
from genlab.registry import register
from genlab.sampler.grid import grid
from genlab.schema import Count, Positive

__all__ = ["Heun"]


@register
class Heun:
    """Heun's method on the probability-flow ODE, in the time of the path.

    x' = x + h u(x, t),  x <- x + h/2 (u(x, t) + u(x', t_next)),  h = t_next - t < 0

    The last step gives the estimate of the datum, because eps has no meaning there; that costs no
    order. Error O(1 / steps^2), 2 steps - 1 evaluations.

    Reference: Karras et al. 2022, arXiv 2206.00364, algorithm 1.
    """

    def __init__(
        self,
        *,
        steps: Count,
        grid: Literal["uniform", "quadratic", "karras"] | list[float],
        span: list[Positive] | None,
        rho: Positive,
    ) -> None:
        """steps: of the grid; the network is evaluated 2 steps - 1 times."""
        self.steps, self.grid, self.span, self.rho = steps, grid, span, rho

    def __call__(
        self, field: Callable[[Tensor, Tensor], Tensor], z: Tensor, process: Process, noise: Noise
    ) -> Iterator[Tensor]:
        """steps + 1 states [B, *S], from the noise to the sample."""
        path = grid(process, self.steps, self.grid, self.span, self.rho)
        x, t = z * path[0].b, z.new_empty(len(z))
        yield x
        for here, there in pairwise(path):
            x0 = field(x, t.fill_(here.t)).to(x.dtype)
            if there.b:
                h, (p, q), (p2, q2) = there.t - here.t, here.velocity, there.velocity
                euler = (x * (1 + h * p)).add_(x0, alpha=h * q)
                ahead = field(euler, t.fill_(there.t)).to(x.dtype)
                # x + h/2 (p x + q x0 + p2 euler + q2 ahead), where the first half of the sum is
                # the mean of x and euler.
                x = x.lerp(euler, 0.5)
                x.add_(euler, alpha=h / 2 * p2).add_(ahead, alpha=h / 2 * q2)
            else:
                x = x0
            yield x
