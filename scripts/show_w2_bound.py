"""How far samples can be from the data: the Wasserstein distance beside what bounds it.

    python scripts/show_w2_bound.py             the Gaussian toys, seconds
    python scripts/show_w2_bound.py --trained   also six predictions trained on eight Gaussians

Two flows x' = f and y' = h that start together at t = T are, at t = 0, no further apart than

    W2(p, q) <= integral_0^T I_t sqrt(E_{p_t} |f - h|^2) dt,   I_t = exp(integral_0^t L_s ds)

with L the one-sided Lipschitz constant of h on the way back:
-(h(x) - h(y)).(x - y) <= L |x - y|^2.
For the flow of a score s, x' = -sigma s in the time sigma, |f - h| is sigma times the error of the
score, which is the error of eps: that is why a loss of scores is weighted by b^2.

Reference: Kwon, Fan and Lee 2022, arXiv 2212.06359, theorem 1 (there of SDEs).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

import torch
from torch import Tensor

Matrices = Callable[[Tensor], Tensor]
"""sigma [N] -> [N, D, D]: the matrix M of a linear score -M x."""

POINTS = 4001  # of the integrals over sigma, which are smooth


def data_score(deviation: Tensor) -> Matrices:
    """The score of data N(0, diag(deviation^2)) with noise sigma."""

    def matrices(sigma: Tensor) -> Tensor:
        variance = deviation.square() + sigma[:, None].square()
        return torch.diag_embed(1 / variance)

    return matrices


def carried(score: Matrices, covariance: Tensor, high: float, steps: int = 4000) -> Tensor:
    """[D, D] covariance at sigma = 0 of N(0, covariance) at `high`, by the flow of a linear score.

    x' = sigma M x, by the classical Runge-Kutta method.
    """
    # the slope at the ends and in the middle of every step
    grid = torch.linspace(high, 0, 2 * steps + 1, dtype=torch.float64)
    slope = grid[:, None, None] * score(grid)
    flow, h = torch.eye(len(covariance), dtype=torch.float64), -high / steps
    for i in range(0, 2 * steps, 2):
        one = slope[i] @ flow
        two = slope[i + 1] @ (flow + h / 2 * one)
        three = slope[i + 1] @ (flow + h / 2 * two)
        four = slope[i + 2] @ (flow + h * three)
        flow = flow + h / 6 * (one + 2 * two + 2 * three + four)
    return flow @ covariance @ flow.T


def root(matrix: Tensor) -> Tensor:
    """The square root of a symmetric matrix without negative eigenvalues."""
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values.clamp(min=0).sqrt() @ vectors.T


def distance(a: Tensor, b: Tensor) -> float:
    """W2 of N(0, a) and N(0, b): tr(a + b - 2 (a^1/2 b a^1/2)^1/2), its root.

    Reference: Dowson and Landau 1982, J. Multivariate Analysis 12, eq. 4.
    """
    half = root(a)
    return math.sqrt(max(0.0, (a + b - 2 * root(half @ b @ half)).trace().item()))


def bound(true: Matrices, score: Matrices, deviation: Tensor, high: float, sided: bool) -> float:
    """The bound for two linear scores, the first that of N(0, diag(deviation^2)) at every sigma.

    sided: with the constant that the way back needs; else with the norm of h, which holds for both
    ways and is far looser.
    """
    sigma = torch.linspace(0, high, POINTS, dtype=torch.float64)
    h = sigma[:, None, None] * score(sigma)
    if sided:
        constant = torch.linalg.eigvalsh(-(h + h.mT) / 2)[:, -1]
    else:
        constant = torch.linalg.matrix_norm(h, 2)
    covariance = torch.diag_embed(deviation.square() + sigma[:, None].square())
    off = sigma[:, None, None] * true(sigma) - h
    error = (off @ covariance @ off.mT).diagonal(dim1=1, dim2=2).sum(1).sqrt()
    growth = torch.cat([sigma.new_zeros(1), torch.cumulative_trapezoid(constant, sigma)]).exp()
    return torch.trapezoid(growth * error, sigma).item()


def compare(score: Matrices, deviation: Tensor, high: float) -> tuple[float, float, float]:
    """(W2, its bound, the looser one) of samples by `score`, started where the data end."""
    true = data_score(deviation)
    start = torch.diag(deviation.square() + high**2)
    data = torch.diag(deviation.square())
    w2 = distance(data, carried(score, start, high))
    return w2, *(bound(true, score, deviation, high, sided) for sided in (True, False))


def scaled(factor: float, deviation: Tensor) -> Matrices:
    """The true score times a number."""
    return lambda sigma: factor * data_score(deviation)(sigma)


def perturbed(size: float, deviation: Tensor, seed: int) -> Matrices:
    """The true score and an error that turns with sigma, (A sin w sigma + B cos w sigma) M."""
    g = torch.Generator().manual_seed(seed)
    d = len(deviation)
    a, b = size * torch.randn(2, d, d, generator=g, dtype=torch.float64)
    rate = 0.3 + 2 * torch.rand(1, generator=g, dtype=torch.float64)

    def matrices(sigma: Tensor) -> Tensor:
        turn = (rate * sigma)[:, None, None]
        true = data_score(deviation)(sigma)
        return true + (a * turn.sin() + b * turn.cos()) @ true

    return matrices


def gaussians() -> None:
    """Prints the toys with closed forms."""
    print("Gaussian data, sigma up to 5: W2 of the samples, its bound, and with |h| instead of L")
    one, three = torch.tensor([0.7]).double(), torch.tensor([0.3, 0.7, 1.5]).double()
    rows = [
        ("1-D, score x 1.1", scaled(1.1, one), one),
        ("1-D, score x 0.9", scaled(0.9, one), one),
        ("1-D, score x 2", scaled(2.0, one), one),
        ("3-D, score x 1.1", scaled(1.1, three), three),
        *((f"3-D, error {s}", perturbed(s, three, 1), three) for s in (0.01, 0.1, 0.3)),
    ]
    for name, score, deviation in rows:
        w2, sided, loose = compare(score, deviation, 5.0)
        print(f"  {name:18} {w2:9.4f} {sided:9.4f} {loose:12.4g}")


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trained", action="store_true", help="train six predictions, a minute")
    parser.add_argument("--images", type=int, default=300_000, help="points each is trained on")
    args = parser.parse_args()
    gaussians()
    if args.trained:
        from score_errors import table

        table(args.images)


if __name__ == "__main__":
    main()
