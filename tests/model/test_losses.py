"""The models: their losses against the formulas of the papers, on networks small enough to check.

The universal promises (resume, accumulation, everybody's weights move) are in test_every_model.py.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from genlab.core.contract import Batch, Clock, Network, Process, Spec
from genlab.core.random import DrawNoise
from genlab.model.flow_matching import FlowMatching
from genlab.process.linear import Linear


def noise(n: int) -> DrawNoise:
    return DrawNoise(0, 0, n, slice(0, n), torch.Generator(), None)


def batch(n: int, *shape: int, labels: bool = True, z: Tensor | None = None) -> Batch:
    x = torch.randn(n, *shape, generator=torch.Generator().manual_seed(0))
    y = torch.arange(n) % 3 if labels else None
    return Batch(x, y, noise(n), z)


# --- flow matching -------------------------------------------------------------------------------


class Cosine(Process):
    """x_t = cos(pi t / 2) x0 + sin(pi t / 2) eps."""

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        angle = t.double() * math.pi / 2
        a, b = angle.cos(), angle.sin()
        return a, b, -b * math.pi / 2, a * math.pi / 2


class Recorder(Network):
    """A denoising network: 0.5 x + weight; keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.25))

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        self.asked = (x, t, y)
        return 0.5 * x + self.weight


def flow(process: object = None, dropout: float = 0.0, ema: float = 0.0) -> FlowMatching:
    return FlowMatching(Recorder(), process or Linear(), Spec((2,), 3), predict="velocity",
                        density="uniform", location=0.0, scale=1.0, weight="uniform", sd=0.5,
                        coupling="independent", label_dropout=dropout, ema=ema)  # fmt: skip


@pytest.mark.parametrize("process", [Linear(), Cosine()], ids=["linear", "cosine"])
def test_flow_matching_regresses_the_velocity_of_the_path(process):
    model, data = flow(process), batch(64, 2)
    loss = model.loss(data)
    xt, t, y = model.net.asked
    assert torch.equal(y, data.y)
    assert 0 <= t.min() < 0.1 < 0.9 < t.max() < 1
    # eps follows from x_t and x0; the velocity is the slope between two nearby times
    a, b, _, _ = (c[:, None] for c in process.coefficients(t))
    eps = (xt - a * data.x) / b
    later, sooner = (process.coefficients(t.double() + h) for h in (1e-6, -1e-6))
    slope = sum(
        (p - q)[:, None] / 2e-6 * v
        for p, q, v in zip(later[:2], sooner[:2], (data.x, eps), strict=True)
    )
    expected = (0.5 * xt + 0.25 - slope).square().mean()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-4, atol=1e-5)


def test_flow_matching_prefers_paired_noise():
    z = torch.full((8, 2), 3.0)
    model, data = flow(), batch(8, 2, z=z)
    model.loss(data)
    xt, t, _ = model.net.asked
    torch.testing.assert_close(xt, (1 - t)[:, None] * data.x + t[:, None] * z)


def test_flow_matching_without_labels():
    model = flow(dropout=0.5)
    model.loss(batch(8, 2, labels=False))
    assert model.net.asked[2] is None


@pytest.mark.parametrize("process", [Linear(), Cosine()], ids=["linear", "cosine"])
def test_the_true_velocity_denoises_to_the_datum(process):
    model = flow(process)
    x0, eps = torch.randn(2, 5, 2, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0])
    a, b, da, db = (c.float()[:, None] for c in process.coefficients(t))
    model.net.forward = lambda x, t, y: da * x0 + db * eps
    torch.testing.assert_close(model.denoise(a * x0 + b * eps, t, None), x0, rtol=1e-4, atol=1e-5)


def test_samples_come_from_the_average_when_asked():
    model = flow(ema=100.0)
    model.clock = Clock(step=1, images=10_000, drawn=50)
    with torch.no_grad():
        model.net.weight += 1
    model.end_step({})
    x, t = torch.zeros(1, 2), torch.ones(1)
    assert model.denoise(x, t, None)[0, 0].item() == pytest.approx(-1.25)
    model.weights = "ema"
    moved = 1 - 0.5 ** (50 / 100)
    assert model.denoise(x, t, None)[0, 0].item() == pytest.approx(-0.25 - moved)


def test_flow_matching_hands_its_denoiser_and_labels_to_the_sampler():
    model, y = flow(), torch.tensor([2, 0])
    seen = {}

    def sampler(denoiser, z, y, noise):
        seen.update(denoiser=denoiser, y=y, noise=noise)
        return z + 1

    rng = noise(2)
    out = model.transport(model.prior(rng), y, rng, sampler)
    torch.testing.assert_close(out, noise(2).normal(2) + 1)
    assert seen == {"denoiser": model.denoise, "y": y, "noise": rng}
