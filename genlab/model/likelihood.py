"""The density of a Gaussian path's model, by the probability flow."""

from __future__ import annotations

import importlib
import math
from typing import Any

import torch
from torch import Tensor, nn

from genlab.core.contract import Denoiser, Noise, Process
from genlab.core.ema import frozen
from genlab.core.errors import DataError, DeviceError
from genlab.core.gaussian_path import append_dims
from genlab.core.signals import check_stop
from genlab.nn.full_precision import full_precision

__all__ = ["TOLERANCE", "log_density", "ode_solver"]

TOLERANCE = 1e-5
"""Of the solver, relative and absolute: of each number of x, and of nats per number."""

MOST = 2_000  # steps of six evaluations each; trained networks take some tens
LOG_ROOT = math.log(2 * math.pi) / 2


def log_density(
    denoise: Denoiser,
    process: Process,
    x: Tensor,
    y: Tensor | None,
    noise: Noise,
    *,
    first: float,
    net: nn.Module | None = None,
) -> Tensor:
    """x [B, *S] data in model space, y [B] or None -> [B] float64 nats, log p(x).

    With sigma = tan(phi) every path is the same flow, so all are followed on the circle
    x_phi = cos(phi) x0 + sin(phi) eps, whose variance is that of unit data throughout:

        dx/dphi = u = (cos(phi) x - x0(x, phi)) / sin(phi)
        d log p(x_phi) / dphi = -div u = -(D cos(phi) - div x0) / sin(phi)

    from sigma(first) to the end of the path, where p is N(0, sin(phi)^2), what samplers start
    from. So p is of the data with the noise sigma(first), which is that of t = `first`; on a
    discrete path of its first level, and between levels the network is used where it was never
    trained.

    div x0 is estimated by e' (d x0 / dx) e, with one e of random signs for the whole solve: an
    unbiased log p, exact where the symmetric part of d x0 / dx is diagonal. The error of each
    datum is below the tolerance, so that others in the batch only shorten its steps.

    x is the precision of the network, without autocast and TF32: their error is far above the
    tolerance, and the steps would never be short enough. The state is float64. net: its weights
    take no gradients.

    Raises DeviceError without torchdiffeq, DataError where the flow is not finite.

    Reference: Song et al. 2020, arXiv 2011.13456, section 4.3; the estimate: Grathwohl et al.
    2018, arXiv 1810.01367, eq. 8; one flow for all: Karras et al. 2022, arXiv 2206.00364,
    appendix B.
    """
    odeint = ode_solver()
    quiet = first if process.steps is None else max(first, 1 / process.steps)
    ends = process.sigma(torch.tensor([quiet, 1.0], dtype=torch.float64)).atan().to(x.device)
    held = () if net is None else (net,)
    # inference tensors take no part in autograd, copies made outside of inference mode do
    with torch.inference_mode(False), torch.no_grad(), full_precision(x.device), frozen(*held):
        x = x.clone()
        y = None if y is None else y.clone()
        signs = (noise.uniform(*x.shape[1:]).clone().to(x.dtype) < 0.5).to(x.dtype) * 2 - 1
        numbers = x[0].numel()

        def slope(phi: Tensor, state: Tensor) -> Tensor:
            """phi [], state [B, D + 1] float64: x_phi and log p / D, less what it began with."""
            check_stop()
            cos, sin = (math.pi / 2 - phi).sin(), phi.sin()
            here = state[:, :-1].to(x.dtype).view_as(x)
            x0, along = _estimate(denoise, process, here, phi.expand(len(x)), y, signs)
            u = (cos * state[:, :-1] - x0.flatten(1)) / sin
            rate = (cos - along / numbers) / sin
            return torch.cat([u, rate[:, None]], 1)

        start = torch.cat([x.double().flatten(1) * ends[0].cos(), x.new_zeros(len(x), 1)], 1)
        try:
            _, end = odeint(
                slope,
                start,
                ends,
                rtol=TOLERANCE,
                atol=TOLERANCE,
                method="dopri5",
                options={
                    "norm": _worst,
                    "dtype": torch.float64,
                    "step_t": ends[1:],  # or it would look past the end, where there is no path
                    "max_num_steps": MOST,
                },
            )
        except AssertionError as e:  # so torchdiffeq says that a step vanishes
            raise DataError(
                "the probability flow of this model has no solution that can be followed; "
                "train it longer, or look whether it computes finite numbers"
            ) from e
        z, change = end[:, :-1], end[:, -1] * numbers
        scale = ends[1].sin()
        normal = (z / scale).square().sum(1) / 2 + numbers * (scale.log() + LOG_ROOT)
        # the change is that of log p along the way, which went from the datum to the noise
        return change - normal + numbers * ends[0].cos().log()


def ode_solver() -> Any:
    """The integrator `odeint` of torchdiffeq; DeviceError when it is not installed."""
    try:
        return importlib.import_module("torchdiffeq").odeint
    except ImportError:
        raise DeviceError(
            "the likelihood of a path needs torchdiffeq: pip install 'genlab[ode]'"
        ) from None


def _estimate(
    denoise: Denoiser, process: Process, x: Tensor, phi: Tensor, y: Tensor | None, signs: Tensor
) -> tuple[Tensor, Tensor]:
    """x [B, *S] on the circle -> (x0 [B, *S], e' (d x0 / dx) e [B]), float64."""
    t = process.time(phi.tan())
    a, b, _, _ = process.coefficients(t)
    scale = append_dims(torch.hypot(a, b).to(x.dtype), x)
    with torch.enable_grad():
        x = x.requires_grad_()
        x0 = denoise(x * scale, t, y)
        (product,) = torch.autograd.grad(x0, x, signs.to(x0.dtype))
    along = (product * signs).flatten(1).double().sum(1)
    return x0.detach().double(), along


def _worst(error: Tensor) -> Tensor:
    """error [B, D + 1] -> [] of the datum whose x, as a mean, or whose nats are furthest off."""
    x = error[:, :-1].square().mean(1).sqrt()
    return torch.maximum(x, error[:, -1].abs()).max()
