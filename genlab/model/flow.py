"""Maximum likelihood with an invertible network."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from genlab.core.contract import Batch, Bijection, BoundSampler, Codec, Model, Noise, Spec
from genlab.core.ema import make_ema
from genlab.core.registry import register
from genlab.core.schema import Average

__all__ = ["NLL"]

START = 256  # data the network looks at before its first step, as the official code of Glow does


@register("glow")
class NLL(Model):
    """The likelihood of a flow f, in bits per dimension of the stored values.

    log p(x) = log N(f(x); 0, I) + log |df/dx|
    loss = -(log p(x) + log |dx/du|) / (D ln 2)

    u are the stored values and x(u) is the codec's, so that losses of different codecs compare.
    f must be a `Bijection`. Samples are f^-1 of normal noise.

    Reference: Dinh et al. 2014, arXiv 1410.8516, eq. 1; Theis et al. 2015, arXiv 1511.01844,
    section 3.1 (bits per dimension).
    """

    def __init__(self, net: Bijection, codec: Codec, spec: Spec, *, ema: Average) -> None:
        """ema: of the weights, see core/ema.py; 0 for none."""
        super().__init__()
        if not isinstance(net, Bijection):
            raise ValueError(
                f"a flow needs an invertible network, and {type(net).__name__} is none; "
                "use network=glow"
            )
        if codec.logdet(torch.zeros(1, *spec.shape)) is None:
            raise ValueError(
                f"a flow needs data with a density, and the codec {codec.name} "
                "gives them none; use codec=dequantize"
            )
        self.net, self.codec, self.size = net, codec, math.prod(spec.shape)
        self.ema = make_ema(net, ema)

    @torch.no_grad()
    def start(self, data: Iterator[Batch]) -> None:
        """Shows the network the first images, if it begins with a look at them."""
        seen = [next(data).x]
        while len(seen) * len(seen[0]) < START:
            seen.append(next(data).x)
        self.net.start(torch.cat(seen)[:START])

    def loss(self, batch: Batch) -> Tensor:
        """[] bits per dimension of the stored values."""
        x, y = batch.x, batch.y
        nats = self.log_prob(x, y, batch.noise).mean() + self.codec.logdet(x).mean()
        return nats / (-self.size * math.log(2))

    def log_prob(self, x: Tensor, y: Tensor | None, noise: Noise) -> Tensor:
        """x [B, *S], y [B] or None -> [B] nats, the density of model space, exactly."""
        z, log_det = self.drawn_from(self.net)(x, y)
        normal = z.square().sum(1) + self.size * math.log(2 * math.pi)
        return log_det - normal / 2

    def likelihood(self) -> str:
        """How log_prob is found."""
        return "exact"

    def prior(self, noise: Noise) -> Tensor:
        """[n, D] standard normal."""
        return noise.normal(self.size)

    def transport(
        self, z: Tensor, y: Tensor | None, noise: Noise, sampler: BoundSampler
    ) -> Tensor:
        """z [n, D] -> [n, *S] by the inverse of the network; the sampler is not used."""
        return self.drawn_from(self.net).inverse(z, y)
