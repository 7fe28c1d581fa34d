"""Maximum mean discrepancy of two sets of vectors, and how sure it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from genlab.metric.vectors import blocks, product_dtype

__all__ = ["MMD", "Kernel", "mmd"]

Kernel = Callable[[Tensor], Tensor]
"""Inner products, float64 of any shape -> k of them."""


class MMD(NamedTuple):
    """An estimate of MMD^2.

    value: without bias; error: its standard error; subsets: [s] float64, the same estimate from
    each of s pairs of subsets.
    """

    value: float
    error: float
    subsets: Tensor


def mmd(
    x: Tensor,
    y: Tensor,
    kernel: Kernel,
    subsets: tuple[Tensor, Tensor] | None = None,
    device: torch.device | None = None,
) -> MMD:
    """MMD^2 of x [m, D] and y [n, D] by all pairs, m and n at least 3.

    MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y), the first two over pairs of different rows
    (Gretton et al. 2012, JMLR 13, eq. 3). It is unbiased, so about zero it may be negative.

    The error is the jackknife's: leaving out each row in turn changes the estimate by sums of rows
    of the kernel matrices. It is over the draw of both sets, and rather too large than too small
    (Efron and Stein 1981, Ann. Stat. 9): 2^(1/2) times where the sets are of one distribution.

    kernel: of inner products. subsets: rows of x and of y, int64 [s, size] each.
    """
    m, n = len(x), len(y)
    centre = (x.sum(0, dtype=torch.float64) + y.sum(0, dtype=torch.float64)) / (m + n)
    centre = centre.to(device or x.device)
    p, q = (
        _Rows(rows, centre, None if subsets is None else subsets[side])
        for side, rows in enumerate((x, y))
    )
    (xx, _, xx_sub), (yy, _, yy_sub) = _sums(p, p, kernel), _sums(q, q, kernel)
    xy, yx, xy_sub = _sums(p, q, kernel)
    sums = float(xx.sum()), float(yy.sum()), float(xy.sum())
    within_x, within_y, between = sums[0] / (m * (m - 1)), sums[1] / (n * (n - 1)), sums[2] / m / n
    value = within_x + within_y - 2 * between
    without_x = (sums[0] - 2 * xx) / ((m - 1) * (m - 2)) - 2 * (sums[2] - xy) / ((m - 1) * n)
    without_y = (sums[1] - 2 * yy) / ((n - 1) * (n - 2)) - 2 * (sums[2] - yx) / ((n - 1) * m)
    spread = [(len(u) - 1) * float(u.var(correction=0)) for u in (without_x, without_y)]
    size = 0 if subsets is None else subsets[0].shape[1]
    of_subsets = (xx_sub + yy_sub) / (size * (size - 1)) - 2 * xy_sub / size**2 if size else xx_sub
    return MMD(value, sum(spread) ** 0.5, of_subsets.cpu())


class _Rows:
    """x = centre + a, in a form whose inner products lose nothing.

    x.y = u + v + a.b with u = centre.a + centre.centre / 2: only a.b, the small part, is computed
    in float32, from an a that is rounded once for all its products.
    """

    def __init__(self, x: Tensor, centre: Tensor, subsets: Tensor | None) -> None:
        device = centre.device
        parts = [(x[i].to(device) - centre).to(product_dtype(device)) for i in blocks(len(x))]
        self.a = torch.cat(parts)
        self.u = torch.cat([a.double() @ centre for a in parts]) + centre.square().sum() / 2
        count = 0 if subsets is None else len(subsets)
        self.members = torch.zeros(len(x), count, dtype=torch.float64, device=device)
        if subsets is not None:
            self.members.scatter_(0, subsets.T.to(device), 1)


def _sums(p: _Rows, q: _Rows, kernel: Kernel) -> tuple[Tensor, Tensor, Tensor]:
    """Sums of the kernel matrix of p and q: of each row, of each column, of each pair of subsets.

    Of a set with itself those of rows alone, without the diagonal, from one half of the matrix.
    """
    same = p is q
    rows, columns = torch.zeros_like(p.u), torch.zeros_like(q.u)
    subsets = torch.zeros_like(p.members[0])
    for i in blocks(len(p.a)):
        for j in blocks(len(q.a)):
            if same and j.start < i.start:
                continue
            k = kernel(p.u[i, None] + q.u[j] + p.a[i] @ q.a[j].T)
            mirrored = same and i != j
            if same and not mirrored:
                k.fill_diagonal_(0)
            subsets += (1 + mirrored) * (p.members[i] * (k @ q.members[j])).sum(0)
            rows[i] += k.sum(1)
            (rows if mirrored else columns)[j] += k.sum(0)
    return rows, columns, subsets
