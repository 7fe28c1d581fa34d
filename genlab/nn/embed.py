"""Embeddings of time and labels."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["Condition", "LabelEmbedding", "sinusoids"]


def sinusoids(t: Tensor, width: int) -> Tensor:
    """Cosines and sines of a time at geometric frequencies.

    [cos(1000 t w_i), sin(1000 t w_i)],  w_i = 10000^(-i / (width/2)),  i = 0 .. width/2 - 1

    t [B] in [0, 1] -> [B, width] float32; width is even. The factor brings t to the 1000 steps
    the frequencies were chosen for.

    Reference: Vaswani et al. 2017, arXiv 1706.03762, section 3.5; Ho et al. 2020, arXiv
    2006.11239, appendix B.
    """
    half = width // 2
    powers = torch.arange(half, device=t.device, dtype=torch.float32) / half
    angles = 1000 * t.float()[:, None] * torch.exp(-math.log(10000) * powers)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


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
    """What a field network knows beside x: an embedding of the time and of the label.

    e = SiLU(W2 SiLU(W1 sinusoids(t)) + label(y))

    Reference: Dhariwal and Nichol 2021, arXiv 2105.05233, appendix A.
    """

    def __init__(self, width: int, classes: int | None) -> None:
        """width: of the embedding, even; classes: K, None without labels."""
        super().__init__()
        if width % 2:
            raise ValueError(f"the embedding width is even, not {width}")
        self.width = width
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.label = LabelEmbedding(classes, width) if classes is not None else None
        self.act = nn.SiLU()

    def forward(self, t: Tensor, y: Tensor | None) -> Tensor:
        """t [B] in [0, 1], y [B] or None -> [B, width]."""
        e = self.time(sinusoids(t, self.width))
        if self.label is not None:
            e = e + self.label(y, len(t))
        return self.act(e)
