"""Vector quantization with a learned codebook."""

from __future__ import annotations

from collections.abc import Iterator
from math import log2
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genlab.core import dist
from genlab.core.contract import Noise, Spec
from genlab.core.registry import register
from genlab.core.schema import Count, Fraction, Natural, NonNegative
from genlab.nn.quantize import (
    Quantized,
    Quantizer,
    codebook_usage,
    kmeans,
    nearest,
    straight_through,
    sums,
)

__all__ = ["VectorQuantizer"]

EPS = 1e-5  # Laplace smoothing of the counts
TRIES = 16  # times as many vectors as codes are looked at for a start from different ones


@register("vq")
class VectorQuantizer(Quantizer):
    """A table of K codes; a vector is replaced by the nearest one.

    codebook=ema, after each step with hits h_k and sums s_k of the vectors of the global batch:

        n <- g n + (1-g) h,  m <- g m + (1-g) s,  e_k = m_k / ((n_k + eps) / (N + K eps) N)

    with N = sum n and g the decay; codebook=loss adds |stop(z) - e|^2 instead. Both add
    commitment |z - stop(e)|^2, and the decoder's gradient passes straight through to z.

    A code whose average hits fall below `restart` times the even share is put on a vector of the
    batch, with the share's hits and their sum, or else the next step would move it back. One
    vector of each image, at a random place, is a candidate: so rank, micro-batch and resume
    change nothing, and at most as many codes restart in a step as the batch has images.

    usage and perplexity are those of the vectors `forward` is given: of a (micro-)batch in the
    journal, so with few vectors to many codes they stay low.

    `forward` moves no state: the model calls `collect` once a micro-batch, `commit` once a step.

    Reference: van den Oord et al. 2017, arXiv 1711.00937, eq. 3 and appendix A.1; restarts after
    Dhariwal et al. 2020, arXiv 2005.00341, section 3.1, and Zeghidour et al. 2021, arXiv
    2107.03312, section III-C.
    """

    def __init__(
        self,
        spec: Spec,
        *,
        codes: Count,
        code_width: Count,
        codebook: Literal["ema", "loss"],
        commitment: NonNegative,
        decay: Fraction,
        restart: Fraction,
        kmeans: Natural | None,
    ) -> None:
        """The keys as in configs/network/vq_autoencoder.yaml."""
        super().__init__()
        self.size, self.code_width, self.bits = codes, code_width, log2(codes)
        self.learned, self.commitment = codebook == "loss", commitment
        self.decay, self.restart, self.iterations = decay, restart, kmeans
        table = torch.randn(codes, code_width)
        if kmeans is None:  # as in Sonnet: of variance 1 / code_width
            table = torch.empty(codes, code_width).uniform_(-1, 1) * (3 / code_width) ** 0.5
        if self.learned:
            self.codebook = nn.Parameter(table)
        else:
            self.register_buffer("codebook", table)
            self.register_buffer("total", table.clone())
        self.register_buffer("count", torch.ones(codes))
        self.register_buffer("restarts", torch.zeros(()))
        self._seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def compiled_regions(self) -> list[nn.Module]:
        """None: the search for the nearest code is bound by its products."""
        return []

    def codes(self, indices: Tensor) -> Tensor:
        """indices [B, h, w] int64 < K -> their codes [B, d, h, w] float32."""
        return F.embedding(indices, self.codebook).permute(0, 3, 1, 2)

    def forward(self, z: Tensor) -> Quantized:
        """z [B, d, h, w] -> the nearest codes; fp32 also under autocast."""
        with torch.autocast(z.device.type, enabled=False):
            z = z.float()
            b, _, h, w = z.shape
            indices = nearest(_vectors(z), self.codebook).view(b, h, w)
            e = self.codes(indices)
            gap = F.mse_loss(z, e.detach())
            losses = {"commitment": self.commitment * gap}
            if self.learned:
                losses["codebook"] = F.mse_loss(e, z.detach())
            return Quantized(straight_through(z, e), indices, losses, self._facts(indices, gap))

    @torch.no_grad()
    def _facts(self, indices: Tensor, gap: Tensor) -> dict[str, Tensor]:
        flat = indices.flatten()
        hits = self.count.new_zeros(self.size).index_add_(0, flat, self.count.new_ones(flat.shape))
        usage, perplexity = codebook_usage(hits)
        facts = {
            "perplexity": perplexity,
            "usage": usage,
            "quantization_error": gap.detach(),
        }
        return facts | {"restarts": self.restarts.clone()} if self.training else facts

    @torch.no_grad()
    def start(self, batches: Iterator[tuple[Tensor, Noise]]) -> None:
        """Puts the codes on clusters of the first vectors: z [B, d, h, w] and noise a batch.

        As many batches are taken as it needs to have K different vectors, none where k-means is
        None. Raises ValueError when even TRIES times as many vectors as codes are not enough.
        """
        if self.iterations is None:
            return
        vectors, order, different = [], [], 0
        while different < self.size:
            z, noise = next(batches)
            vectors.append(_vectors(z.float()))
            order.append(noise.uniform(z.shape[2] * z.shape[3]).flatten())
            if (seen := sum(map(len, vectors))) >= self.size:
                different = len(torch.unique(torch.cat(vectors), dim=0))
            if different < self.size and seen >= TRIES * self.size:
                raise ValueError(
                    f"network.quantizer.codes={self.size}, but the first {seen:,} vectors of the "
                    f"encoder hold only {different} different ones to start from; use fewer "
                    "codes, or more or larger images"
                )
        z = torch.cat(vectors)
        first = torch.cat(order).argsort(stable=True)[: self.size]
        centres, count = kmeans(z, z.index_select(0, first), self.iterations)
        self.codebook.copy_(centres)
        # in hits a step, as the averages count them; a code without any still stands somewhere
        self.count.copy_(count.clamp(min=1) * (len(vectors[0]) / len(z)))
        if not self.learned:
            self.total.copy_(self.count[:, None] * centres)

    @torch.no_grad()
    def collect(self, z: Tensor, indices: Tensor, noise: Noise) -> None:
        """Adds z [B, d, h, w] with indices [B, h, w] to the sums of its codes."""
        z = _vectors(z.detach().float())
        hits, total = sums(z, indices.flatten(), self.size)
        one = torch.arange(noise.n, device=z.device) * (len(z) // noise.n)
        at = one + (noise.uniform() * (len(z) // noise.n)).long()
        self._seen.append((hits, total, z.index_select(0, at)))

    @torch.no_grad()
    def commit(self) -> None:
        """Moves the codebook by what all micro-batches of all ranks collected."""
        if not self._seen:
            return
        hits, total = (
            torch.stack(part).sum(0) for part in list(zip(*self._seen, strict=True))[:2]
        )
        candidates = torch.cat([part[2] for part in self._seen])
        self._seen.clear()
        both = dist.sum_(torch.cat([hits[:, None], total], 1))
        # a step that is not finite moves nothing, as in the optimizer, and nobody waits to see
        sound = both.isfinite().all()
        hits, total = torch.where(sound, both, 0.0).split([1, self.code_width], 1)
        hits, weight = hits[:, 0], (1 - self.decay) * sound
        self.count.lerp_(hits, weight)
        if not self.learned:
            self.total.lerp_(total, weight)
            n = self.count.sum()
            smooth = (self.count + EPS) / (n + self.size * EPS) * n
            torch.div(self.total, smooth[:, None], out=self.codebook)
        if self.restart:
            self._restart(dist.gather(candidates), hits.sum() / self.size)

    def _restart(self, candidates: Tensor, share: Tensor) -> None:
        """Puts the first dead codes on candidates [n, d]; share []: hits of an even use."""
        dead = self.count < self.restart * share
        place = dead.cumsum(0) - 1
        dead &= place < len(candidates)
        fresh = candidates.index_select(0, place.clamp(0, len(candidates) - 1))
        here = dead[:, None]
        self.codebook.copy_(torch.where(here, fresh, self.codebook))
        self.count.copy_(torch.where(dead, share, self.count))
        if not self.learned:
            self.total.copy_(torch.where(here, fresh * share, self.total))
        self.restarts.copy_(dead.sum())

    def extra_repr(self) -> str:
        """What stands in a printed model."""
        return f"codes={self.size}, code_width={self.code_width}"


def _vectors(z: Tensor) -> Tensor:
    """[B, d, h, w] -> [B h w, d], without a copy for channels_last."""
    return z.permute(0, 2, 3, 1).reshape(-1, z.shape[1])
