"""What networks get wrong of the score of eight Gaussians, by what they predict and its weight.

Used by show_w2_bound.py. The exact score is that of a mixture of normals, so the error is what a
denoising loss cannot show: its own least value hides it.
"""

from __future__ import annotations

import math
import time

import torch
from torch import Tensor

from genlab.core.contract import Batch, Spec
from genlab.core.random import SampleNoise
from genlab.model.path import PathModel
from genlab.network.mlp import MLP
from genlab.process.trig import Trigonometric

SPEC, DEVIATION = Spec((2,)), 0.1
ANGLES = torch.arange(8) * (math.pi / 4)
CENTERS = math.sqrt(2) * torch.stack([ANGLES.cos(), ANGLES.sin()], 1).double()
SIGMAS = (0.02, 0.05, 0.1, 0.3, 1.0, 3.0, 10.0)
BATCH = 512


class Raw(PathModel):
    """The loss of the score itself, without the factor b^2: E |s - s*|^2 = E |eps - eps*|^2 / b^2.

    On this path b is sin(phi), and s the score of x_phi.
    """

    def loss(self, batch: Batch) -> Tensor:
        """[] that, by denoising."""
        t = self.times(batch.noise)
        a, b, _, _ = (c.to(batch.x.dtype)[:, None] for c in self.process.coefficients(t))
        eps = batch.noise.normal(2)
        x = a * batch.x + b * eps
        found = (x - a * self.denoise(x, t, None)) / b
        return ((found - eps) / b).square().mean()


def draw(n: int, g: torch.Generator) -> Tensor:
    """[n, 2] points of eight Gaussians."""
    mode = torch.randint(8, (n,), generator=g)
    return CENTERS[mode] + DEVIATION * torch.randn(n, 2, generator=g, dtype=torch.float64)


def denoised(x: Tensor, sigma: float) -> Tensor:
    """x [n, 2] at sigma -> E[x0 | x] exactly."""
    spread = DEVIATION**2 + sigma**2
    off = x[:, None] - CENTERS
    odds = (-off.square().sum(2) / (2 * spread)).softmax(1)
    return (odds[:, :, None] * (CENTERS + DEVIATION**2 / spread * off)).sum(1)


def train(kind: type[PathModel], predict: str, weight: str, images: int) -> PathModel:
    """A perceptron after so many points; sigma is log-normal, as for every other row."""
    torch.manual_seed(0)
    g = torch.Generator().manual_seed(1)
    keys = {"density": "lognormal", "location": -1.2, "scale": 1.6, "label_dropout": 0.0, "sd": 1}
    net = MLP(SPEC, width=64, depth=2, embedding=64)
    model = kind(net, Trigonometric(), SPEC, predict=predict, weight=weight, ema=0, **keys)
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    steps = images // BATCH
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        noise = SampleNoise(step, range(BATCH), torch.device("cpu"))
        loss = model.loss(Batch(draw(BATCH, g).float(), None, noise))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def error(model: PathModel, sigma: float, n: int = 4000) -> float:
    """E |score - exact score|^2 of x0 + sigma eps; the error of x0 is sigma^4 times as much."""
    g = torch.Generator().manual_seed(2)
    x = draw(n, g) + sigma * torch.randn(n, 2, generator=g, dtype=torch.float64)
    t = model.process.time(torch.full((n,), sigma, dtype=torch.float64))
    a, _, _, _ = model.process.coefficients(t)
    found = model.denoise((a[:, None] * x).float(), t, None).double()
    return (found - denoised(x, sigma)).square().sum(1).mean().item() / sigma**4


def table(images: int) -> None:
    """Trains and prints a row for each prediction and weight."""
    rows = [(PathModel, p, "uniform") for p in ("eps", "x0", "v", "velocity", "score", "F")]
    rows += [(PathModel, "eps", w) for w in ("x0", "edm", "likelihood")] + [(Raw, "eps", "raw")]
    grid = torch.logspace(-2, 1, 61, dtype=torch.float64)
    print(
        f"\nEight Gaussians, {images:,} points each; E |score error|^2 by sigma, and the bound's"
    )
    print("integral of sigma sqrt(E |score error|^2) from .01 to 10 with I = 1")
    print(f"  {'predict':10} {'weight':10} " + " ".join(f"{s:>9g}" for s in SIGMAS), "  integral")
    for kind, predict, weight in rows:
        start = time.perf_counter()
        model = train(kind, predict, "uniform" if kind is Raw else weight, images)
        cells = " ".join(f"{error(model, s):9.3g}" for s in SIGMAS)
        off = torch.tensor([s * math.sqrt(error(model, s)) for s in grid.tolist()])
        whole = torch.trapezoid(off.double(), grid).item()
        took = time.perf_counter() - start
        print(f"  {predict:10} {weight:10} {cells} {whole:9.3f}   ({took:.0f} s)", flush=True)
