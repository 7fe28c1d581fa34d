"""The ODE sampler that chooses its own steps."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from genlab.core.contract import BoundDenoiser, Noise, Process, Spec
from genlab.core.errors import ConfigError, DeviceError
from genlab.core.gaussian_path import noise_levels
from genlab.core.registry import register
from genlab.core.schema import Positive
from genlab.sampler.noise_levels import USUAL, Spanned, ends

__all__ = ["RungeKutta45"]

STATES = 16  # that are yielded before the sample; between its steps the method interpolates
MOST = 500  # steps from one of these to the next, taken or refused; a sample takes tens in all


@register
class RungeKutta45(Spanned):
    """The method of Dormand and Prince with steps that keep to tolerances.

    dX/dphi = (cos(phi) X - x0) / sin(phi),  X = x / sqrt(a^2 + b^2),  phi = atan(b / a)

    On this circle all paths are one ODE with a bounded state, without kinks where a path is
    discrete. From its quietest level the estimate of the datum is the sample.

    Steps are chosen for a whole batch, by the mean square of its errors, so within the tolerances
    a sample depends on what it is drawn with, and so does the number of evaluations: six a step,
    and two to begin. `genlab sample` records their mean, `genlab eval` that of one sample alone.
    An adaptive step waits for the device. Networks compute in full precision: the rounding of bf16
    is above the tolerances, and would be taken for an error that shorter steps make smaller.

    Reference: Dormand and Prince 1980, J. Comp. Appl. Math. 6(1); as a sampler: Song et al. 2020,
    arXiv 2011.13456, section 4.3 and appendix D.4.
    """

    full_precision = True

    def __init__(
        self,
        *,
        rtol: Positive,
        atol: Positive,
        state: Literal["float32", "float64"],
        **span: Any,
    ) -> None:
        """rtol, atol: tolerated error of a step, relative and absolute, as torchdiffeq has them.

        state: type of X. Without a span it goes from .002 to the end of the path.
        Raises DeviceError without the torchdiffeq package.
        """
        if importlib.util.find_spec("torchdiffeq") is None:
            raise DeviceError("sampler=rk45 needs an extra: pip install 'genlab[ode]'")
        super().__init__(**span)
        self.rtol, self.atol = rtol, atol
        self.state = torch.float64 if state == "float64" else torch.float32

    def check(self, process: Process, spec: Spec) -> None:
        """Raises ConfigError where the path lacks the levels of `span`."""
        ends(process, self.span)

    def __call__(
        self, denoise: BoundDenoiser, z: Tensor, process: Process, noise: Noise
    ) -> Iterator[Tensor]:
        """STATES + 1 states [B, *S], from the noise to the sample; ConfigError if no step does."""
        from torchdiffeq import odeint

        low, high = ends(process, self.span)
        if self.span is None:
            low = max(low, USUAL[0])
        first, last = math.atan(high), math.atan(low)

        def velocity(phi: Tensor, state: Tensor) -> Tensor:
            phi = phi.double().clamp(last, first)
            t = process.time(phi.tan()[None])
            a, b, _, _ = process.coefficients(t)
            x = (state * torch.hypot(a, b)).to(z.dtype)
            x0 = denoise(x, t.to(z.dtype).expand(len(z))).to(state.dtype)
            return (phi.cos() * state - x0) / phi.sin()

        phi = torch.linspace(first, last, STATES, dtype=torch.float64)
        path = noise_levels(process, process.time(phi.tan()).tolist())
        start = z.to(self.state) * math.sin(first)
        try:
            states = odeint(
                velocity,
                start,
                phi.to(z.device),
                rtol=self.rtol,
                atol=self.atol,
                method="dopri5",
                options={
                    "step_t": phi[-1:].to(z.device),  # no step runs past the end
                    "max_num_steps": MOST,
                },
            )
        except AssertionError as e:
            raise ConfigError(
                f"sampler=rk45 came to no end within its tolerances ({e}); use larger "
                "sampler.rtol and sampler.atol, or sampler.state=float64"
            ) from None
        for level, state in zip(path, states, strict=False):
            x = (state * math.hypot(level.a, level.b)).to(z.dtype)
            yield x
        quietest = path[-2]
        yield denoise(x, z.new_full((len(z),), quietest.t)).to(z.dtype)
