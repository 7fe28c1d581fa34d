"""How alike two images are: formulas that need no weights."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["WINDOW", "psnr", "ssim"]

LARGEST = 255  # of stored numbers
WINDOW = 11  # pixels of the side of the window of ssim
SIGMA = 1.5  # pixels
K1, K2 = 0.01, 0.03


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """[n] float32 decibels, 10 log10(255^2 / mean squared difference); inf for equal images.

    a, b [n, ...], stored numbers from 0 to 255, uint8 or not yet rounded.
    """
    error = (a.float() - b.float()).square().flatten(1).mean(1)
    return 10 * (LARGEST**2 / error).log10()


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """[n] float64 structural similarity, 1 for equal images.

    (2 ma mb + c1) (2 vab + c2) / ((ma^2 + mb^2 + c1) (va + vb + c2)),  c = (255 K)^2

    averaged over channels and all places where the window lies inside the image. Means m,
    variances v and the covariance vab are those under a Gaussian window of 11 x 11 pixels and
    deviation 1.5, weights summing to 1, without Bessel's correction. K1 = 0.01, K2 = 0.03. Large
    images are not reduced beforehand, as the authors' program does.

    a, b uint8 [n, C, H, W], H and W at least 11.

    Reference: Wang, Bovik, Sheikh, Simoncelli 2004, "Image quality assessment: from error
    visibility to structural similarity", IEEE TIP 13(4), eq. 13.
    """
    rows, columns = (_window(side, a.device) for side in a.shape[2:])

    def mean(x: Tensor) -> Tensor:
        return rows @ x @ columns.T

    a, b = a.double(), b.double()  # variances are small differences of large numbers
    ma, mb = mean(a), mean(b)
    va, vb, vab = mean(a * a) - ma * ma, mean(b * b) - mb * mb, mean(a * b) - ma * mb
    c1, c2 = (LARGEST * K1) ** 2, (LARGEST * K2) ** 2
    similarity = (2 * ma * mb + c1) * (2 * vab + c2)
    similarity /= (ma * ma + mb * mb + c1) * (va + vb + c2)
    return similarity.mean((1, 2, 3))


def _window(side: int, device: torch.device) -> Tensor:
    """[side - 10, side] float64: row i weighs the pixels of the window that begins at i.

    A product with this band is several times quicker in float64 on a CPU than a convolution.
    """
    weight = torch.arange(WINDOW, dtype=torch.float64, device=device) - WINDOW // 2
    weight = (-weight.square() / (2 * SIGMA**2)).exp()
    weight /= weight.sum()
    band = weight.new_zeros(side - WINDOW + 1, side)
    for i, w in enumerate(weight):
        band.diagonal(i).fill_(w)
    return band
