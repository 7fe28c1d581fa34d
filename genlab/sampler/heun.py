"""The second-order ODE sampler."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

from torch import Tensor

from genlab.contract import Noise, Process
from genlab.registry import register
from genlab.sampler.ode import nodes, uniform
from genlab.schema import Count

__all__ = ["Heun"]


@register
class Heun:
    """Heun's method on the probability-flow ODE, uniform in t.

    x' = x + h u(x, t),  x <- x + h/2 (u(x, t) + u(x', t_next)),  h = t_next - t < 0

    The last step, into t = 0, is an Euler step, because eps has no meaning there; that costs no
    order, as one step of Euler errs by O(h^2). Error O(1 / steps^2), 2 steps - 1 evaluations.

    Reference: Karras et al. 2022, arXiv 2206.00364, algorithm 1.
    """

    def __init__(self, *, steps: Count) -> None:
        """steps: steps of the grid; the network is evaluated 2 steps - 1 times."""
        self.steps = steps

    def __call__(
        self, field: Callable[[Tensor, Tensor], Tensor], z: Tensor, process: Process, noise: Noise
    ) -> Iterator[Tensor]:
        """steps + 1 states [B, *S], from z to the sample."""
        x, t = z, z.new_empty(len(z))
        yield x
        for here, there in pairwise(nodes(process, uniform(self.steps))):
            h = there.t - here.t
            x0 = field(x, t.fill_(here.t)).to(x.dtype)
            euler = (x * (1 + h * here.p)).add_(x0, alpha=h * here.q)
            if there.t > 0:
                ahead = field(euler, t.fill_(there.t)).to(x.dtype)
                # x + h/2 (p x + q x0 + p' euler + q' ahead), where the first half of the sum is
                # the mean of x and euler.
                x = x.lerp(euler, 0.5)
                x.add_(euler, alpha=h / 2 * there.p).add_(ahead, alpha=h / 2 * there.q)
            else:
                x = euler
            yield x
