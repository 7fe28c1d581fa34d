"""Generative adversarial networks: one game, with other losses and penalties."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from genlab.core.contract import Batch, BoundSampler, Generator, Model, Network, Noise, Update
from genlab.core.ema import frozen, make_ema
from genlab.core.registry import register
from genlab.core.schema import Average, Count, NonNegative, Penalty, Positive
from genlab.nn.adversarial import LOSSES, Loss, gradient_penalty

__all__ = ["GAN", "WGANGP", "Adversarial", "NonSaturating"]


class Adversarial(Model):
    """The game of a generator G and a discriminator D.

    D minimizes L_D(D(x), D(G(z))) + sum of weight E | |grad_x D| - center |^power, in n_critic
    steps on fresh data; then G minimizes L_G(D(x), D(G(z))). The pairs (L_D, L_G) and the penalty
    are functions of `nn/adversarial.py`, each with its source.

    losses: (L_D, L_G). clip_weights: largest size of a weight of D after its step, None for any.

    Reference: Goodfellow et al. 2014, arXiv 1406.2661, algorithm 1; n_critic and clip_weights:
    Arjovsky et al. 2017, arXiv 1701.07875, algorithm 1.
    """

    one_batch = False  # whether D sees data and samples in one batch; not with batch normalization
    losses: Loss
    penalties: Sequence[Mapping[str, Any]] = ()
    clip_weights: float | None = None

    def __init__(
        self,
        generator: Generator,
        discriminator: Network,
        *,
        n_critic: Count,
        g_batches: Count,
        ema: Average,
    ) -> None:
        """n_critic: steps of D for one of G; g_batches: batch of a step of G, in batches of D;
        ema: average of G, see core/ema.py, 0 for none."""
        super().__init__()
        self.generator, self.discriminator = generator, discriminator
        self.n_critic, self.g_batches = n_critic, g_batches
        self.ema = make_ema(generator, ema)

    def penalize(self, penalties: Sequence[Mapping[str, Any]]) -> None:
        """penalties: of each its weight and the keys of `gradient_penalty`.

        Raises ValueError for two at one place, and where D normalizes over the batch: the slope
        at a sample is then not its own.
        """
        norms = any(
            isinstance(m, nn.modules.batchnorm._BatchNorm) for m in self.discriminator.modules()
        )
        if norms and (self.one_batch or any(p["at"] != "real" for p in penalties)):
            raise ValueError(
                "a penalty on the slope at each sample needs a discriminator without batch "
                "normalization; use network=dcgan_wgan, or network.discriminator.norm=none"
            )
        if len({p["at"] for p in penalties}) < len(penalties):
            raise ValueError("model.penalties: one at each of real, fake and between, none twice")
        self.penalties, self.double_backward = penalties, bool(penalties)

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
            loss, log = self.loss_d(batch)
            yield Update(loss, on="d", log=log)
            del loss, log  # accumulation holds this frame once a micro-batch
            self.clip()
        yield Update(self.loss_g(batch), on="g")

    def loss_d(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """What D minimizes [], and detached scalars to log."""
        d, x, y = self.discriminator, batch.x, batch.y
        with torch.no_grad():
            fakes = self.generator(self.prior(batch.noise), y)
        scores: dict[str, Tensor] = {}
        if self.one_batch:
            both = d(torch.cat([x, fakes]), None if y is None else y.repeat(2))
            scores["real"], scores["fake"] = both.chunk(2)
        terms, slopes = [], {}
        for penalty in self.penalties:
            keys = {k: v for k, v in penalty.items() if k != "weight"}
            out, value, slope = gradient_penalty(d, x, fakes, y, batch.noise, **keys)
            scores.setdefault(penalty["at"], out)  # one pass gives the scores and their slope
            terms.append(penalty["weight"] * value)
            slopes[penalty["at"]] = value.detach(), slope
        real = scores["real"] if "real" in scores else d(x, y)
        fake = scores["fake"] if "fake" in scores else d(fakes, y)
        loss = sum(terms, self.losses.discriminator(real, fake).float())
        return loss, self.log(real.detach(), fake.detach(), slopes)

    def loss_g(self, batch: Batch) -> Tensor:
        """What G minimizes [], on fresh samples."""
        z = torch.cat([self.prior(batch.noise) for _ in range(self.g_batches)])
        y = None if batch.y is None else batch.y.repeat(self.g_batches)
        with frozen(self.discriminator):
            fake = self.discriminator(self.generator(z, y), y)
            real = None
            if self.losses.relative:
                real = self.discriminator(batch.x, batch.y).repeat(self.g_batches)
            return self.losses.generator(real, fake)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """`loss_d`; on held-out data it shows whether D overfits, as long as D keeps up with G."""
        return self.loss_d(batch)

    @torch.no_grad()
    def clip(self) -> None:
        """Brings the weights of D back to [-clip_weights, clip_weights]."""
        if self.clip_weights is not None:
            for p in self.discriminator.parameters():
                p.clamp_(-self.clip_weights, self.clip_weights)

    def log(
        self, real: Tensor, fake: Tensor, slopes: Mapping[str, tuple[Tensor, Tensor]]
    ) -> dict[str, Tensor]:
        """Scores [B] of data and samples; points -> (penalty, mean slope) there -> [] each."""
        out = {"score_real": real.mean(), "score_fake": fake.mean()}
        for at, (value, slope) in slopes.items():
            out |= {f"penalty_{at}": value, f"slope_{at}": slope}
        return out

    def prior(self, noise: Noise) -> Tensor:
        """[n, Z] standard normal."""
        return noise.normal(self.generator.z_dim)

    def transport(
        self, z: Tensor, y: Tensor | None, noise: Noise, sampler: BoundSampler
    ) -> Tensor:
        """z [n, Z] -> [n, *S] by one call of G; the sampler is not used."""
        return self.drawn_from(self.generator)(z, y)


@register("hinge", "lsgan", "r3gan", "wgan", "wgan_div")
class GAN(Adversarial):
    """The game whose losses and penalties are keys."""

    def __init__(
        self,
        *given: Any,
        loss: Literal[
            "non_saturating", "minimax", "wasserstein", "hinge", "least_squares", "relativistic"
        ],
        penalties: list[Penalty],
        clip_weights: Positive | None,
        **game: Any,
    ) -> None:
        """loss, penalties, clip_weights: see `Adversarial` and its `penalize`."""
        super().__init__(*given, **game)
        self.losses, self.clip_weights = LOSSES[loss], clip_weights
        self.penalize(penalties)


@register("gan")
class NonSaturating(Adversarial):
    """The game with the loss that does not saturate, and the penalty R1.

    L_D = E softplus(-D(x)) + E softplus(D(G(z))) + r1/2 E |grad_x D(x)|^2
    L_G = E softplus(-D(G(z)))

    Reference: Goodfellow et al. 2014, arXiv 1406.2661, algorithm 1 and section 3; r1: Mescheder et
    al. 2018, arXiv 1801.04406, eq. 9.
    """

    losses = LOSSES["non_saturating"]
    loss = Model.loss  # no loss on held-out data: D may normalize over a batch of both

    def __init__(
        self, generator: Generator, discriminator: Network, *, r1: NonNegative, ema: Average
    ) -> None:
        """r1: weight of the penalty, 0: none; ema: average of G."""
        super().__init__(generator, discriminator, n_critic=1, g_batches=1, ema=ema)
        penalty = {"at": "real", "weight": r1 / 2, "center": 0.0, "power": 2.0, "one_sided": False}
        self.penalize([penalty] if r1 else [])

    def log(
        self, real: Tensor, fake: Tensor, slopes: Mapping[str, tuple[Tensor, Tensor]]
    ) -> dict[str, Tensor]:
        """The probabilities of being data that D gives data and samples."""
        return {"d_real": real.sigmoid().mean(), "d_fake": fake.sigmoid().mean()}


@register("wgan_gp")
class WGANGP(Adversarial):
    """The game with a critic D whose slope is held near 1.

    L_D = E D(G(z)) - E D(x) + weight E (|grad_x D(xhat)| - center)^2
    xhat = x + a (G(z) - x),  a ~ U(0, 1), one for each sample
    L_G = -E D(G(z))

    For the D that is best among those of slope 1 at most, E D(x) - E D(G(z)) is the Wasserstein
    distance W1 between data and samples; its estimate falls as G improves as long as D keeps up
    with G, and means nothing where D does not.

    Reference: Gulrajani et al. 2017, arXiv 1704.00028, algorithm 1; one_sided: section 4 there;
    center 0: Thanh-Tung et al. 2019, arXiv 1902.03984.
    """

    losses = LOSSES["wasserstein"]
    one_batch = True

    def __init__(
        self,
        *given: Any,
        weight: NonNegative,
        center: NonNegative,
        one_sided: bool,
        at: Literal["interpolates", "real", "fake"],
        **game: Any,
    ) -> None:
        """weight, center: see above; one_sided: only slopes above the center are penalized;
        at: where they are measured. The discriminator is the critic."""
        super().__init__(*given, **game)
        penalty = {"at": "between" if at == "interpolates" else at, "weight": weight}
        penalty |= {"center": center, "power": 2.0, "one_sided": one_sided}
        self.penalize([penalty])

    def log(
        self, real: Tensor, fake: Tensor, slopes: Mapping[str, tuple[Tensor, Tensor]]
    ) -> dict[str, Tensor]:
        """The estimate of W1, the penalty and the mean slope."""
        ((penalty, slope),) = slopes.values()
        return {"wasserstein": real.mean() - fake.mean(), "penalty": penalty, "slope": slope}
