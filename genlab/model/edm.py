"""EDM: preconditioned denoising."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from genlab.core.contract import Batch
from genlab.core.registry import register
from genlab.model.path import PathModel
from genlab.nn.embed import Waves

__all__ = ["EDM"]


@register
class EDM(PathModel):
    """A denoiser whose network sees and gives variance 1 at all noise levels.

    D(x; sigma) = c_skip x + c_out net(c_in x, c),  loss = E lambda |D(x0 + sigma eps) - x0|^2

    c_skip = sd^2 / (sigma^2 + sd^2), c_out = sigma sd / sqrt(sigma^2 + sd^2), c_in = 1 /
    sqrt(sigma^2 + sd^2), lambda = 1 / c_out^2 and ln sigma ~ N(location, scale^2). The same in the
    terms of all paths: predict=F with weight=edm, where the error of F itself has the weight 1.
    On another path than x0 + sigma eps, x_t takes the place of x with c_in = 1 / its deviation.

    With `uncertainty` the loss is E lambda |D - x0|^2 / e^u + u with a learned u(sigma), which at
    its best is the logarithm of the loss there: then every noise level pulls alike.

    |.|^2 is a mean over the D numbers of an image, and a sum in the code of both papers, whose
    gradients are D times as large: Adam's eps of theirs is optimizer.eps = eps / D here.

    Reference: Karras et al. 2022, arXiv 2206.00364, eq. 7 and 8, table 1; u: Karras et al. 2023,
    arXiv 2312.02696, eq. 14 to 16.
    """

    def __init__(self, *given: Any, uncertainty: bool, **objective: Any) -> None:
        """uncertainty: whether u(sigma) is learned; the rest are of `PathModel`."""
        super().__init__(*given, **objective)
        self.uncertainty = Uncertainty() if uncertainty else None

    def c_in(self, t: Tensor) -> Tensor:
        """t [B] -> 1 / sqrt(a^2 sd^2 + b^2) [B] float64, one over the deviation of x_t."""
        a, b, _, _ = self.process.coefficients(t)
        return ((a * self.sd).square() + b.square()).rsqrt()

    def loss(self, batch: Batch) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """[] mean weighted squared error; with `uncertainty` also that error as `error`."""
        on_path = self.forward(batch)
        if self.uncertainty is None:
            return on_path.error
        a, b, _, _ = on_path.coefficients
        u = self.uncertainty(b / a)
        errors = on_path.errors
        return (errors * (-u).exp() + u).mean(), {"error": errors.detach().mean()}


class Uncertainty(nn.Module):
    """u(sigma) = w . waves(ln(sigma) / 4) + bias, 0 at the start."""

    def __init__(self, features: int = 128) -> None:
        super().__init__()
        self.waves = Waves(features)
        self.linear = nn.Linear(features, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, sigma: Tensor) -> Tensor:
        """sigma [B] float64 -> [B] float32."""
        c_noise = sigma.log() / 4
        return self.linear(self.waves(c_noise / 1000)).squeeze(1).float()
