"""The networks: shapes at every size, labels, starts, layouts, and refusals that name the fix."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genlab.contract import Spec
from genlab.network.dcgan import DCGANDiscriminator, DCGANGenerator
from genlab.network.dit import DiT
from genlab.network.mlp import MLP, MLPDiscriminator, MLPGenerator
from genlab.network.unet import UNet
from genlab.nn.attention import SelfAttention2d
from genlab.nn.embed import LabelEmbedding, sinusoids
from genlab.nn.norm import GroupNorm

tiny_unet = partial(
    UNet,
    patch=1,
    width=8,
    mults=[1, 2],
    blocks=1,
    skip_inputs=False,
    resample="conv",
    pyramid="none",
    attention=[4],
    attention_up="all",
    head_width=8,
    embedding=16,
    frequencies=None,
    embed="sinusoids",
    modulation="scale_shift",
    skip_scale=1.0,
    init="torch",
    dropout=0.0,
    outputs=1,
)
tiny_dit = partial(
    DiT,
    patch=2,
    width=16,
    depth=2,
    head_width=8,
    mlp=2.0,
    position="sincos",
    qk_norm=False,
    embedding=16,
    dropout=0.0,
    outputs=1,
)
tiny_mlp = partial(MLP, width=16, depth=2, embedding=8)
FIELDS = [
    (tiny_unet, (1, 8, 8)),
    (tiny_unet, (3, 8, 8)),
    (tiny_dit, (3, 8, 12)),
    (tiny_mlp, (2,)),
]


def awake(net: nn.Module) -> nn.Module:
    """A network whose layers that start at zero do something."""
    g = torch.Generator().manual_seed(1)
    for p in net.parameters():
        if not p.any():
            p.data.normal_(0, 0.3, generator=g)
    return net


def inputs(shape: tuple[int, ...], n: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.randn(n, *shape, generator=g), torch.rand(n, generator=g), torch.arange(n) % 3


# --- field networks ------------------------------------------------------------------------------


@pytest.mark.parametrize(("make", "shape"), FIELDS)
def test_a_field_starts_at_zero_and_every_weight_learns(make, shape):
    net = make(Spec(shape, 3))
    x, t, y = inputs(shape)
    assert not net(x, t, y).any()
    awake(net)(x, t, y).square().sum().backward()
    for name, p in net.named_parameters():
        assert p.grad is not None, name
        assert p.grad.any(), name


@pytest.mark.parametrize(("make", "shape"), [(tiny_unet, (3, 8, 8)), (tiny_dit, (3, 8, 12))])
def test_the_second_outputs_stand_behind_the_first_and_are_their_own(make, shape):
    one, two = awake(make(Spec(shape, 3))).eval(), make(Spec(shape, 3), outputs=2).eval()
    x, t, y = inputs(shape)
    assert two(x, t, y).shape == (len(x), 2 * shape[0], *shape[1:])
    theirs = one.state_dict()
    for name, p in two.state_dict().items():  # the head of one output, and zeros behind it
        same = p.shape == theirs[name].shape
        if not same and make is tiny_dit:  # of a token: pixel by pixel, each with its channels
            p, part = p.unflatten(0, (4, 6)), theirs[name].unflatten(0, (4, 3))
            p[:, :3] = part
        else:
            p[: len(theirs[name])] = theirs[name]
    first, second = two(x, t, y).chunk(2, 1)
    torch.testing.assert_close(first, one(x, t, y))
    assert not second.any()


@pytest.mark.parametrize(("make", "shape"), FIELDS)
def test_a_field_depends_on_time_and_label_and_not_on_its_neighbours(make, shape):
    net = awake(make(Spec(shape, 3))).eval()
    x, t, y = inputs(shape)
    out = net(x, t, y)
    assert out.shape == x.shape
    assert not torch.allclose(out, net(x, 1 - t, y), atol=1e-4)
    assert not torch.allclose(out, net(x, t, (y + 1) % 3), atol=1e-4)
    torch.testing.assert_close(out[1:2], net(x[1:2], t[1:2], y[1:2]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("make", "shape"), FIELDS)
def test_the_three_ways_to_say_no_label(make, shape):
    net = awake(make(Spec(shape, 3))).eval()
    x, t, y = inputs(shape)
    none = net(x, t, None)
    assert torch.equal(none, net(x, t, torch.full_like(y, 3)))
    assert torch.equal(none, net(x, t, torch.full_like(y, -1)))
    mixed = net(x, t, torch.tensor([0, -1, 1, -1]))
    torch.testing.assert_close(mixed[1::2], none[1::2])


@pytest.mark.parametrize(("make", "shape"), FIELDS)
def test_an_unconditional_field_has_no_label_weights(make, shape):
    net = make(Spec(shape, None))
    assert not any(isinstance(m, LabelEmbedding) for m in net.modules())
    x, t, _ = inputs(shape)
    assert net(x, t, None).shape == x.shape


@pytest.mark.parametrize("side", [8, 28, 32, 64])
@pytest.mark.parametrize("skip_inputs", [False, True])
def test_unet_sizes(side, skip_inputs):
    net = tiny_unet(Spec((3, side, side), 2), mults=[1, 1, 2], skip_inputs=skip_inputs)
    out = net(torch.randn(2, 3, side, side), torch.rand(2), torch.tensor([0, 1]))
    assert out.shape == (2, 3, side, side)


def test_unet_takes_images_that_are_not_square():
    net = tiny_unet(Spec((1, 8, 12)))
    assert net(torch.randn(2, 1, 8, 12), torch.rand(2), None).shape == (2, 1, 8, 12)


def test_unet_counts_of_ddpm():
    """Two blocks down, three up, as in DDPM: 12 skips for 4 levels of 2 blocks and inputs."""
    net = tiny_unet(Spec((3, 32, 32)), mults=[1, 2, 2, 2], blocks=2, skip_inputs=True)
    assert [len(level) for level in net.down] == [2, 2, 2, 2]
    assert [len(level) for level in net.up] == [3, 3, 3, 3]
    attends = [[isinstance(b.attention, SelfAttention2d) for b in level] for level in net.down]
    assert attends == [[False] * 2, [False] * 2, [False] * 2, [True] * 2]  # 32, 16, 8, 4 pixels


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_unet_keeps_channels_last_in_every_layer(channels, precision):
    net = awake(tiny_unet(Spec((channels, 8, 8), 3))).to(memory_format=torch.channels_last)
    broken = []

    def look(name: str, _module: nn.Module, _args: object, out: object) -> None:
        if isinstance(out, Tensor) and out.dim() == 4:
            if not out.is_contiguous(memory_format=torch.channels_last):
                broken.append(name)

    for name, module in net.named_modules():
        if name != "stem":  # of one channel: its output is laid out by the network
            module.register_forward_hook(partial(look, name))
    x, t, y = inputs((channels, 8, 8))
    with torch.autocast("cpu", precision, enabled=precision != torch.float32):
        net(x.to(memory_format=torch.channels_last), t, y)
    assert not broken


@pytest.mark.parametrize(("make", "shape"), FIELDS)
def test_bf16_is_near_fp32_and_returns_fp32(make, shape):
    net = awake(make(Spec(shape, 3))).eval()
    x, t, y = inputs(shape)
    exact = net(x, t, y)
    with torch.autocast("cpu", torch.bfloat16):
        near = net(x, t, y)
    assert near.dtype == torch.float32
    assert (near - exact).norm() < 0.05 * exact.norm()


def test_dropout_only_in_training():
    net = awake(tiny_unet(Spec((1, 8, 8)), dropout=0.5))
    x, t, _ = inputs((1, 8, 8))
    assert not torch.equal(net(x, t, None), net(x, t, None))
    net.eval()
    assert torch.equal(net(x, t, None), net(x, t, None))


# --- layers --------------------------------------------------------------------------------------


def test_sinusoids_against_the_formula():
    t = torch.tensor([0.0, 0.3, 1.0])
    got = sinusoids(t, 6)
    for i, time in enumerate(t.double()):
        for k in range(3):
            angle = 1000 * time / 10000 ** (k / 3)
            assert got[i, k].item() == pytest.approx(angle.cos().item(), abs=2e-4)
            assert got[i, 3 + k].item() == pytest.approx(angle.sin().item(), abs=2e-4)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("conditioned", [False, True])
def test_group_norm_is_that_of_torch_in_both_layouts(layout, conditioned):
    g = torch.Generator().manual_seed(0)
    norm = GroupNorm(12)
    norm.weight.data.normal_(generator=g)
    norm.bias.data.normal_(generator=g)
    x = (5 + torch.randn(3, 12, 4, 5, generator=g)).to(memory_format=layout)
    scale, shift = torch.randn(2, 3, 12, generator=g) if conditioned else (None, None)
    expected = F.group_norm(x.double(), 3, norm.weight.double(), norm.bias.double())
    if conditioned:
        expected = expected * (1 + scale[:, :, None, None]) + shift[:, :, None, None]
    y = norm(x, scale, shift)
    torch.testing.assert_close(y.double(), expected, rtol=1e-4, atol=1e-4)
    assert y.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("side", [3, 8, 16, 24])
def test_group_norm_of_bf16_is_as_good_as_its_rounding(side):
    """Maps of any size, against float64 on the same bf16 numbers.

    y = A x + B, where A, B, y and the sums behind A and B are rounded by 2^-9 of themselves, and
    |A x| + |B| + |y| + |mean| < 16 here.
    """
    g = torch.Generator().manual_seed(0)
    norm = GroupNorm(12)
    x = (2 + torch.randn(2, 12, side, side, generator=g)).bfloat16()
    x = x.to(memory_format=torch.channels_last).requires_grad_()
    ahead = torch.randn(x.shape, generator=g).to(memory_format=torch.channels_last)
    exact = x.detach().double().requires_grad_()
    expected = F.group_norm(exact, 3)
    y = norm(x)
    torch.testing.assert_close(y.double(), expected, rtol=0, atol=16 * 2**-9)
    y.backward(ahead.bfloat16())
    expected.backward(ahead.bfloat16().double())
    torch.testing.assert_close(x.grad.double(), exact.grad, rtol=0, atol=16 * 2**-9)


def test_group_norm_has_first_and_second_derivatives():
    g = torch.Generator().manual_seed(0)
    norm = GroupNorm(8).double()
    x = torch.randn(2, 8, 3, 2, generator=g, dtype=torch.float64)
    x = x.to(memory_format=torch.channels_last).requires_grad_()
    scale, shift = torch.randn(2, 2, 8, generator=g, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(norm, (x, scale, shift))
    assert torch.autograd.gradgradcheck(norm, (x, scale, shift))


@pytest.mark.parametrize(("channels", "groups"), [(1, 1), (6, 1), (32, 8), (96, 24), (256, 32)])
def test_group_norm(channels, groups):
    norm = GroupNorm(channels)
    assert norm.num_groups == groups
    x = 3 + 2 * torch.randn(2, channels, 4, 4, generator=torch.Generator().manual_seed(0))
    per_group = norm(x).detach().view(2, groups, -1)
    torch.testing.assert_close(per_group.mean(-1), torch.zeros(2, groups), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        per_group.var(-1, correction=0), torch.ones(2, groups), atol=1e-4, rtol=0
    )
    assert norm(x.bfloat16()).dtype == torch.bfloat16


# --- adversarial networks ------------------------------------------------------------------------


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


# --- refusals ------------------------------------------------------------------------------------

dcgan_g = partial(DCGANGenerator, width=2, z_dim=5)
dcgan_d = partial(DCGANDiscriminator, width=2, norm="batch")


@pytest.mark.parametrize(
    ("make", "shape", "says"),
    [
        (tiny_unet, (2,), "network=mlp and codec=points"),
        (tiny_unet, (1, 9, 9), "mults at most 1 entries"),
        (partial(tiny_unet, mults=[1, 1, 1, 1]), (1, 28, 28), "mults at most 3 entries"),
        (partial(tiny_unet, patch=3), (1, 8, 8), "patch may be 1, 2, 4, 8"),
        (
            partial(tiny_unet, patch=2, mults=[1, 1, 1, 1]),
            (1, 8, 8),
            "4x4 patches can be halved 2",
        ),
        (partial(tiny_unet, blocks=[1, 1, 1]), (1, 8, 8), "blocks has 3 entries and mults 2"),
        (partial(tiny_unet, dropout=[0.1]), (1, 8, 8), "dropout has 1 entries and mults 2"),
        (partial(tiny_unet, head_width=5), (1, 8, 8), "head_width"),
        (partial(tiny_unet, embedding=7), (1, 8, 8), "even"),
        (dcgan_g, (2,), "network=mlp_gan and codec=points"),
        (dcgan_d, (2,), "network=mlp_gan and codec=points"),
        (dcgan_g, (1, 30, 30), "28, 32, 40"),
        (dcgan_d, (1, 9, 9), "not 9x9"),
        (dcgan_g, (1, 256, 256), "128 pixels"),
        (dcgan_g, (1, 32, 64), "square"),
        (tiny_mlp, (1, 8, 8), "unet_small"),
        (partial(MLPGenerator, width=2, depth=1, z_dim=1), (1, 8, 8), "network=dcgan"),
        (partial(MLPDiscriminator, width=2, depth=1), (1, 8, 8), "network=dcgan"),
    ],
)
def test_refusals_name_the_fix(make, shape, says):
    with pytest.raises(ValueError, match=says):
        make(Spec(shape))
