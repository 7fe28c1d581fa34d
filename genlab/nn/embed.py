"""Embeddings of time and labels."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

__all__ = ["Condition", "Fourier", "LabelEmbedding", "Waves", "sinusoids"]


def sinusoids(t: Tensor, width: int, closed: bool = False) -> Tensor:
    """Cosines and sines of a time at geometric frequencies.

    [cos(1000 t w_i), sin(1000 t w_i)],  w_i = 10000^(-i / (width/2)),  i = 0 .. width/2 - 1

    t [B] in [0, 1] -> [B, width] float32; width is even. The factor brings t to the 1000 steps
    the frequencies were chosen for. closed: i / (width/2 - 1), so that the last one is 1/10000.

    Reference: Vaswani et al. 2017, arXiv 1706.03762, section 3.5; Ho et al. 2020, arXiv
    2006.11239, appendix B.
    """
    half = width // 2
    powers = torch.arange(half, device=t.device, dtype=torch.float32) / (half - closed)
    angles = 1000 * t.float()[:, None] * torch.exp(-math.log(10000) * powers)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class Fourier(nn.Module):
    """Cosines and sines of a time at random frequencies.

    [cos(2 pi f_i 1000 t), sin(2 pi f_i 1000 t)],  f_i ~ N(0, scale^2), drawn once

    1000 t is 1000 c_noise of the path: on `edm`, ln(sigma) / 4.

    Reference: Tancik et al. 2020, arXiv 2006.10739; Song et al. 2021, arXiv 2011.13456, app. C.1.
    """

    def __init__(self, width: int, scale: float = 16.0) -> None:
        """width: of the result, even."""
        super().__init__()
        self.register_buffer("frequencies", torch.randn(width // 2) * scale)

    def forward(self, t: Tensor) -> Tensor:
        """t [B] -> [B, width] float32."""
        angles = 2000 * math.pi * t.float()[:, None] * self.frequencies
        return torch.cat([angles.cos(), angles.sin()], dim=1)


class Waves(nn.Module):
    """sqrt(2) cos(2 pi (f_i 1000 t + p_i)),  f_i ~ N(0, 1), p_i ~ U[0, 1), drawn once.

    1000 t is 1000 c_noise of the path, on `edm` ln(sigma) / 4.
    """

    def __init__(self, width: int) -> None:
        """width: of the result."""
        super().__init__()
        self.register_buffer("frequencies", torch.randn(width))
        self.register_buffer("phases", torch.rand(width))

    def forward(self, t: Tensor) -> Tensor:
        """t [B] -> [B, width] float32."""
        turns = 1000 * t.float()[:, None] * self.frequencies + self.phases
        return (2 * math.pi * turns).cos() * math.sqrt(2)


class LabelEmbedding(nn.Embedding):
    """Vectors of K labels and, in the last row, of no label.

    No label is y = None for a whole batch, and y = -1 or K for single rows of it.
    """

    def __init__(self, classes: int, width: int) -> None:
        """classes: K; width: of the vectors."""
        super().__init__(classes + 1, width)

    def forward(self, y: Tensor | None, n: int) -> Tensor:
        """y [n] int64 in -1 .. K, or None -> [n, width]."""
        if y is None:
            return self.weight[-1].expand(n, -1)
        return super().forward(y.where(y >= 0, self.num_embeddings - 1))


class Condition(nn.Module):
    """The condition of a denoising network: an embedding of the time and of the label.

    e = SiLU(W2 SiLU(W1 embed(t)) + label(y))

    Reference: Dhariwal and Nichol 2021, arXiv 2105.05233, appendix A.
    """

    def __init__(
        self,
        width: int,
        classes: int | None,
        frequencies: int | None = None,
        embed: Literal["sinusoids", "closed", "fourier"] = "sinusoids",
    ) -> None:
        """width: of the embedding; classes: K, None without labels.

        frequencies: cosines and sines of the time, an even number, None for `width`. embed: which;
        closed: sinusoids down to the last frequency. Raises ValueError for odd numbers of them.
        """
        super().__init__()
        count = width if frequencies is None else frequencies
        if count % 2 or (embed == "closed" and count < 4):
            raise ValueError(f"the embedding width is even, not {count}")
        self.count, self.closed = count, embed == "closed"
        self.time = nn.Sequential(nn.Linear(count, width), nn.SiLU(), nn.Linear(width, width))
        self.label = LabelEmbedding(classes, width) if classes is not None else None
        self.act = nn.SiLU()
        self.fourier = Fourier(count) if embed == "fourier" else None

    def forward(self, t: Tensor, y: Tensor | None) -> Tensor:
        """t [B] in [0, 1], y [B] or None -> [B, width]."""
        waves = self.fourier(t) if self.fourier else sinusoids(t, self.count, self.closed)
        e = self.time(waves)
        if self.label is not None:
            e = e + self.label(y, len(t))
        return self.act(e)
