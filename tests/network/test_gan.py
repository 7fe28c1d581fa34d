"""Adversarial networks: sizes, how they start, and that both players see the label."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from genlab.core.contract import Spec
from genlab.network.dcgan import DCGANDiscriminator, DCGANGenerator
from genlab.network.mlp import MLPDiscriminator, MLPGenerator


@pytest.mark.parametrize("side", [8, 12, 28, 32, 64, 128])
@pytest.mark.parametrize("classes", [None, 3])
def test_dcgan_sizes(side, classes):
    spec = Spec((3, side, side), classes)
    g = DCGANGenerator(spec, width=2, z_dim=5)
    d = DCGANDiscriminator(spec, width=2, norm="batch")
    y = None if classes is None else torch.tensor([0, 2])
    x = g(torch.randn(2, g.z_dim), y)
    assert x.shape == (2, 3, side, side)
    assert x.abs().max() <= 1
    assert d(x, y).shape == (2,)


def test_dcgan_smallest_maps():
    """28 halves to 7 and stops, as 7 is odd; powers of two stop at 4."""
    for side, base, halvings in [(8, 4, 1), (28, 7, 2), (32, 4, 3), (64, 4, 4), (48, 3, 4)]:
        g = DCGANGenerator(Spec((1, side, side)), width=2, z_dim=5)
        assert g.stem.kernel_size == (base, base)
        assert g.stem.out_channels == 2 * 2 ** (halvings - 1)


def test_dcgan_starts_as_published():
    d = DCGANDiscriminator(Spec((3, 64, 64)), width=32, norm="batch")
    g = DCGANGenerator(Spec((3, 64, 64)), width=32, z_dim=100)
    for net in (d, g):
        convs = [m for m in net.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]
        weights = torch.cat([m.weight.flatten() for m in convs])
        assert weights.std().item() == pytest.approx(0.02, rel=0.02)
    first, last = [nn.Conv2d, nn.LeakyReLU, nn.Conv2d], [nn.ReLU, nn.ConvTranspose2d, nn.Tanh]
    assert all(isinstance(m, t) for m, t in zip(d.body[:3], first, strict=True))
    assert all(isinstance(m, t) for m, t in zip(g.body[-3:], last, strict=True))


def test_dcgan_without_normalization_has_none():
    d = DCGANDiscriminator(Spec((1, 32, 32)), width=4, norm="none")
    assert not any(isinstance(m, nn.BatchNorm2d) for m in d.modules())


@pytest.mark.parametrize(
    ("make_g", "make_d", "shape"),
    [
        (
            partial(DCGANGenerator, width=4, z_dim=5),
            partial(DCGANDiscriminator, width=4, norm="none"),
            (1, 8, 8),
        ),
        (
            partial(MLPGenerator, width=8, depth=2, z_dim=5),
            partial(MLPDiscriminator, width=8, depth=2),
            (2,),
        ),
    ],
    ids=["dcgan", "mlp"],
)
def test_both_players_see_the_label_and_every_weight_learns(make_g, make_d, shape):
    g, d = make_g(Spec(shape, 3)), make_d(Spec(shape, 3))
    z = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([0, 1, 2, 0, 1, -1])
    x = g(z, y)
    assert not torch.allclose(x, g(z, torch.full_like(y, 1)))
    logits = d(x, y)
    assert logits.shape == (6,)
    shown = d(x, torch.full_like(y, 1))
    assert torch.equal(shown == logits, y == 1)
    logits.square().sum().backward()
    for name, p in [*g.named_parameters(), *d.named_parameters()]:
        assert p.grad is not None, name
        assert p.grad.any(), name
