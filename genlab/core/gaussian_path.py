"""The algebra of Gaussian paths x_t = a(t) x0 + b(t) eps: what they have in common.

Flow matching, score matching, DDPM and EDM differ in a and b, in what the network predicts, in how
often a noise level is learned and in how much it weighs. Here is what lets these be chosen apart:
every prediction is linear in x0 and eps, so that it gives the datum and the datum gives all else.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from genlab.core.contract import Denoiser, Process
from genlab.core.schema import Predict, Weight

__all__ = [
    "NoiseLevel",
    "Step",
    "TruncatedPath",
    "append_dims",
    "change_path",
    "loss_weight",
    "noise_levels",
    "posterior",
    "target_coefficients",
    "truncate",
    "usable_part",
    "x0_coefficients",
]

LOUDEST = 200.0
"""Where a path that loses its datum ends for a prediction of the noise, as sigma.

x0 = (x_t - b eps) / a: the noise determines no datum where a = 0, and hardly one before: the error
of a network in eps is sigma times as large in x0. DDPM's path ends at 157. iDDPM's ends at 20,000,
where only estimates that are clipped lead anywhere; it loses 3 of 1,000 levels. One that keeps its
datum, a = 1, errs at sigma as x_t does, and is left whole.
"""


def append_dims(values: Tensor, x: Tensor) -> Tensor:
    """values [..., B] -> [..., B, 1, ...], to multiply x [B, *S]."""
    return values.view(*values.shape, *[1] * (x.dim() - 1))


class TruncatedPath(Process):
    """The part of a path from the datum to the time `end`, with times from 0 to 1 again.

    A discrete path is cut at one of its levels, the nearest, and `end` is the time of that one.
    """

    def __init__(self, process: Process, end: float) -> None:
        """end: in (0, 1]."""
        if not 0 < end <= 1:
            raise ValueError(f"a path is cut at a time in (0, 1], not at {end:g}")
        self.steps = None
        if process.steps is not None:
            self.steps = max(1, round(end * process.steps))
            end = self.steps / process.steps
        self.process, self.end = process, end

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """t [B] in [0, 1] -> (a, b, da/dt, db/dt), each [B] float64."""
        a, b, da, db = self.process.coefficients(t.double() * self.end)
        return a, b, da * self.end, db * self.end

    def sigma(self, t: Tensor) -> Tensor:
        """t [B] -> b / a [B] float64."""
        return self.process.sigma(t.double() * self.end)

    def time(self, sigma: Tensor) -> Tensor:
        """sigma [B] -> t [B] float64."""
        return (self.process.time(sigma) / self.end).clamp(max=1.0)

    def c_noise(self, t: Tensor) -> Tensor:
        """t [B] -> [B] float64."""
        return self.process.c_noise(t.double() * self.end)

    def c_in(self, t: Tensor, sd: float) -> Tensor:
        """t [B], standard deviation of the data -> [B] float64."""
        return self.process.c_in(t.double() * self.end, sd)


class NoiseLevel(NamedTuple):
    """One time of a grid, in Python floats computed in float64.

    Floats, because a sampler that reads device scalars waits for the device at every step.
    """

    t: float
    a: float
    b: float
    da: float
    db: float

    @property
    def sigma(self) -> float:
        """b / a, inf where a = 0."""
        return self.b / self.a if self.a else math.inf

    @property
    def velocity(self) -> tuple[float, float]:
        """(p, q) of the velocity of the probability flow, u = p x_t + q x0.

        From u = a' x0 + b' eps and eps = (x_t - a x0) / b: p = b' / b, q = a' - a b' / b.
        """
        return self.db / self.b, self.da - self.a * self.db / self.b

    def back(self, to: NoiseLevel) -> Step[float]:
        """The step to a quieter level."""
        return posterior(self.a, self.b, to.a, to.b)


N = TypeVar("N", float, Tensor)


class Step(NamedTuple, Generic[N]):
    """A step of a Markov chain back from x_t to a quieter x_s, and forth.

    q(x_s | x_t, x0) = N(on_datum x0 + on_here x_t, small),  q(x_t | x_s) has the variance large

    As the variance of a step back the small one is right for a known datum, the large one for
    standard normal data on a path that preserves variance. Large is for short steps: in a long one
    it can exceed all the noise that x_s has. On DDPM's path large is beta, and small is beta~.
    """

    on_datum: N
    on_here: N
    small: N
    large: N


def posterior(a: N, b: N, a_s: N, b_s: N) -> Step[N]:
    """The step from x_t = a x0 + b eps to x_s, by Bayes' rule, between any two levels of a path.

    alpha = a / a_s,  large = b^2 - alpha^2 b_s^2  (x_t given x_s is N(alpha x_s, large))
    on_here = alpha b_s^2 / b^2,  on_datum = a_s large / b^2,  small = large b_s^2 / b^2

    Reference: Ho et al. 2020, arXiv 2006.11239, eq. 6 and 7, for any a and b: Kingma et al. 2021,
    arXiv 2107.00630, appendix A.2.
    """
    alpha, left = a / a_s, (b_s / b) ** 2
    large = b**2 - (alpha * b_s) ** 2
    return Step(a_s * large / b**2, alpha * left, large * left, large)


DATUM = NoiseLevel(0.0, 1.0, 0.0, 0.0, 0.0)
"""The end of every grid: no noise. No process gives it, since some never get there."""


def noise_levels(process: Process, times: Iterable[float]) -> list[NoiseLevel]:
    """The levels of falling times, all with noise, and the datum after them."""
    t = torch.tensor(list(times), dtype=torch.float64)
    columns = (c.tolist() for c in (t, *process.coefficients(t)))
    return [*(NoiseLevel(*row) for row in zip(*columns, strict=True)), DATUM]


def truncate(path: Process, within: Process) -> Process:
    """The path, or its part up to the largest sigma of another one."""
    end = torch.ones(1, dtype=torch.float64)
    last = within.sigma(end)
    return path if path.sigma(end) <= last else TruncatedPath(path, path.time(last).item())


def usable_part(path: Process, predict: Predict) -> Process:
    """The path, or its part in which the prediction gives the datum."""
    end, loudest = torch.tensor([[1.0], [LOUDEST]], dtype=torch.float64, device="cpu")
    if predict not in ("eps", "score") or path.coefficients(end)[0].item() >= 1 / LOUDEST:
        return path
    return TruncatedPath(path, path.time(loudest).item())


def change_path(denoise: Denoiser, own: Process, other: Process) -> Denoiser:
    """The same denoiser on another path.

    Two paths meet where their sigma is the same, up to a factor of x: the datum behind x is the
    same. Where sigma lies outside the path of the denoiser, its nearer end is taken.

    Reference: Karras et al. 2022, arXiv 2206.00364, section 4 and appendix B.
    """

    def switched(x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        """x [B, *S] and t [B] on `other` -> x0 [B, *S]."""
        there = own.time(other.sigma(t))
        a, b, _, _ = own.coefficients(there)
        a_other, b_other, _, _ = other.coefficients(t)
        scale = torch.hypot(a, b) / torch.hypot(a_other, b_other)  # finite at both ends
        return denoise(x * append_dims(scale.to(x.dtype), x), there.to(t.dtype), y)

    return switched


# --- predictions and weights ------------------------------------------------------------------


def target_coefficients(
    predict: Predict, a: Tensor, b: Tensor, da: Tensor, db: Tensor, sd: float
) -> tuple[Tensor, Tensor]:
    """(p, q) of what a network predicts, o = p x0 + q eps; all of one shape.

    eps       the noise
    x0        the datum
    v         (a eps - b x0) / sqrt(a^2 + b^2), whose root is 1 where variance is preserved
    velocity  a' x0 + b' eps, the time derivative of x_t
    score     -eps: b times the gradient of log p(x_t), which itself has no scale at b = 0
    F         (b x0 - a sd^2 eps) / (sd sqrt(a^2 sd^2 + b^2)), which has variance 1 (EDM)

    sd: standard deviation of the data.
    """
    match predict:
        case "eps":
            return torch.zeros_like(a), torch.ones_like(a)
        case "x0":
            return torch.ones_like(a), torch.zeros_like(a)
        case "v":
            root = torch.hypot(a, b)
            return -b / root, a / root
        case "velocity":
            return da, db
        case "score":
            return torch.zeros_like(a), -torch.ones_like(a)
        case "F":
            root = (a * sd).square().add(b.square()).sqrt() * sd
            return b / root, -a * sd**2 / root


def x0_coefficients(
    predict: Predict, a: Tensor, b: Tensor, da: Tensor, db: Tensor, sd: float
) -> tuple[Tensor, Tensor]:
    """(alpha, beta) of the datum, x0 = alpha x_t + beta o, in terms of what is predicted.

    From x_t = a x0 + b eps and o = p x0 + q eps: alpha = q / W, beta = -b / W, W = a q - b p.
    """
    match predict:
        case "eps":
            return 1 / a, -b / a
        case "x0":
            return torch.zeros_like(a), torch.ones_like(a)
        case "v":
            square = a.square() + b.square()
            return a / square, -b / square.sqrt()
        case "velocity":
            # alpha = b' / W, also where b' is inf, as at the datum of paths with b = sqrt(1 - a^2)
            return 1 / (a - b * (da / db)), -b / (a * db - b * da)
        case "score":
            return 1 / a, b / a
        case "F":
            square = (a * sd).square() + b.square()
            return a * sd**2 / square, b * sd / square.sqrt()


def loss_weight(
    weight: Weight,
    predict: Predict,
    a: Tensor,
    b: Tensor,
    da: Tensor,
    db: Tensor,
    sd: float,
) -> Tensor:
    """What the squared error of the prediction is multiplied by.

    uniform     1 on the error of what is predicted
    x0          1 on the error of the datum
    eps         1 on the error of the noise, which is a^2 / b^2 on that of the datum
    velocity    1 on the error of the velocity
    edm         (b^2 + a^2 sd^2) / (b sd)^2 on the datum, which is 1 on F
    min_snr     min(a^2 / b^2, 5) on the datum (Hang et al. 2023, arXiv 2303.09556)
    likelihood  -(d/dt a^2 / b^2) / 2 on the datum: the bound of the negative log-likelihood (Song
                et al. 2021, arXiv 2101.09258, theorem 1; Kingma et al. 2021, arXiv 2107.00630)

    x0 = alpha x_t + beta o, so an error of o is beta times as large in the datum.
    """
    if weight == "uniform":
        return torch.ones_like(a)
    _, beta = x0_coefficients(predict, a, b, da, db, sd)
    w = a * db - b * da
    match weight:
        case "x0":
            on_datum = torch.ones_like(a)
        case "eps":
            on_datum = (a / b).square()
        case "velocity":
            on_datum = (w / b).square()
        case "edm":
            on_datum = (b.square() + (a * sd).square()) / (b * sd).square()
        case "min_snr":
            on_datum = (a / b).square().clamp(max=5.0)
        case "likelihood":
            on_datum = a * w / b**3
    return on_datum * beta.square()
