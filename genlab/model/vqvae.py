"""VQ-VAE."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from genlab.core.contract import Batch, Codec, Model, Network, Update
from genlab.core.errors import ConfigError
from genlab.core.registry import register
from genlab.core.schema import Positive
from genlab.nn.quantize import Quantized, Quantizer
from genlab.nn.similarity import psnr

__all__ = ["VQVAE"]

IMAGES = 1024  # the variance of the data is measured on


@register
class VQVAE(Model):
    """An autoencoder with a quantizer between encoder and decoder.

    L = |decoder(q(z)) - x|^2 / variance + the losses of the quantizer,  z = encoder(x)

    Divided by the variance of the data the error is 1 for a decoder that knows only their mean,
    so that the weight of the commitment means the same for all data.

    grid: (h, w) of the codes of an image; codebook_size: K codes to choose from; code_bits: h w
    log2 K, what those of an image can hold.

    Reference: van den Oord et al. 2017, arXiv 1711.00937, eq. 3.
    """

    higher_is_better = ("psnr", "usage", "perplexity")

    def __init__(
        self,
        encoder: Network,
        decoder: Network,
        quantizer: Quantizer,
        codec: Codec,
        *,
        variance: Positive | Literal["auto"],
    ) -> None:
        """variance: of a number of x, or auto; ValueError if the networks do not fit together."""
        super().__init__()
        widths = (encoder.code_width, quantizer.code_width, decoder.code_width)
        if len(set(widths)) > 1:
            raise ValueError(
                "code_width of network.encoder, quantizer and decoder must be the same, not "
                + ", ".join(map(str, widths))
            )
        if encoder.grid != decoder.grid:
            raise ValueError("halvings of network.encoder and decoder must be the same")
        self.encoder, self.decoder, self.quantizer, self.codec = encoder, decoder, quantizer, codec
        self.grid, self.codebook_size = encoder.grid, quantizer.size
        self.code_bits = self.grid[0] * self.grid[1] * quantizer.bits
        self.measured = variance == "auto"
        scale = 1.0 if variance == "auto" else variance
        self.register_buffer("variance", torch.tensor(scale))

    def start(self, data: Iterator[Batch]) -> None:
        """Measures the variance of the data, then lets the quantizer see encoded batches.

        Raises ConfigError for data without variance, and for fewer vectors than codes.
        """
        if self.measured:
            first = next(data).x
            rest = islice(data, -(-IMAGES // len(first)) - 1)
            # twice as many numbers a batch and nothing else is kept, however large images are
            found = [torch.stack([x.mean(), x.square().mean()]) for x in _images(first, rest)]
            mean, square = torch.stack(found).double().mean(0)
            variance = square - mean.square()
            if variance <= 1e-9:
                raise ConfigError(
                    "the data have no variance: the first images are all of one colour; "
                    "use other data or set model.variance=1"
                )
            self.variance.copy_(variance)
        try:
            self.quantizer.start((self.encoder(b.x), b.noise) for b in data)
        except ValueError as e:
            raise ConfigError(str(e)) from e

    def _forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor, Quantized]:
        """x [B, C, H, W] -> (loss [], scalars to log, z, quantized)."""
        z = self.encoder(x)
        q = self.quantizer(z)
        out = self.decoder(q.z)
        error = (out - x).square().mean() / self.variance
        with torch.no_grad():
            stored, copy = (self.codec.decode(v).float() for v in (x, out))
            decibels = psnr(stored, copy).clamp(max=100).mean()  # infinite for equal images
        log = {"reconstruction": error.detach(), "psnr": decibels, **q.stats}
        return torch.stack([error, *q.losses.values()]).sum(), log, z, q

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """[] loss, and: error over variance, PSNR in dB of the bytes, facts of the codebook.

        Leaves the codebook as it is.
        """
        return self._forward(batch.x)[:2]

    def step(self, data: Iterator[Batch]) -> Iterator[Update]:
        """One update of the networks; the quantizer collects what its codebook learns from."""
        batch = next(data)
        loss, log, z, q = self._forward(batch.x)
        self.quantizer.collect(z, q.indices, batch.noise)
        yield Update(loss, log=log)

    def end_step(self, optim: Mapping[str, Optimizer]) -> None:
        """Moves the codebook, once a step."""
        self.quantizer.commit()
        super().end_step(optim)

    def encode(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> index of the codes [B, h, w] int64."""
        indices: Tensor = self.quantizer(self.encoder(x)).indices
        return indices

    def decode(self, codes: Tensor) -> Tensor:
        """codes [B, h, w] int64 -> x [B, C, H, W]."""
        x: Tensor = self.decoder(self.quantizer.codes(codes))
        return x


def _images(first: Tensor, rest: Iterator[Batch]) -> Iterator[Tensor]:
    yield first
    for batch in rest:
        yield batch.x
