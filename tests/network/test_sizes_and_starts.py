"""Denoising networks: shapes at every size, labels, starts, layouts, refusals with the fix."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from genlab.core.contract import Spec
from genlab.network.dcgan import DCGANDiscriminator, DCGANGenerator
from genlab.network.dit import DiT
from genlab.network.mlp import MLP, MLPDiscriminator, MLPGenerator
from genlab.network.unet import UNet
from genlab.nn.attention import SelfAttention2d
from genlab.nn.embed import LabelEmbedding, sinusoids

tiny_unet = partial(UNet, patch=1, width=8, mults=[1, 2], blocks=1, skip_inputs=False,
                    resample="conv", resample_proj=False, pyramid="none", attention=[4],
                    attention_up="all", head_width=8, embedding=16, frequencies=None,
                    embed="sinusoids", modulation="scale_shift", skip_scale=1.0, norm_eps=1e-5,
                    init="torch", dropout=0.0, outputs=1)  # fmt: skip
tiny_dit = partial(DiT, patch=2, width=16, depth=2, head_width=8, mlp=2.0, position="sincos",
                   qk_norm=False, embedding=16, frequencies=None, gelu="exact", dropout=0.0,
                   outputs=1)  # fmt: skip
tiny_mlp = partial(MLP, width=16, depth=2, embedding=8)
DENOISERS = [
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


# --- denoising networks --------------------------------------------------------------------------


@pytest.mark.parametrize(("make", "shape"), DENOISERS)
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


@pytest.mark.parametrize(("make", "shape"), DENOISERS)
def test_a_field_depends_on_time_and_label_and_not_on_its_neighbours(make, shape):
    net = awake(make(Spec(shape, 3))).eval()
    x, t, y = inputs(shape)
    out = net(x, t, y)
    assert out.shape == x.shape
    assert not torch.allclose(out, net(x, 1 - t, y), atol=1e-4)
    assert not torch.allclose(out, net(x, t, (y + 1) % 3), atol=1e-4)
    torch.testing.assert_close(out[1:2], net(x[1:2], t[1:2], y[1:2]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("make", "shape"), DENOISERS)
def test_the_three_ways_to_say_no_label(make, shape):
    net = awake(make(Spec(shape, 3))).eval()
    x, t, y = inputs(shape)
    none = net(x, t, None)
    assert torch.equal(none, net(x, t, torch.full_like(y, 3)))
    assert torch.equal(none, net(x, t, torch.full_like(y, -1)))
    mixed = net(x, t, torch.tensor([0, -1, 1, -1]))
    torch.testing.assert_close(mixed[1::2], none[1::2])


@pytest.mark.parametrize(("make", "shape"), DENOISERS)
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


@pytest.mark.parametrize(("make", "shape"), DENOISERS)
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


def test_sinusoids_against_the_formula():
    t = torch.tensor([0.0, 0.3, 1.0])
    got = sinusoids(t, 6)
    for i, time in enumerate(t.double()):
        for k in range(3):
            angle = 1000 * time / 10000 ** (k / 3)
            assert got[i, k].item() == pytest.approx(angle.cos().item(), abs=2e-4)
            assert got[i, 3 + k].item() == pytest.approx(angle.sin().item(), abs=2e-4)


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
        (partial(tiny_unet, resample_proj=True), (1, 8, 8), "use resample=block"),
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
