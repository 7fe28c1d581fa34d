"""Nearest rows among vectors: decided as float64 would, at the speed of float32.

|x - y|^2 = |x|^2 + |y|^2 - 2 x.y comes from products of blocks, with a bound on what rounding did
to it. What the bound leaves open - a tie, a copy, a neighbour a hair's breadth away - is decided
by float64 differences of the pairs in question or, where these are many, by products in float64.
No matrix larger than a block is kept.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from genlab.metric.vectors import blocks, product_dtype

__all__ = ["Rows", "nearest", "together", "within"]

SPARE = 3  # candidates beyond k, so that near ties rarely need a second pass
OPEN = 1 << 12  # open pairs of a block above which a second product is cheaper
NUMBERS = 1 << 20  # of each side in a chunk of single pairs: much for threads, little for memory


class Rows:
    """Vectors x [n, D], uint8 or float, about a centre and in a unit of length of their own.

    centre: float32 [D]; unit: a power of two; all that are compared share both. Neither changes
    which of two distances is larger, and both keep rounding small. squares: float64 [n],
    |x - centre|^2 / unit^2.
    """

    def __init__(self, x: Tensor, centre: Tensor, unit: float, squares: Tensor) -> None:
        self.x, self.centre, self.unit, self.squares = x, centre, unit, squares

    def __len__(self) -> int:
        return len(self.x)

    def take(self, rows: Tensor) -> Rows:
        """Some of the rows, int64 [m]."""
        return Rows(self.x[rows.to(self.x.device)], self.centre, self.unit, self.squares[rows])

    def block(self, i: slice, dtype: torch.dtype) -> Tensor:
        """(x - centre) / unit of some rows."""
        x = self.x[i].to(self.centre.device)
        wide = torch.promote_types(x.dtype, dtype)
        return ((x.to(wide) - self.centre.to(wide)) / self.unit).to(dtype)


def together(*sets: Tensor, device: torch.device | None = None) -> list[Rows]:
    """Sets [n, *S] of vectors to compare with each other on a device."""
    first = sets[0].flatten(1)
    device = device or first.device
    centre = torch.stack([first[i].sum(0, dtype=torch.float64) for i in blocks(len(first))]).sum(0)
    centre = (centre / len(first)).float().to(device)
    found = []
    for x in sets:
        plain = Rows(x.flatten(1), centre, 1.0, centre[:0])
        parts = [plain.block(i, torch.float64).square().sum(1) for i in blocks(len(x))]
        plain.squares = torch.cat(parts)
        found.append(plain)
    largest = max(float(rows.squares.max()) for rows in found) ** 0.5
    unit = 2.0 ** math.frexp(largest)[1]
    return [Rows(r.x, centre, unit, r.squares / unit**2) for r in found]


def nearest(x: Rows, y: Rows, k: int) -> tuple[Tensor, Tensor]:
    """The k nearest rows of y to each row of x, or the k nearest others where y is x.

    -> ([n, k] float64 squared distances, ascending; [n, k] int64 rows of y). k is at most the
    number of rows there are. Only rows as near as float64 products can tell may be exchanged.
    """
    left = torch.arange(len(x), device=x.squares.device)
    squares = x.squares.new_empty(len(x), k)
    index = torch.empty_like(squares, dtype=torch.int64)
    for dtype in dict.fromkeys((product_dtype(x.centre.device), torch.float64)):
        part = x if len(left) == len(x) else x.take(left)
        own = left if x is y else None
        squares[left], index[left], sure = _search(part, own, y, k, dtype)
        left = left[~sure]
        if not len(left):
            break
    return squares, index


def within(x: Rows, y: Rows, i: slice, j: slice, *radii: Tensor) -> list[Tensor]:
    """For each of some radii whether |x_i - y_j| <= radius, bool [I, J].

    radii: squared, float64, [I, 1] or [J].
    """
    lower, upper = _bounds(x, y, i, j, product_dtype(x.centre.device))
    answers = []
    for radius in radii:
        inside, a, b = _decided(lower, upper, radius)
        if len(a) > OPEN:
            inside, a, b = _decided(*_bounds(x, y, i, j, torch.float64), radius)
        if len(a) > OPEN:  # copies by the thousand, on the edge, which is inside
            inside[a, b] = True
        else:
            exact = _exact(x, a + i.start, y, b + j.start)
            inside[a, b] = exact <= radius.expand_as(inside)[a, b]
        answers.append(inside)
    return answers


def _decided(lower: Tensor, upper: Tensor, radius: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(surely inside [I, J], rows and columns of the pairs that may be inside or not)."""
    radius = radius.to(lower.dtype)
    inside = upper <= radius
    a, b = ((lower <= radius) ^ inside).nonzero(as_tuple=True)
    return inside, a, b


