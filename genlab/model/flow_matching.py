"""Flow matching."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from genlab.contract import Batch, Model, Noise, Process, Solver, Spec
from genlab.nn.shadow import Shadow
from genlab.registry import register
from genlab.schema import Fraction, NonNegative

__all__ = ["FlowMatching"]


@register
class FlowMatching(Model):
    """Regression of the velocity of a path from data to noise.

    x_t = a x0 + b eps,  u = a' x0 + b' eps,  loss = E |net(x_t, t, y) - u|^2,  t ~ U[0, 1)

    On the linear path u = eps - x0. Labels are dropped with probability `label_dropout`, so that
    the same network also knows the unlabelled field that guidance needs.

    Reference: Lipman et al. 2022, arXiv 2210.02747, eq. 14 (with time reversed: data at t = 0);
    label dropout: Ho and Salimans 2022, arXiv 2207.12598, algorithm 1.
    """

    def __init__(
        self,
        net: nn.Module,
        process: Process,
        spec: Spec,
        *,
        label_dropout: Fraction,
        ema: NonNegative,
    ) -> None:
        """label_dropout: probability; ema: half-life of the average in images, 0 for none."""
        super().__init__()
        self.net, self.process, self.spec = net, process, spec
        self.label_dropout = label_dropout
        self.ema = Shadow(net, ema) if ema else None

    def _coefficients(self, t: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        """a, b, a', b', each [B, 1, ...] to multiply x [B, *S]; float64 until then."""
        shape = [4, -1] + [1] * (x.dim() - 1)
        return torch.stack(self.process.coefficients(t)).to(x.dtype).view(shape).unbind()

    def loss(self, batch: Batch) -> Tensor:
        """[] mean squared error of the velocity, per number of x."""
        x0, y, noise = batch.x, batch.y, batch.noise
        t = noise.uniform()
        eps = noise.normal(*self.spec.shape) if batch.z is None else batch.z
        if y is not None:
            y = y.where(noise.uniform() >= self.label_dropout, -1)  # below 0 is no label
        a, b, da, db = self._coefficients(t, x0)
        u = self.net(a * x0 + b * eps, t, y)
        return (u.float() - (da * x0 + db * eps)).square().mean()

    def field(self, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        """x [B, *S], t [B], y [B] or None -> x0 = (b' x - b u) / (a b' - b a') [B, *S].

        On the linear path x0 = x - t u.
        """
        a, b, da, db = self._coefficients(t, x)
        u = self.drawn_from(self.net)(x, t, y).to(x.dtype)
        return (db * x - b * u) / (a * db - b * da)

    def prior(self, noise: Noise) -> Tensor:
        """[n, *S] standard normal."""
        return noise.normal(*self.spec.shape)

    def transport(self, z: Tensor, y: Tensor | None, noise: Noise, solver: Solver) -> Tensor:
        """z [n, *S] -> [n, *S] along the probability-flow ODE."""
        return solver(self.field, z, y, noise)
