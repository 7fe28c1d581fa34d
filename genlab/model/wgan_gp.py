"""Wasserstein GANs whose critic is held to a slope of one by a penalty."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from genlab.core.contract import Batch, BoundSampler, Model, Noise, Update
from genlab.core.ema import frozen, make_ema
from genlab.core.registry import register
from genlab.core.schema import Average, Count, NonNegative

__all__ = ["WGANGP"]


@register
class WGANGP(Model):
    """The game of a generator G and a critic D whose slope is held near 1.

    V(D, G) = E D(x) - E D(G(z)) - weight E (|grad_x D(xhat)| - center)^2
    xhat = x + a (G(z) - x),  a ~ U(0, 1), one for each sample

    D maximizes V, in n_critic steps on fresh data; then G minimizes -E D(G(z)). The norm is over
    all numbers of a sample. For the D that is best among those of slope 1 at most, E D(x) -
    E D(G(z)) is the Wasserstein distance W1 between data and samples.

    Reference: Gulrajani et al. 2017, arXiv 1704.00028, algorithm 1; one_sided: section 4 there;
    center 0: Thanh-Tung et al. 2019, arXiv 1902.03984.
    """

    double_backward = True

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        *,
        n_critic: Count,
        g_batches: Count,
        weight: NonNegative,
        center: NonNegative,
        one_sided: bool,
        at: Literal["interpolates", "real", "fake"],
        ema: Average,
    ) -> None:
        """discriminator: the critic, without batch normalization (ValueError otherwise).

        n_critic: steps of D for one of G; g_batches: batch of a step of G, in batches of D;
        weight, center: see above; one_sided: only slopes above the center are penalized;
        at: where they are measured; ema: average of G, see core/ema.py, 0 for none.
        """
        super().__init__()
        if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in discriminator.modules()):
            raise ValueError(
                "the critic of wgan_gp must not have batch normalization, since the penalty is of "
                "the slope at each sample alone; use network=dcgan_wgan, or "
                "network.discriminator.norm=none"
            )
        self.generator, self.discriminator = generator, discriminator
        self.n_critic, self.g_batches = n_critic, g_batches
        self.weight, self.center, self.one_sided, self.at = weight, center, one_sided, at
        self.ema = make_ema(generator, ema)

    def players(self) -> dict[str, list[nn.Parameter]]:
        """d and g."""
        return {
            "d": list(self.discriminator.parameters()),
            "g": list(self.generator.parameters()),
        }

    def step(self, data: Iterator[Batch]) -> Iterator[Update]:
        """n_critic steps of D, each on a batch of its own, then one of G."""
        for _ in range(self.n_critic):
            batch = next(data)
            loss, log = self.loss(batch)
            yield Update(loss, on="d", log=log)
            del loss, log  # accumulation holds this frame once a micro-batch

        with frozen(self.discriminator):
            z = torch.cat([self.prior(batch.noise) for _ in range(self.g_batches)])
            y = None if batch.y is None else batch.y.repeat(self.g_batches)
            loss = -self.discriminator(self.generator(z, y), y).mean()
        yield Update(loss, on="g")

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """-V [], what D minimizes, with the parts of V to log.

        On held-out data V is what the paper plots against overfitting. It falls as G improves as
        long as D keeps up with G, and means nothing where D does not.
        """
        with torch.no_grad():
            fakes = self.generator(self.prior(batch.noise), batch.y)
        y = None if batch.y is None else batch.y.repeat(2)
        real, fake = self.discriminator(torch.cat([batch.x, fakes]), y).chunk(2)
        wasserstein = real.mean() - fake.mean()
        penalty, slope = self.penalty(batch, fakes)
        log = {"wasserstein": wasserstein, "penalty": penalty, "slope": slope}
        return self.weight * penalty - wasserstein, {k: v.detach() for k, v in log.items()}

    def penalty(self, batch: Batch, fakes: Tensor) -> tuple[Tensor, Tensor]:
        """(mean squared distance of the slope from the center, mean slope), both [].

        In float32: a gradient of a gradient has no digits to lose. Nothing is added under the root
        of the norm: torch gives it a slope of 0 where it is 0.
        """
        x = batch.x
        if self.at == "interpolates":
            a = batch.noise.uniform(*[1] * (x.dim() - 1))
            x = torch.lerp(x, fakes, a)
        elif self.at == "fake":
            x = fakes
        with torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
            x = x.detach().requires_grad_()
            scores = self.discriminator(x, batch.y)
            (gradient,) = torch.autograd.grad(scores.sum(), x, create_graph=True)
            slope = torch.linalg.vector_norm(gradient, dim=tuple(range(1, x.dim())))
            excess = slope - self.center
            if self.one_sided:
                excess = excess.clamp_min(0)
            return excess.square().mean(), slope.mean()

    def prior(self, noise: Noise) -> Tensor:
        """[n, Z] standard normal."""
        return noise.normal(self.generator.z_dim)

    def transport(
        self, z: Tensor, y: Tensor | None, noise: Noise, sampler: BoundSampler
    ) -> Tensor:
        """z [n, Z] -> [n, *S] by one call of G; the sampler is not used."""
        return self.drawn_from(self.generator)(z, y)