def _search(
    x: Rows, own: Tensor | None, y: Rows, k: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """(squared distances [n, k], rows of y [n, k], whether these surely are the nearest [n]).

    own: the row of y that each row of x is, and that does not count. dtype: of the products that
    name candidates.
    """
    keep = min(k + SPARE, len(y) - (own is not None))
    bounds = x.squares.new_full((len(x), keep), torch.inf)
    index = torch.zeros_like(bounds, dtype=torch.int64)
    _candidates(x, own, y, dtype, bounds, index)
    rows = torch.arange(len(x), device=index.device)[:, None].expand_as(index)
    found = _exact(x, rows.reshape(-1), y, index.reshape(-1)).view(len(x), keep)
    squares, order = found.topk(k, largest=False)
    sure = (squares[:, -1] <= bounds[:, -1]) | (squares[:, -1] == 0)
    if keep == len(y) - (own is not None):
        sure.fill_(True)
    return squares, index.gather(1, order), sure


def _candidates(
    x: Rows, own: Tensor | None, y: Rows, dtype: torch.dtype, bounds: Tensor, index: Tensor
) -> None:
    """Fills bounds and index with the rows of y that have the least lower bounds, ascending."""

    def offer(i: slice, lower: Tensor, start: int) -> None:
        least, at = lower.topk(min(bounds.shape[1], lower.shape[1]), largest=False)
        least, at = torch.cat([bounds[i], least], 1), torch.cat([index[i], at + start], 1)
        bounds[i], pick = least.topk(bounds.shape[1], largest=False)
        index[i] = at.gather(1, pick)

    for i in blocks(len(x)):
        for j in blocks(len(y)):
            if x is y and j.start < i.start:
                continue  # the mirror image of a block that is done
            lower, _ = _bounds(x, y, i, j, dtype)
            if own is not None:
                mine = own[i] - j.start
                here = ((mine >= 0) & (mine < lower.shape[1])).nonzero()[:, 0]
                lower[here, mine[here]] = torch.inf
            offer(i, lower, j.start)
            if x is y and i != j:
                offer(j, lower.T, i.start)


def _bounds(x: Rows, y: Rows, i: slice, j: slice, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Between which numbers |x_i - y_j|^2 lie, [I, J] each, from a product in dtype.

    The rounding error of a sum of D terms grows like D^(1/2) (Higham and Mary 2019, SIAM J. Sci.
    Comput. 41, A2815): 4 D^(1/2) roundings of |x|^2 + |y|^2 are more than is ever seen.
    """
    a, b = x.block(i, dtype), y.block(j, dtype)
    share = torch.finfo(dtype).eps / 2 * (8 + 4 * a.shape[1] ** 0.5)
    squares = (x.squares[i, None] + y.squares[j]).to(dtype)
    lower = torch.addmm(squares * (1 - share), a, b.T, alpha=-2)
    return lower, squares.mul_(2 * share).add_(lower)


def _exact(x: Rows, i: Tensor, y: Rows, j: Tensor) -> Tensor:
    """|x_i - y_j|^2 / unit^2 of pairs of rows, int64 [p] each, as float64 differences give it."""
    step = max(1, NUMBERS // x.x.shape[1])
    parts = []
    for p, q in zip(i.split(step), j.split(step), strict=True):
        a, b = (r.x[at.to(r.x.device)].to(x.centre.device) for r, at in ((x, p), (y, q)))
        parts.append(a.double().sub_(b).square_().sum(1))
    return torch.cat(parts) / x.unit**2
