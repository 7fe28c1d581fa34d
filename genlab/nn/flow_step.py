"""Steps of flow at one size, and what they keep in memory for the gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from genlab.nn.flow import Coupling, Kind, Mixing, product

__all__ = ["FlowSteps"]


class FlowSteps(nn.Module):
    """K steps of flow at one size: actnorm, invertible 1x1 convolution, coupling.

    reversible: they keep the last state alone and compute the others back from it while the
    gradient is made, which costs each coupling network one more evaluation.

    Reference: Kingma and Dhariwal 2018, arXiv 1807.03039, figure 2; the gradient without states:
    Gomez et al. 2017, arXiv 1707.04585, algorithm 1.
    """

    def __init__(
        self,
        steps: int,
        channels: int,
        width: int,
        coupling: Kind,
        reversible: bool,
        edge: bool = False,
        factor: float = 1.0,
    ) -> None:
        """steps: K; channels: of the state, even; width: of the coupling networks.

        edge: these see where the image ends; factor: of the log-scales of actnorms.
        """
        super().__init__()
        self.reversible = reversible
        self.mixing = Mixing(steps, channels, factor)
        self.couplings = nn.ModuleList(
            Coupling(channels, width, coupling, edge, factor) for _ in range(steps)
        )

    def forward(self, x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """x [B, H, W, C] -> (y [B, H, W, C], log |dy/dx| [B]); coupling networks in `dtype`."""
        pixels = x.shape[1] * x.shape[2]
        matrices, vectors, log_det = self.mixing()
        fixed = (pixels * log_det).to(x.dtype)
        if self.reversible and torch.is_grad_enabled():
            with torch.no_grad():
                inverses = self.mixing.inverse()
            weights = tuple(self.couplings.parameters())
            y, moved = _Reversible.apply(self, dtype, x, matrices, vectors, inverses, *weights)
        else:
            y, moved = self.run(x, dtype, matrices, vectors)
        return y, moved + fixed

    def run(
        self, x: Tensor, dtype: torch.dtype, matrices: Tensor, vectors: Tensor
    ) -> tuple[Tensor, Tensor]:
        """All steps with the linear maps given; the log-determinant [B] of the couplings alone."""
        moved = x.new_zeros(len(x))
        maps = zip(self.couplings, matrices.unbind(), vectors.unbind(), strict=True)
        for coupling, matrix, vector in maps:
            x, log_det = coupling(product(x, matrix, vector), dtype)
            if log_det is not None:
                moved = moved + log_det
        return x, moved

    def inverse(self, y: Tensor, dtype: torch.dtype) -> Tensor:
        """y [B, H, W, C] -> x."""
        maps = zip(self.couplings, self.mixing.inverse(), self.mixing.b.double(), strict=True)
        for coupling, inverse, b in reversed(list(maps)):
            y = product(coupling.inverse(y, dtype), inverse, -b)
        return y

    @torch.no_grad()
    def start(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Sets every actnorm by what reaches it from x [B, H, W, C]; returns y."""
        for k, coupling in enumerate(self.couplings):
            self.mixing.start(k, x)
            matrices, vectors, _ = self.mixing()
            x = product(x, matrices[k], vectors[k])
            coupling.net.start(x.chunk(2, dim=3)[0])
            x, _ = coupling(x, dtype)
        return x


class _Reversible(torch.autograd.Function):
    """`FlowSteps.run` whose backward recomputes every state from the one after it."""

    @staticmethod
    def forward(
        ctx: Any,
        steps: FlowSteps,
        dtype: torch.dtype,
        x: Tensor,
        matrices: Tensor,
        vectors: Tensor,
        inverses: Tensor,
        *weights: Tensor,
    ) -> tuple[Tensor, Tensor]:
        y, moved = steps.run(x, dtype, matrices, vectors)
        ctx.steps, ctx.dtype = steps, dtype
        ctx.save_for_backward(y, matrices, vectors, inverses)
        return y, moved

    @staticmethod
    def backward(ctx: Any, gy: Tensor, g_moved: Tensor) -> tuple[Tensor | None, ...]:
        """Of a coupling y2 = (x2 + t) s: dt = dx2 = s dy2, d ln s = y2 dy2 + d log_det."""
        y, matrices, vectors, inverses = ctx.saved_tensors
        y = y.detach()
        to_matrix, to_vector = torch.empty_like(matrices), torch.empty_like(vectors)
        to_weights: list[Tensor] = []
        with torch.autocast(y.device.type, enabled=False):
            for k in reversed(range(len(matrices))):
                coupling = ctx.steps.couplings[k]
                h, gh, of_net = _back(coupling, ctx.dtype, y, gy, g_moved)
                to_weights[:0] = of_net
                y = product(h - vectors[k].to(h.dtype), inverses[k], torch.zeros_like(vectors[k]))
                flat = gh.flatten(0, 2)
                to_matrix[k] = flat.t() @ y.flatten(0, 2)
                to_vector[k] = flat.sum(0)
                gy = product(gh, matrices[k].t(), torch.zeros_like(vectors[k]))
        return None, None, gy, to_matrix, to_vector, None, *to_weights


def _back(
    coupling: Coupling, dtype: torch.dtype, y: Tensor, gy: Tensor, g_moved: Tensor
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """A coupling's input, the gradient there, and those of its weights, from its output."""
    (y1, y2), (g1, g2) = y.chunk(2, dim=3), gy.chunk(2, dim=3)
    weights = tuple(coupling.parameters())
    with torch.enable_grad():
        y1 = y1.detach().requires_grad_()
        shift, log_scale = coupling.parts(y1, dtype)
    outputs: tuple[Tensor, ...] = (shift,)
    if log_scale is None:
        x2, grads = y2 - shift.detach(), (g2,)
    else:
        log_s = log_scale.detach()
        x2 = y2 * (-log_s).exp() - shift.detach()
        to_log_scale = torch.addcmul(g_moved[:, None, None, None], g2, y2)
        g2 = g2 * log_s.exp()
        outputs, grads = (shift, log_scale), (g2, to_log_scale)
    to_y1, *of_net = torch.autograd.grad(outputs, (y1, *weights), grads)
    x = torch.cat([y1.detach(), x2], 3)
    return x, torch.cat([g1 + to_y1, g2], 3), tuple(of_net)
