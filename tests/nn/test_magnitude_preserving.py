"""Layers that keep the magnitude: formulas, variances, and weights of fixed length."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from genlab.assemble.components import build
from genlab.core.contract import Spec
from genlab.network.unet_mp import UNetMP
from genlab.nn import magnitude_preserving as mp
from genlab.nn.embed import Waves
from genlab.schedule.inverse_sqrt import InverseSqrt
from genlab.training.setup import make_trainer
from tests.helpers.runs import small
from tests.network.test_sizes_and_starts import awake, inputs

tiny = partial(UNetMP, width=8, mults=[1, 2], blocks=1, attention=[4], head_width=8, balance=0.3,
               dropout=0.0, clip=None, outputs=1)  # fmt: skip


def power(x: torch.Tensor) -> float:
    return x.detach().double().square().mean().item()


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- formulas ------------------------------------------------------------------------------------


def test_sums_and_joins_by_formula():
    a, b = normal(2, 3, 4, 4).double(), normal(2, 5, 4, 4, seed=1).double()
    t = 0.3
    torch.testing.assert_close(
        mp.weighted_sum(a, b[:, :3], t), (0.7 * a + 0.3 * b[:, :3]) / math.sqrt(0.49 + 0.09)
    )
    scale = math.sqrt(8 / (0.49 + 0.09))
    expected = torch.cat([a * scale * 0.7 / math.sqrt(3), b * scale * 0.3 / math.sqrt(5)], 1)
    torch.testing.assert_close(mp.weighted_cat(a, b, t), expected)


def test_joined_features_have_the_shares_that_were_asked_for():
    wide, thin = normal(4, 96, 16, 16), normal(4, 32, 16, 16, seed=1)
    joined = mp.weighted_cat(wide, thin)
    assert power(joined) == pytest.approx(1, rel=0.02)
    assert power(joined[:, :96]) * 96 == pytest.approx(power(joined[:, 96:]) * 32, rel=0.03)


@pytest.mark.parametrize(
    "layer",
    [
        lambda: mp.silu(normal(100_000)),
        lambda: mp.weighted_sum(normal(100_000), normal(100_000, seed=1), 0.2),
        lambda: mp.Linear(64, 512)(normal(256, 64)),
        lambda: mp.Conv(32, 256, 3)(normal(8, 32, 16, 16))[:, :, 1:-1, 1:-1],
        lambda: mp.Conv(32, 256, 1)(normal(8, 32, 16, 16)),
        lambda: Waves(8192)(normal(512) / 4000),
        lambda: mp.Labels(10, 256)(torch.arange(10), 10),
        lambda: mp.pixel_norm(7 * normal(8, 32, 16, 16)),
    ],
)
def test_variance_one_comes_out_of_every_layer(layer):
    torch.manual_seed(7)
    assert power(layer()) == pytest.approx(1, rel=0.03)


def test_attention_of_the_same_everywhere_is_the_value():
    """All pixels alike: the mean of values is the value, as loud as its input."""
    torch.manual_seed(0)
    layer = mp.Attention2d(64, 32, 0.3)
    x = mp.pixel_norm(normal(1, 64, 1, 1)).expand(1, 64, 4, 4)
    w = layer.qkv.weight[:, :, 0, 0]
    w = w / w.norm(dim=1, keepdim=True)
    value = (x[0, :, 0, 0] @ w.T)[128:].unflatten(0, (2, 32))
    value = (value / value.square().mean(1, keepdim=True).sqrt()).flatten()
    out = layer.out.weight[:, :, 0, 0]
    branch = out / out.norm(dim=1, keepdim=True) @ value
    expected = (0.7 * x[0, :, 0, 0] + 0.3 * branch) / math.hypot(0.7, 0.3)
    torch.testing.assert_close(layer(x)[0, :, 2, 3], expected, rtol=1e-3, atol=1e-3)


def test_attention_by_the_written_out_products():
    torch.manual_seed(0)
    layer, x = mp.Attention2d(16, 8, 0.3).double(), normal(2, 16, 3, 4).double()
    qkv = F.conv2d(x, layer.qkv.unit()).view(2, 3, 2, 8, 12)
    q, k, v = (qkv / qkv.square().mean(3, keepdim=True).sqrt()).unbind(1)
    weights = (q.transpose(2, 3) @ k / math.sqrt(8)).softmax(-1)  # [B, heads, T, T]
    mixed = (v @ weights.transpose(2, 3)).reshape(2, 16, 3, 4)
    expected = (0.7 * x + 0.3 * F.conv2d(mixed, layer.out.unit())) / math.hypot(0.7, 0.3)
    torch.testing.assert_close(layer(x), expected, rtol=1e-3, atol=1e-3)


# --- the network ---------------------------------------------------------------------------------


def test_what_leaves_a_block_is_clipped():
    """After attention, so that no later layer sees more; by null, nothing is."""
    torch.manual_seed(0)
    x, t, y = inputs((3, 8, 8))
    seen: dict[float | None, list[torch.Tensor]] = {}
    for clip in (None, 0.5, 256.0):
        torch.manual_seed(1)
        net = awake(tiny(Spec((3, 8, 8), 3), clip=clip))
        blocks = [m for m in net.modules() if isinstance(getattr(m, "gain", None), nn.Parameter)]
        out = seen[clip] = []
        for block in blocks[1:]:  # the first is the network
            block.register_forward_hook(lambda _m, _x, y, out=out: out.append(y))
        net(x, t / 1000, y)
    assert len(seen[None]) == 10
    largest = [max(h.abs().max().item() for h in seen[c]) for c in (None, 0.5, 256.0)]
    assert largest[0] == largest[2] > 1 and largest[1] == 0.5
    torch.testing.assert_close(seen[0.5][0], seen[None][0].clamp(-0.5, 0.5))


def test_variance_one_goes_through_the_whole_network():
    """At the start, with gain 1. Borders see zeros, which takes some of it; no block adds any.

    Without the norms on the way down and the shares of sums and joins, variance doubles with every
    block: to thousands here.
    """
    through, after = [], []
    for seed in range(3):
        torch.manual_seed(seed)
        net = tiny(Spec((3, 32, 32), 3), width=64, mults=[1, 1], blocks=3, attention=[])
        net.gain.data.fill_(1)
        for block in (*net.down, *net.middle, *net.up):
            block.register_forward_hook(lambda _m, _x, out: after.append(power(out)))
        with torch.no_grad():
            out = net(normal(4, 3, 32, 32, seed=seed), normal(4) / 4000, torch.arange(4) % 3)
        through.append(power(out))
    assert 0.75 < sum(through) / 3 < 1.15
    assert 0.6 < min(after)
    assert max(after) < 1.3


def test_it_starts_at_zero_and_every_weight_learns():
    net = tiny(Spec((3, 8, 8), 3))
    x, t, y = inputs((3, 8, 8))
    assert not net(x, t / 100, y).any()
    awake(net)(x, t / 100, y).square().sum().backward()
    for name, p in net.named_parameters():
        assert p.grad is not None, name
        assert p.grad.any(), name


def test_time_labels_and_no_label():
    net = awake(tiny(Spec((3, 8, 8), 3), outputs=2)).eval()
    x, t, y = inputs((3, 8, 8))
    t = t / 100
    out = net(x, t, y)
    assert out.shape == (4, 6, 8, 8)
    assert not torch.allclose(out, net(x, -t, y), atol=1e-4)
    assert not torch.allclose(out, net(x, t, (y + 1) % 3), atol=1e-4)
    torch.testing.assert_close(out[1:2], net(x[1:2], t[1:2], y[1:2]), rtol=1e-4, atol=1e-5)
    none = net(x, t, None)
    assert torch.equal(none, net(x, t, torch.full_like(y, -1)))
    torch.testing.assert_close(net(x, t, torch.tensor([0, -1, 1, -1]))[1::2], none[1::2])


def test_channels_last_and_bf16():
    net = awake(tiny(Spec((3, 8, 8), 3))).to(memory_format=torch.channels_last)
    broken = []
    for block in (*net.down, *net.middle, *net.up):
        block.register_forward_hook(
            lambda m, _x, out: broken.append(m) if out.stride(1) != 1 else None
        )
    x, t, y = inputs((3, 8, 8))
    exact = net(x.to(memory_format=torch.channels_last), t / 100, y)
    with torch.autocast("cpu", torch.bfloat16):
        near = net(x.to(memory_format=torch.channels_last), t / 100, y)
    assert not broken
    assert near.dtype == torch.float32
    assert (near - exact).norm() < 0.05 * exact.norm()


def test_refusals_name_the_fix():
    with pytest.raises(ValueError, match="network=mlp"):
        tiny(Spec((2,)))
    with pytest.raises(ValueError, match="at most 4 entries"):
        tiny(Spec((1, 8, 8)), mults=[1] * 5)
    with pytest.raises(ValueError, match="head_width"):
        tiny(Spec((1, 8, 8)), head_width=5)


# --- weights of fixed length ---------------------------------------------------------------------


def rows(net: nn.Module) -> torch.Tensor:
    """Mean squares of all rows of all weights."""
    forced = [p for p in net.parameters() if p.dim() > 1]
    return torch.cat([p.detach().flatten(1).square().mean(1) for p in forced])


def test_the_gradient_only_turns_a_weight():
    layer = mp.Conv(4, 8, 3)
    layer.weight.data *= 3  # the length has no effect
    layer(normal(2, 4, 5, 5)).square()[:, 0].sum().backward()
    w, g = layer.weight.detach().flatten(1), layer.weight.grad.flatten(1)
    assert ((w * g).sum(1).abs() < 1e-5 * w.norm(dim=1) * g.norm(dim=1).clamp(min=1e-3)).all()


def test_weights_keep_their_length_in_training_and_the_average_is_of_them():
    config = small(
        "flow_matching",
        "digits",
        network="unet_mp_small",
        **{"optimizer.lr": 0.1, "model.ema": {"halflife": 16, "ramp": 0.0}},
    )
    built = build(config)
    trainer = make_trainer(built, built.data.load("train"))
    net, average = built.model.net, built.model.ema
    before = [p.detach().clone() for p in net.parameters()]
    seen = []
    for _ in range(4):
        trainer.one_step()
        torch.testing.assert_close(rows(net), torch.ones_like(rows(net)), atol=1e-5, rtol=0)
        seen.append(rows(average.copy))
    assert any(not torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    # a mean of different directions is shorter than they are: nobody lengthened it
    assert (seen[-1] < 0.999).any()
    assert (seen[-1] < 1 + 1e-5).all()


def test_settled_weights_are_settled():
    net = tiny(Spec((1, 8, 8)))
    once = [p.detach().clone() for p in net.parameters()]
    net.normalize_weights()
    for a, b in zip(once, net.parameters(), strict=True):
        torch.testing.assert_close(a, b.detach(), rtol=3e-7, atol=0)


# --- its learning rate ---------------------------------------------------------------------------


def test_the_rate_falls_with_the_root_of_the_images():
    rate = InverseSqrt(images=10**6, batch=100, warmup=1000, reference=10_000)
    assert rate(0) == pytest.approx(0.1)  # the first batch is 100 of 1000 images
    assert rate(900) == rate(10_000) == 1
    assert rate(40_000) == pytest.approx(1 / 2)
    assert rate(10**6 - 1) == pytest.approx(0.1, rel=1e-5)
    longer = InverseSqrt(images=10**8, batch=100, warmup=1000, reference=10_000)
    assert longer(40_000) == rate(40_000)
    with pytest.raises(ValueError, match="shorter than one batch"):
        InverseSqrt(images=10, batch=100, warmup=0, reference=1)
