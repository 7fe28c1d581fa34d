"""Generative adversarial networks."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from genlab.core.contract import Batch, BoundSampler, Model, Noise, Update
from genlab.core.ema import frozen, make_ema
from genlab.core.registry import register
from genlab.core.schema import Average, NonNegative

__all__ = ["GAN"]


@register
class GAN(Model):
    """The game of a generator G and a discriminator D, with logits D(x).

    L_D = E softplus(-D(x)) + E softplus(D(G(z))) + r1/2 E |grad_x D(x)|^2
    L_G = E softplus(-D(G(z)))

    The generator's loss is the non-saturating one. D sees data and samples in separate batches,
    as it may have batch normalization.

    Reference: Goodfellow et al. 2014, arXiv 1406.2661, algorithm 1 and section 3;
    r1: Mescheder et al. 2018, arXiv 1801.04406, eq. 9.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        *,
        r1: NonNegative,
        ema: Average,
    ) -> None:
        """r1: weight of the penalty, 0: none; ema: average of G, see core/ema.py."""
        super().__init__()
        self.generator, self.discriminator = generator, discriminator
        self.r1, self.double_backward = r1, r1 > 0
        self.ema = make_ema(generator, ema)

    def players(self) -> dict[str, list[nn.Parameter]]:
        """d and g."""
        return {
            "d": list(self.discriminator.parameters()),
            "g": list(self.generator.parameters()),
        }

    def _real(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits [B] of the data and the penalty []."""
        if not self.r1:
            return self.discriminator(batch.x, batch.y), batch.x.new_zeros(())
        # A gradient of a gradient has no digits to lose.
        with torch.autocast(batch.x.device.type, enabled=False):
            x = batch.x.detach().requires_grad_()
            real = self.discriminator(x, batch.y)
            (slope,) = torch.autograd.grad(real.sum(), x, create_graph=True)
            return real, self.r1 / 2 * slope.square().flatten(1).sum(1).mean()

    def step(self, data: Iterator[Batch]) -> Iterator[Update]:
        """D on a batch of data and one of samples, then G on fresh samples."""
        batch = next(data)
        with torch.no_grad():
            fakes = self.generator(self.prior(batch.noise), batch.y)
        real, penalty = self._real(batch)
        fake = self.discriminator(fakes, batch.y)
        log = {"d_real": real.detach().sigmoid().mean(), "d_fake": fake.detach().sigmoid().mean()}
        yield Update(softplus(-real).mean() + softplus(fake).mean() + penalty, on="d", log=log)
        del fakes, real, penalty, fake, log  # accumulation holds this frame once a micro-batch

        with frozen(self.discriminator):
            fakes = self.generator(self.prior(batch.noise), batch.y)
            loss = softplus(-self.discriminator(fakes, batch.y)).mean()
        yield Update(loss, on="g")

    def prior(self, noise: Noise) -> Tensor:
        """[n, Z] standard normal."""
        return noise.normal(self.generator.z_dim)

    def transport(
        self, z: Tensor, y: Tensor | None, noise: Noise, sampler: BoundSampler
    ) -> Tensor:
        """z [n, Z] -> [n, *S] by one call of G; the sampler is not used."""
        return self.drawn_from(self.generator)(z, y)
