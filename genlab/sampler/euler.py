"""The first-order ODE sampler."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

from torch import Tensor

from genlab.contract import Noise, Process
from genlab.registry import register
from genlab.sampler.ode import nodes, uniform
from genlab.schema import Count

__all__ = ["Euler"]


@register
class Euler:
    """Euler's method on the probability-flow ODE, uniform in t.

    x <- x + h u(x, t),  u = a' x0 + b' eps,  h = t_next - t < 0

    Error O(1 / steps); exact where the velocity is constant along the path, which the linear
    path of a single datum is. `steps` network evaluations. On the linear path this is DDIM on the
    same noise levels.

    Reference: Liu et al. 2022, arXiv 2209.03003, section 2.1.
    """

    def __init__(self, *, steps: Count) -> None:
        """steps: network evaluations."""
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
            x = (x * (1 + h * here.p)).add_(x0, alpha=h * here.q)
            yield x
