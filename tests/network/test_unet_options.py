"""The U-Nets of the papers: what each key changes, against formulas."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genlab.core.contract import Spec
from genlab.nn.attention import SelfAttention2d
from genlab.nn.embed import Condition, Fourier, sinusoids
from genlab.nn.norm import GroupNorm
from genlab.nn.resample import ConvDown, ConvUp, FIRDown, grow, shrink
from genlab.nn.residual import Block, Style
from tests.network.test_sizes_and_starts import awake, inputs, tiny_unet

DEEP = {"mults": [1, 2, 2], "skip_inputs": True}
ADM = {**DEEP, "resample": "block", "frequencies": 8}
DDPM = {**DEEP, "resample": "ddpm", "modulation": "shift", "head_width": None, "norm_eps": 1e-6}
IDDPM = {**DEEP, "resample": "iddpm"}
DDPMPP = {**ADM, "modulation": "shift", "skip_scale": 0.5**0.5, "attention_up": "last",
          "resample_proj": True, "norm_eps": 1e-6}  # fmt: skip
NCSNPP = {**DDPMPP, "resample": "fir", "pyramid": "residual", "embed": "fourier"}
KINDS = [DDPM, IDDPM, ADM, DDPMPP, NCSNPP, {**DEEP, "pyramid": "residual"}, {**DEEP, "patch": 2}]


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_every_kind_starts_at_zero_and_every_weight_learns(options):
    net = tiny_unet(Spec((3, 16, 16), 3), **options)
    x, t, y = inputs((3, 16, 16))
    t = t / 100  # random frequencies are for the logarithms of sigma, which are small
    assert not net(x, t, y).any()
    awake(net)(x, t, y).square().sum().backward()
    for name, p in net.named_parameters():
        assert p.grad is not None, name
        assert p.grad.any(), name


@pytest.mark.parametrize("options", KINDS, ids=str)
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_every_kind_keeps_channels_last(options, precision):
    net = awake(tiny_unet(Spec((3, 16, 16), 3), **options)).to(memory_format=torch.channels_last)
    broken = []

    def look(name: str, _module: nn.Module, _args: object, out: object) -> None:
        if isinstance(out, Tensor) and out.dim() == 4:
            if not out.is_contiguous(memory_format=torch.channels_last):
                broken.append(name)

    for name, module in net.named_modules():
        if name not in ("", "stem"):
            module.register_forward_hook(partial(look, name))
    x, t, y = inputs((3, 16, 16))
    with torch.autocast("cpu", precision, enabled=precision != torch.float32):
        near = net(x.to(memory_format=torch.channels_last), t / 100, y)
    assert not broken
    assert (near - net(x, t / 100, y)).norm() < 0.05 * near.norm()


def test_a_network_of_patches_is_that_of_their_pixels_as_channels():
    x, t, y = inputs((3, 8, 12))
    patched = awake(tiny_unet(Spec((3, 8, 12), 3), patch=2, outputs=2))
    plain = tiny_unet(Spec((12, 4, 6), 3), outputs=2)
    assert patched.notes
    assert "12 numbers" in patched.notes[0]
    assert not tiny_unet(Spec((3, 8, 12), 3), patch=2, width=16).notes
    plain.load_state_dict(patched.state_dict())
    pixels = torch.stack([x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)], 2).flatten(1, 2)
    expected = plain(pixels, t, y).unflatten(1, (6, 2, 2))
    out = patched(x, t, y)
    assert out.shape == (4, 6, 8, 12)
    for i in (0, 1):
        for j in (0, 1):
            torch.testing.assert_close(out[:, :, i::2, j::2], expected[:, :, i, j])


def test_attention_on_the_way_up():
    net = tiny_unet(Spec((3, 16, 16)), **DEEP, attention=[8, 4], attention_up="last")
    found = [[isinstance(b.attention, SelfAttention2d) for b in level] for level in net.up]
    assert found == [[False, True], [False, True], [False, False]]  # 4, 8 and 16 pixels
    assert [isinstance(level[0].attention, SelfAttention2d) for level in net.down] == [
        False, True, True
    ]  # fmt: skip


def test_blocks_and_dropout_of_each_level():
    net = tiny_unet(Spec((3, 16, 16)), mults=[1, 2, 2], blocks=[1, 2, 3], dropout=[0.0, 0.0, 0.5])
    assert [len(level) for level in net.down] == [1, 2, 3]
    assert [len(level) for level in net.up] == [3, 2, 1]
    drops = [[layer.block.dropout for layer in level] for level in net.down]
    assert drops == [[0.0], [0.0, 0.0], [0.5, 0.5, 0.5]]
    assert [layer.block.dropout for layer in net.middle] == [0.5, 0.5]


def test_a_block_in_which_the_condition_only_shifts():
    """In float64 beside the formula; DDPM's block."""
    g = torch.Generator().manual_seed(0)
    block = Block(4, 8, 0.0, Style(6, "shift", 0.5**0.5), "half").double()
    for p in block.parameters():
        p.data.normal_(generator=g)
    x, e = torch.randn(2, 4, 6, 6, generator=g).double(), torch.randn(2, 6, generator=g).double()
    w = dict(block.named_parameters())

    def norm(h: Tensor, name: str) -> Tensor:
        return F.group_norm(h, h.shape[1] // 4, w[f"{name}.weight"], w[f"{name}.bias"])

    def halved(h: Tensor) -> Tensor:
        return sum(h[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)) / 4

    h = F.conv2d(halved(F.silu(norm(x, "norm1"))), w["conv1.weight"], w["conv1.bias"], padding=1)
    h = h + (e @ w["affine.weight"].T + w["affine.bias"])[:, :, None, None]
    h = F.conv2d(F.silu(norm(h, "norm2")), w["conv2.weight"], w["conv2.bias"], padding=1)
    skip = F.conv2d(halved(x), w["skip.weight"], w["skip.bias"])
    torch.testing.assert_close(block(x, e), (skip + h) / math.sqrt(2))


@pytest.mark.parametrize(("size", "resized"), [("half", "halved"), ("double", "doubled")])
def test_a_skip_that_changes_the_size_is_convolved_too(size, resized):
    """With branches of zero a block is its skip: resized, and convolved 1x1 if asked."""
    g = torch.Generator().manual_seed(0)
    x, e = torch.randn(2, 8, 4, 4, generator=g), torch.randn(2, 6, generator=g)
    other = x.view(2, 8, 2, 2, 2, 2).mean((3, 5))
    if resized == "doubled":
        other = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    plain = Block(8, 8, 0.0, Style(6), size)
    torch.testing.assert_close(plain(x, e), other)
    block = Block(8, 8, 0.0, Style(6, project=True), size)
    expected = torch.einsum("oi,bihw->bohw", block.skip.weight[:, :, 0, 0], other)
    torch.testing.assert_close(block(x, e), expected + block.skip.bias[:, None, None])
    same = Block(8, 8, 0.0, Style(6, project=True))
    torch.testing.assert_close(same(x, e), x)


def test_all_norms_add_the_same_to_their_variance():
    """Every norm of the network has it, and a map of little variance shows what it does."""
    for eps in (1e-6, 1e-4):
        net = tiny_unet(Spec((3, 16, 16)), **{**DDPMPP, "norm_eps": eps})
        norms = [m for m in net.modules() if isinstance(m, nn.GroupNorm)]
        assert len(norms) == 1 + 2 * 14 + 5 and {m.eps for m in norms} == {eps}
    x = torch.randn(2, 8, 4, 4, dtype=torch.float64) * 1e-3
    grouped = x.view(2, 2, -1)
    variance = grouped.var(2, correction=0, keepdim=True)
    expected = (grouped - grouped.mean(2, keepdim=True)) / (variance + 1e-6).sqrt()
    torch.testing.assert_close(GroupNorm(8, 1e-6).double()(x), expected.view_as(x))


def test_one_head_has_all_channels():
    """Also in the middle, which is wider than what attends elsewhere: 512 after 256 in DDIM's."""
    sizes = {"mults": [1, 1, 4], "attention": [8], "width": 8}
    for head_width, widths in ((None, {8, 32}), (8, {8})):
        net = tiny_unet(Spec((3, 16, 16)), **sizes, head_width=head_width)
        attends = [m for m in net.modules() if isinstance(m, SelfAttention2d)]
        assert {m.head_width for m in attends} == widths
        assert {m.heads for m in attends} == ({1} if head_width is None else {1, 4})


# --- starts --------------------------------------------------------------------------------------


def test_xavier_starts_with_branches_that_are_nearly_silent():
    net = tiny_unet(Spec((3, 16, 16), 3), **DDPMPP, init="xavier")
    conv = net.middle[0].block.conv1
    bound = math.sqrt(6 / (9 * 16 + 9 * 16))
    assert conv.weight.abs().max() <= bound
    assert conv.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    out = net.middle[0].block.conv2.weight
    assert out.std().item() == pytest.approx(1e-5 * bound / math.sqrt(3), rel=0.05)
    x, t, y = inputs((3, 16, 16))
    assert 0 < net(x, t, y).abs().max() < 1e-3


@pytest.mark.parametrize(("init", "of_three"), [("ddpm", 1.0), ("song", 0.1), ("xavier", 0.5)])
def test_queries_start_with_a_share_of_the_variance_of_xavier(init, of_three):
    """Of one [C, C] each, 2 / (C + C) = 1 / C; xavier is of all three in one, 2 / (C + 3 C)."""
    torch.manual_seed(0)
    width = 64
    net = tiny_unet(Spec((3, 8, 8)), width=width, mults=[1, 1], head_width=None, init=init)
    attends = [m for m in net.modules() if isinstance(m, SelfAttention2d)]
    assert len(attends) == 3
    for part in (p for m in attends for p in m.qkv.weight.chunk(3)):
        assert part.var().item() == pytest.approx(of_three / width, rel=0.06)
        assert part.abs().max() <= math.sqrt(3 * of_three / width) + 1e-6  # uniform
    ends = torch.cat([m.out.weight.flatten() for m in attends])
    assert ends.var().item() == pytest.approx(1e-10 / width, rel=0.06)
    inside = net.middle[0].block.conv1.weight
    assert inside.var().item() == pytest.approx(2 / (9 * (width + width)), rel=0.06)


def test_scaled_sums_keep_the_size_of_features():
    """With branches as loud as their input a deep stack does not grow."""
    torch.manual_seed(0)
    for scale, grows in ((0.5**0.5, False), (1.0, True)):
        x, e = torch.randn(8, 64, 8, 8), torch.randn(8, 8)
        with torch.no_grad():
            for _ in range(8):
                block = Block(64, 64, 0.0, Style(8, "shift", scale))
                nn.init.normal_(block.conv2.weight, std=1 / math.sqrt(9 * 64 * 0.36))
                x = block(x, e)
        assert (x.std() > 2) == grows


# --- time ----------------------------------------------------------------------------------------


def test_closed_sinusoids_end_at_the_last_frequency():
    t = torch.tensor([0.0, 0.3, 1.0])
    got = sinusoids(t, 8, closed=True)
    for i, time in enumerate(t.double()):
        for k in range(4):
            angle = 1000 * time / 10000 ** (k / 3)
            assert got[i, k].item() == pytest.approx(angle.cos().item(), abs=2e-4)
            assert got[i, 4 + k].item() == pytest.approx(angle.sin().item(), abs=2e-4)


def test_random_frequencies_are_kept_with_the_weights():
    layer = Fourier(2000)
    assert list(layer.state_dict()) == ["frequencies"]
    assert layer.frequencies.std().item() == pytest.approx(16, rel=0.1)
    t = torch.tensor([-1.7e-3, 0.4e-3])
    angles = 2 * np.pi * (1000 * t.double())[:, None] * layer.frequencies.double()
    expected = torch.cat([angles.cos(), angles.sin()], 1)
    torch.testing.assert_close(layer(t).double(), expected, atol=2e-4, rtol=0)


def test_fewer_waves_than_numbers_of_the_embedding():
    condition = Condition(16, 3, frequencies=6)
    assert condition.time[0].weight.shape == (16, 6)
    assert condition(torch.rand(2), torch.tensor([0, -1])).shape == (2, 16)
    with pytest.raises(ValueError, match="even"):
        Condition(16, 3, frequencies=5)


# --- changes of size -----------------------------------------------------------------------------


def smoothed(x: np.ndarray) -> np.ndarray:
    """Every value of x [H, W] spread with 1-3-3-1 over the half pixels around: [H + 3, W + 3]."""
    taps = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64
    out = np.zeros((x.shape[0] + 3, x.shape[1] + 3))
    for i, j in np.ndindex(4, 4):
        out[i : i + x.shape[0], j : j + x.shape[1]] += taps[i, j] * x
    return out


def test_filters_by_brute_force():
    x = torch.randn(1, 2, 6, 8, dtype=torch.float64)
    down, up = shrink(x, fir=True), grow(x, fir=True)
    for c in range(2):
        plane = x[0, c].numpy()
        np.testing.assert_allclose(down[0, c], smoothed(plane)[2:-2:2, 2:-2:2], atol=1e-12)
        wide = np.zeros((12, 16))
        wide[::2, ::2] = 4 * plane
        np.testing.assert_allclose(up[0, c], smoothed(wide)[1:-2, 1:-2], atol=1e-12)
    means = x.view(1, 2, 3, 2, 4, 2).mean((3, 5))
    torch.testing.assert_close(shrink(x, fir=False), means)
    torch.testing.assert_close(grow(means, fir=False)[:, :, 1::2, ::2], means)


@pytest.mark.parametrize("fir", [False, True])
def test_sizes_change_without_a_shift(fir):
    """A ramp stays where it is, and a flat map flat, but at the borders."""
    ramp = torch.arange(16.0).expand(1, 1, 16, 16).clone()
    inside = (slice(None), slice(None), slice(2, -2), slice(2, -2))
    middle = torch.arange(0.5, 16, 2).expand(1, 1, 8, 8)
    torch.testing.assert_close(shrink(ramp, fir)[inside], middle[inside])
    back = grow(middle.contiguous(), fir)[inside]
    assert (back - ramp[inside]).abs().max() <= (0.5 if not fir else 1e-5)


def test_a_smoothing_convolution_by_brute_force():
    g = torch.Generator().manual_seed(0)
    layer = FIRDown(2, 3).double()
    x = torch.randn(1, 2, 6, 8, generator=g, dtype=torch.float64)
    weight, bias = layer.conv.weight.detach().numpy(), layer.conv.bias.detach().numpy()
    out = layer(x)[0].detach().numpy()
    assert out.shape == (3, 3, 4)
    maps = [smoothed(x[0, c].numpy())[1:-1, 1:-1] for c in range(2)]  # x has 2 zeros around
    for o, i, j in np.ndindex(out.shape):
        around = [m[2 * i : 2 * i + 3, 2 * j : 2 * j + 3] for m in maps]
        value = sum((weight[o, c] * around[c]).sum() for c in range(2)) + bias[o]
        assert out[o, i, j] == pytest.approx(value, abs=1e-10)


def convolved(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """x [I, H, W] already with what lies around it -> [O, H - 2, W - 2], by its definition."""
    out = np.zeros((len(weight), x.shape[1] - 2, x.shape[2] - 2))
    for o, i, j in np.ndindex(out.shape):
        out[o, i, j] = (weight[o] * x[:, i : i + 3, j : j + 3]).sum() + bias[o]
    return out


@pytest.mark.parametrize(
    ("layer", "order"),
    [
        (ConvDown(2, 3, around=True), "zeros around, every other pixel from the first"),
        (ConvDown(2, 3, around=False), "zeros right and below, every other pixel from the first"),
        (ConvUp(2, 3, large=True), "doubled, then convolved"),
        (ConvUp(2, 3, large=False), "convolved, then doubled"),
    ],
    ids=lambda v: v.replace(" ", "_") if isinstance(v, str) else "",
)
def test_convolutions_that_change_the_size_by_brute_force(layer, order):
    g = torch.Generator().manual_seed(0)
    layer = layer.double()
    x = torch.randn(1, 2, 4, 6, generator=g, dtype=torch.float64)
    plane = x[0].numpy()
    w, b = layer.weight.detach().numpy(), layer.bias.detach().numpy()

    def doubled(a: np.ndarray) -> np.ndarray:
        return a.repeat(2, 1).repeat(2, 2)

    if "around" in order:
        expected = convolved(np.pad(plane, ((0, 0), (1, 1), (1, 1))), w, b)[:, ::2, ::2]
    elif "below" in order:
        expected = convolved(np.pad(plane, ((0, 0), (0, 1), (0, 1))), w, b)[:, ::2, ::2]
    elif order.startswith("doubled"):
        expected = convolved(np.pad(doubled(plane), ((0, 0), (1, 1), (1, 1))), w, b)
    else:
        expected = doubled(convolved(np.pad(plane, ((0, 0), (1, 1), (1, 1))), w, b))
    np.testing.assert_allclose(layer(x)[0].detach().numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("resample", ["conv", "ddpm", "iddpm"])
def test_where_the_width_changes_between_levels(resample):
    net = tiny_unet(Spec((3, 16, 16)), mults=[1, 2, 4], skip_inputs=True, resample=resample)
    down = [(m.in_channels, m.out_channels) for m in net.shrink]
    up = [(m.in_channels, m.out_channels) for m in net.grow]
    kept = resample != "conv"
    assert down == ([(8, 8), (16, 16)] if kept else [(8, 16), (16, 32)])
    assert up == ([(32, 32), (16, 16)] if kept else [(32, 16), (16, 8)])
