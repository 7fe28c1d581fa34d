"""The residual networks of WGAN-GP: sizes, starts, labels, and what they refuse."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genlab.core.contract import Spec
from genlab.network.resnet_gan import ResNetDiscriminator, ResNetGenerator, _Conv


def seeded(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kernel", [1, 3])
def test_resampling_folded_into_a_convolution_is_the_two_in_turn(kernel):
    x = seeded(2, 5, 6, 6)
    down, up = _Conv(5, 7, kernel, down=True), _Conv(5, 7, kernel, up=True)
    for conv in (down, up):
        nn.init.normal_(conv.bias)
    pooled = F.avg_pool2d(F.conv2d(x, down.weight, down.bias, 1, kernel // 2), 2)
    torch.testing.assert_close(down(x), pooled, rtol=1e-4, atol=1e-5)
    large = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    convolved = F.conv2d(large, up.weight, up.bias, 1, kernel // 2)
    torch.testing.assert_close(up(x), convolved, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("side", "left"), [(8, 4), (16, 8), (32, 8), (64, 8)])
@pytest.mark.parametrize("classes", [None, 3])
def test_resnet_sizes(side, left, classes):
    spec = Spec((3, side, side), classes)
    g, d = ResNetGenerator(spec, width=4, z_dim=5), ResNetDiscriminator(spec, width=4)
    y = None if classes is None else torch.tensor([0, 2])
    x = g(seeded(2, 5), y)
    assert x.shape == (2, 3, side, side)
    assert x.abs().max() <= 1
    assert d(x, y).shape == (2,)
    assert d.body(x).shape == (2, 4, left, left)


def test_resnet_has_the_paper_s_size_and_start():
    """Counted by hand: 128 channels, biases everywhere but in the last layer of D."""
    spec = Spec((3, 32, 32))
    g, d = ResNetGenerator(spec, width=128, z_dim=128), ResNetDiscriminator(spec, width=128)
    conv, skip, norm = 9 * 128**2 + 128, 128**2 + 128, 2 * 128
    stem = 128 * 2048 + 2048
    head = 9 * 128 * 3 + 3
    wanted = stem + 3 * (2 * conv + skip + 2 * norm) + norm + head
    assert sum(p.numel() for p in g.parameters()) == wanted
    first = 9 * 3 * 128 + 128 + conv + 3 * 128 + 128
    wanted = first + (2 * conv + skip) + 2 * 2 * conv + 128
    assert sum(p.numel() for p in d.parameters()) == wanted
    assert g.blocks[0].convs[0].weight.std().item() == pytest.approx(
        (2 / (9 * 128)) ** 0.5, rel=0.02
    )
    assert g.blocks[0].skip.weight.std().item() == pytest.approx(128**-0.5, rel=0.02)


def test_labels_reach_both_residual_networks():
    spec = Spec((1, 8, 8), 3)
    g, d = ResNetGenerator(spec, width=4, z_dim=5), ResNetDiscriminator(spec, width=4)
    z, y = seeded(6, 5), torch.tensor([0, 1, 2, 0, 1, -1])
    assert torch.equal(g(z, y), g(z, None)), "labels start alike"
    d(g(z, y), y).square().sum().backward()
    for name, p in [*g.named_parameters(), *d.named_parameters()]:
        assert p.grad is not None, name
        assert p.grad.any(), name
    x = g(z, y)
    assert torch.equal(d(x, y) == d(x, torch.ones_like(y)), y == 1)


@pytest.mark.parametrize(
    ("shape", "says"),
    [((2,), "mlp_gan and codec=points"), ((3, 28, 28), "not 28x28"), ((3, 4, 4), "not 4x4"),
     ((3, 32, 64), "square")],
)  # fmt: skip
@pytest.mark.parametrize("role", ["generator", "discriminator"])
def test_resnet_refusals_name_the_fix(shape, says, role):
    with pytest.raises(ValueError, match=says):
        if role == "generator":
            ResNetGenerator(Spec(shape), width=4, z_dim=5)
        else:
            ResNetDiscriminator(Spec(shape), width=4)
