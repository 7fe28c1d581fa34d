"""What the models of Gaussian paths share: one objective, three choices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from genlab.core.contract import (
    Batch,
    Bijection,
    BoundSampler,
    Generator,
    Model,
    Network,
    Noise,
    Process,
    Spec,
)
from genlab.core.ema import make_ema
from genlab.core.gaussian_path import (
    append_dims,
    loss_weight,
    target_coefficients,
    usable_part,
    x0_coefficients,
)
from genlab.core.schema import (
    Average,
    Density,
    Fraction,
    Positive,
    Predict,
    Weight,
    chosen_density,
)
from genlab.model.likelihood import TOLERANCE, log_density, ode_solver
from genlab.model.likelihood_times import LikelihoodTimes, effective_share

__all__ = ["PathBatch", "PathModel"]

FIRST = 1e-5
"""The earliest time that is learned: at 0 most weights and predictions have no value."""

COUNTING = 0.1
"""Share of a batch that should count where errors are weighed for the likelihood."""


class PathBatch(NamedTuple):
    """A batch on the path, with the target of the regression and the output of the network."""

    t: Tensor  # [B]
    coefficients: tuple[Tensor, ...]  # a, b, da/dt, db/dt there, each [B] float64
    x0: Tensor  # [B, *S] the data
    eps: Tensor  # [B, *S] the noise each is led to
    target: Tensor  # [B, *S] p x0 + q eps
    out: Tensor  # [B, ...] float32, of the network
    predicted: Tensor  # [B, *S] the target, in the output
    weight: Tensor | None  # [B] float32 of the squared errors, None where all are 1

    @property
    def error(self) -> Tensor:
        """[] mean weighted squared error, per number of x."""
        if self.weight is None:
            return F.mse_loss(self.predicted, self.target)
        return self.errors.mean()

    @property
    def errors(self) -> Tensor:
        """[B] of each datum."""
        each = F.mse_loss(self.predicted, self.target, reduction="none").flatten(1).mean(1)
        return each if self.weight is None else each * self.weight


class PathModel(Model):
    """Regression of one quantity along a Gaussian path.

    x_t = a x0 + b eps,  o = p x0 + q eps,  loss = E w(t) |net(s x_t, c, y) - o|^2

    What is predicted (o), how often a time is learned (the density of t) and how much it weighs
    (w) are chosen apart; s and c are what the path has networks see of x_t and t. Whatever is
    predicted, the model gives the datum, so every sampler, guidance and likelihood serves it.
    Labels are dropped with probability `label_dropout`, for the unlabelled estimate of guidance.
    """

    one_step = False
    outputs = 1
    """Numbers that the network gives for each of x."""

    def __init__(
        self,
        net: Network,
        process: Process,
        spec: Spec,
        *,
        predict: Predict,
        density: Density,
        location: float,
        scale: Positive,
        weight: Weight,
        sd: Positive,
        label_dropout: Fraction,
        ema: Average,
    ) -> None:
        """sd: standard deviation of the data, for F, the weight edm and what the network sees."""
        super().__init__()
        if isinstance(net, (Bijection, Generator)):
            kind = "is invertible" if isinstance(net, Bijection) else "draws from a latent vector"
            raise ValueError(
                f"a model of a path asks its network for an estimate at a time, and "
                f"{type(net).__name__} {kind} and takes none; use network=unet or network=dit"
            )
        if net.outputs != (needed := self.outputs):
            raise ValueError(
                f"it needs a network with {needed} output{'s' * (needed > 1)} for each number of "
                f"x, and this one has {net.outputs}: set network.net.outputs={needed} (unet and "
                "dit have the key)"
            )
        self.net, self.spec, self.sd = net, spec, sd
        self.process = usable_part(process, predict)
        self.prediction, self.weight = predict, weight
        self.density = chosen_density(density, weight)
        self.location, self.scale = location, scale
        self.likelihood_times = None
        if self.density == "likelihood":
            if weight != "likelihood":
                raise ValueError(
                    "density=likelihood draws times in proportion to weight=likelihood, and this "
                    f"is weight={weight}: use model.weight=likelihood or model.density=uniform"
                )
            self.likelihood_times = LikelihoodTimes(self.process, predict, sd, FIRST)
        self.label_dropout = label_dropout
        self.ema = make_ema(net, ema)

    # --- training ------------------------------------------------------------------------------

    def times(self, noise: Noise) -> Tensor:
        """[n] times of the chosen density, float64 but for the uniform one.

        uniform       t ~ U[0, 1); on a discrete path one of its T times
        lognormal     ln sigma ~ N(location, scale^2)
        logit_normal  logit t ~ N(location, scale^2)
        u_shape       p(t) ~ e^(scale t) + e^(scale (1 - t))
        likelihood    in proportion to the weight of that name: `LikelihoodTimes`
        """
        path = self.process
        if self.likelihood_times is not None:
            return self.likelihood_times(noise.uniform())
        if self.density == "uniform":
            t = noise.uniform()
            if path.steps is not None:
                return (t.double() * path.steps).floor().add(1) / path.steps
        elif self.density == "u_shape":
            half = math.sinh(self.scale / 2)
            t = 0.5 + (noise.uniform().double() * 2 - 1).mul(half).asinh() / self.scale
        else:
            normal = noise.normal().double() * self.scale + self.location
            t = path.time(normal.exp()) if self.density == "lognormal" else normal.sigmoid()
        if path.steps is not None:  # at the nearest of the times there are
            return (t * path.steps).round().clamp(min=1) / path.steps
        return t.clamp(min=FIRST)

    def notes(self, batch: int) -> Sequence[str]:
        """That few images of a batch count, where the weight of the likelihood is so uneven."""
        if self.weight != "likelihood" or self.likelihood_times is not None:
            return ()
        wanted = LikelihoodTimes(self.process, self.prediction, self.sd, FIRST)
        count = batch * effective_share(self.times, wanted)
        if count > COUNTING * batch:
            return ()
        return [
            f"with model.weight=likelihood and these times a batch of {batch} images counts as "
            f"{count:.2g}, since few weights make most of their sum; use model.density=likelihood"
        ]

    def pair(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The data [B, *S] and the noise [B, *S] each is led to."""
        return batch.x, batch.noise.normal(*self.spec.shape) if batch.z is None else batch.z

    def loss(self, batch: Batch) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """[] mean weighted squared error of the prediction, per number of x."""
        return self.forward(batch).error

    def forward(self, batch: Batch) -> PathBatch:
        """One evaluation of the network, each datum at a time of its own."""
        t = self.times(batch.noise)
        x0, eps = self.pair(batch)
        y = self.drop_labels(batch)
        path = self.process.coefficients(t)
        p, q = target_coefficients(self.prediction, *path, self.sd)
        factors = torch.stack([*path[:2], p, q, self.c_in(t)]).to(x0.dtype)
        a, b, p, q, c_in = append_dims(factors, x0)
        x = torch.addcmul(c_in * a * x0, c_in * b, eps)
        out = self.net(x, self.process.c_noise(t).to(x0.dtype), y).float()
        target = torch.addcmul(p * x0, q, eps)
        weight = None
        if self.likelihood_times is not None:
            weight = self.likelihood_times.weight(*path).to(x0.dtype)
        elif self.weight != "uniform":
            weight = loss_weight(self.weight, self.prediction, *path, self.sd).to(x0.dtype)
        return PathBatch(t, path, x0, eps, target, out, self.predicted(out), weight)

    def drop_labels(self, batch: Batch) -> Tensor | None:
        """The labels [B], each hidden (-1) with probability `label_dropout`."""
        if batch.y is None:
            return None
        return batch.y.where(batch.noise.uniform() >= self.label_dropout, -1)

    def c_in(self, t: Tensor) -> Tensor:
        """t [B] -> [B] float64, what x_t is multiplied by before the network sees it."""
        return self.process.c_in(t, self.sd)

    def predicted(self, out: Tensor) -> Tensor:
        """The prediction [B, *S] in the output of the network."""
        return out

    # --- what was learned ----------------------------------------------------------------------

    def denoise(self, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        """x [B, *S], t [B], y [B] or None -> x0 [B, *S]."""
        return self.to_x0(x, t, self.predict(x, t, y))

    def predict(self, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        """Output of the network that samples are drawn with, for x [B, *S] at t [B]."""
        c_in = append_dims(self.c_in(t).to(x.dtype), x)
        c_noise = self.process.c_noise(t).to(x.dtype)
        return self.drawn_from(self.net)(c_in * x, c_noise, y).to(x.dtype)

    def to_x0(self, x: Tensor, t: Tensor, out: Tensor) -> Tensor:
        """x [B, *S] at t [B] and the output of the network for it -> x0 [B, *S]."""
        path = self.process.coefficients(t)
        factors = torch.stack(x0_coefficients(self.prediction, *path, self.sd)).to(x.dtype)
        alpha, beta = append_dims(factors, x)
        return alpha * x + beta * self.predicted(out)

    def prior(self, noise: Noise) -> Tensor:
        """[n, *S] standard normal."""
        return noise.normal(*self.spec.shape)

    def transport(
        self, z: Tensor, y: Tensor | None, noise: Noise, sampler: BoundSampler
    ) -> Tensor:
        """z [n, *S] -> [n, *S] along the path."""
        return sampler(self.denoise, z, y, noise)

    def log_prob(self, x: Tensor, y: Tensor | None, noise: Noise) -> Tensor:
        """x [B, *S], y [B] or None -> [B] nats; see `model/likelihood.py`."""
        net = self.drawn_from(self.net)
        return log_density(self.denoise, self.process, x, y, noise, first=FIRST, net=net)

    def likelihood(self) -> str:
        """How log_prob is found; DeviceError where its solver is not installed."""
        ode_solver()
        return f"probability flow, one probe, tolerance {TOLERANCE:g}"
