"""Denoising diffusion."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from genlab.core.contract import Batch, BoundSampler, Codec, Network, Noise, Process, Spec
from genlab.core.gaussian_path import append_dims, x0_coefficients
from genlab.core.registry import register
from genlab.model.path import PathBatch, PathModel
from genlab.model.vlb import Bound, discretized_log_likelihood, links, normal_kl, variational_bound
from genlab.nn.full_precision import full_precision

__all__ = ["DDPM"]

BOUND = 1e-3  # weight of the variational bound beside the simple loss


@register
class DDPM(PathModel):
    """Regression of the noise at the levels of a path.

    L_simple = E |net(x_i, i) - eps|^2,  i uniform on 1 .. T

    With variance=learned the network also gives the variance of every step back, between the two
    that bound it, and learns it by the variational bound L_vlb in bits a number:

    ln variance = v ln large + (1 - v) ln small,  v = (1 + second half of the output) / 2
    L = L_simple + 0.001 L_vlb,  L_vlb = sum_i KL(q(x_(i-1) | x_i, x0) || p(x_(i-1) | x_i))

    The bound teaches the variance alone: its gradient stops at the mean. Its last step is the
    probability of the bytes, or the density where data have one.

    Reference: Ho et al. 2020, arXiv 2006.11239, eq. 14; Nichol and Dhariwal 2021, arXiv
    2102.09672, eq. 15 and 16.
    """

    def __init__(
        self,
        net: Network,
        process: Process,
        spec: Spec,
        codec: Codec,
        *,
        variance: Literal["fixed", "learned"],
        **objective: Any,
    ) -> None:
        """variance: of the steps back; the rest are of `PathModel`."""
        self.outputs = 2 if variance == "learned" else 1  # which PathModel holds net to
        super().__init__(net, process, spec, **objective)
        self.codec, self.learned_variance = codec, variance == "learned"
        # a chain of bytes has a bound of its own; dequantized ones have the density of the flow
        bytes_alone = codec.logdet(torch.zeros(1, *spec.shape)) is None
        self.discrete_likelihood = self.process.steps is not None and bytes_alone
        if self.learned_variance and self.density != "uniform":
            raise ValueError(
                "variance=learned sums its bound over all steps alike, and "
                f"density={self.density} draws some more often: use density=uniform, or "
                "variance=fixed"
            )
        posteriors = self._posteriors() if self.learned_variance else None
        self.register_buffer("posteriors", posteriors, persistent=False)  # follows from the config

    def _posteriors(self) -> Tensor:
        """[4, T] float64 of the steps i -> i - 1: on_datum, on_here, ln small and ln large.

        The small variance of the last step, 0, is replaced by that of the step before it.
        """
        if self.process.steps is None or self.process.steps < 2:
            raise ValueError(
                "variance=learned is of the steps of a discrete path, and this one has none: use "
                "process.steps=1000, or variance=fixed"
            )
        own = links(self.process, _times(self.process.steps))
        small = torch.cat([own.small[1:2], own.small[1:]])
        return torch.stack([own.on_datum, own.on_here, small.log(), own.large.log()])

    def loss(self, batch: Batch) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """[] L_simple; with a learned variance L, and L_simple and L_vlb (bits a number) apart."""
        on_path = self.forward(batch)
        simple = on_path.error
        if self.posteriors is None:
            return simple
        bound = self.bits(on_path).mean() * self.posteriors.shape[1]
        return simple + BOUND * bound, {"simple": simple.detach(), "bound": bound.detach()}

    def bits(self, on_path: PathBatch) -> Tensor:
        """[B] term of L_vlb of the step back from t, in bits a number of x."""
        i = (on_path.t * self.posteriors.shape[1]).round().long()
        x0, path = on_path.x0, on_path.coefficients
        read = x0_coefficients(self.prediction, *path, self.sd)
        factors = torch.stack([*path[:2], *self.posteriors.index_select(1, i - 1), *read])
        a, b, c, d, small, large, alpha, beta = append_dims(factors.to(x0.dtype), x0)
        x = a * x0 + b * on_path.eps
        estimate = alpha * x + beta * on_path.predicted.detach()
        log = small.lerp(large, self._v(on_path.out))
        mean = c * estimate + d * x
        step = normal_kl(c * x0 + d * x, small, mean, log)
        if self.codec.logdet(x0) is None:
            last = -discretized_log_likelihood(x0, mean, log)
        else:
            last = 0.5 * (log + (x0 - mean).square() * (-log).exp() + math.log(2 * math.pi))
        first, kl = (part.flatten(1).mean(1) for part in (last, step))
        return torch.where(i == 1, first, kl) / math.log(2)

    def predicted(self, out: Tensor) -> Tensor:
        """The first half of the channels, or all of them."""
        return out if self.posteriors is None else out[:, : self.spec.shape[0]]

    def predict_variance(self, x: Tensor, t: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
        """x [B, *S], t [B], y [B] or None -> x0 and v, both [B, *S], in one evaluation."""
        out = self.predict(x, t, y)
        return self.to_x0(x, t, out), self._v(out)

    def transport(
        self, z: Tensor, y: Tensor | None, noise: Noise, sampler: BoundSampler
    ) -> Tensor:
        """z [n, *S] -> [n, *S] along the path."""
        denoise = self.predict_variance if sampler.learned_variance else self.denoise
        return sampler(denoise, z, y, noise)

    def _v(self, out: Tensor) -> Tensor:
        return (out[:, self.spec.shape[0] :] + 1) / 2

    # --- likelihood ----------------------------------------------------------------------------

    def likelihood(self) -> str:
        """How log_prob is found: by the chain for bytes, else by the probability flow."""
        if not self.discrete_likelihood:
            return super().likelihood()
        kind = "large" if self.posteriors is None else "learned"
        return f"variational bound, {self.process.steps} steps, {kind} variance"

    def log_prob(self, x: Tensor, y: Tensor | None, noise: Noise) -> Tensor:
        """x [B, *S], y [B] or None -> [B] nats: minus the bound, or the density of the flow."""
        return (
            -self.bound(x, y, noise).total
            if self.discrete_likelihood
            else super().log_prob(x, y, noise)
        )

    @torch.no_grad()
    def bound(
        self, x: Tensor, y: Tensor | None, noise: Noise, evaluations: int | None = None
    ) -> Bound:
        """x [B, *S] bytes in [-1, 1] -> terms of the bound; evaluations: see `variational_bound`.

        Estimates of the datum are kept in [-1, 1]. A fixed variance is the large one, whose first
        is the small one of the link after it, as DDPM's own code has it.
        """
        times = _times(self.process.steps)
        own = links(self.process, times)
        fixed = torch.cat([own.small[1:2], own.large[1:]]).log().to(x.device)

        def reverse(x: Tensor, t: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
            out, i = self.predict(x, t, y), (t * len(times)).round().long() - 1
            if self.posteriors is None:
                log = append_dims(fixed[i].to(x.dtype), x)
            else:
                log = torch.lerp(*append_dims(self.posteriors[2:, i].to(x.dtype), x), self._v(out))
            return self.to_x0(x, t, out).clamp(-1, 1), log

        with full_precision(x.device):
            return variational_bound(
                reverse, self.process, x, y, noise, times=times, evaluations=evaluations
            )


def _times(steps: int) -> Tensor:
    """[T] float64, those of a discrete path from the quietest on."""
    return torch.arange(1, steps + 1, dtype=torch.float64, device="cpu") / steps
