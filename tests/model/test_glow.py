"""Glow: log-determinants by autograd, inverses, the start from data, gradients without states."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import count

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import jacobian

from genlab.assemble.components import build
from genlab.codec.dequantize import Dequantize
from genlab.codec.pixels import Pixels
from genlab.core.contract import Batch, Bijection, Spec
from genlab.core.random import DrawNoise
from genlab.model.flow import NLL
from genlab.network.glow import Glow
from genlab.nn.flow import Coupling, Mixing, Standardize, product, squeeze, unsqueeze
from genlab.sampling.pipeline import Pipeline
from tests.helpers.trainers import make, tiny_config

KINDS = ["affine", "sigmoid", "additive"]
WIDE = torch.float64


def awake(module: nn.Module, size: float = 0.2) -> nn.Module:
    """In float64, with every parameter moved: nothing is at its start, where much is zero."""
    g = torch.Generator().manual_seed(1)
    for p in module.double().parameters():
        p.data += size * torch.randn(p.shape, generator=g, dtype=WIDE)
    return module


def state(*shape: int, dtype: torch.dtype = WIDE) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=WIDE).to(dtype)


def glow(shape: tuple[int, ...] = (1, 8, 8), classes: int | None = 3, **keys: object) -> Glow:
    torch.manual_seed(0)
    sizes = {"levels": 2, "depth": 2, "width": 8, "coupling": "affine", "reversible": False,
             "edge_bias": False, "logscale_factor": 1.0}  # fmt: skip
    return Glow(Spec(shape, classes), **{**sizes, **keys})


OFFICIAL = {"coupling": "sigmoid", "edge_bias": True, "logscale_factor": 3.0}
"""Keys of the official code."""


def log_det(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """log |det df/dx| [B] of a map of [B, *S], one row at a time."""
    size = x[0].numel()
    rows = [jacobian(lambda v: f(v[None]), row).view(size, size) for row in x]
    return torch.stack([torch.linalg.slogdet(j)[1] for j in rows])


# --- blocks --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("side", "channels"), [(2, 2), (2, 4), (4, 4), (2, 16)])
def test_log_determinant_of_actnorm_and_rotation(side, channels):
    mixing, x = awake(Mixing(2, channels)), state(2, side, side, channels)
    matrices, vectors, at_a_pixel = mixing()

    def both(v: Tensor) -> Tensor:
        for matrix, vector in zip(matrices, vectors, strict=True):
            v = product(v, matrix, vector)
        return v

    expected = log_det(both, x)
    torch.testing.assert_close((side * side * at_a_pixel).expand(2), expected)
    inverses = mixing.inverse()
    eye = torch.eye(channels, dtype=WIDE)
    for k in range(2):
        torch.testing.assert_close(inverses[k] @ matrices[k], eye, atol=1e-12, rtol=0)
        y = product(x, matrices[k], vectors[k])
        back = product(y, inverses[k], -mixing.b[k].double())
        torch.testing.assert_close(back, x)


def test_one_by_one_convolutions_begin_as_random_rotations():
    matrices, vectors, at_a_pixel = Mixing(3, 12)()
    eye = torch.eye(12, dtype=WIDE)
    for matrix in matrices:
        torch.testing.assert_close(matrix @ matrix.T, eye, atol=1e-6, rtol=0)
        assert (matrix - eye).abs().max() > 0.1
    assert not torch.allclose(matrices[0], matrices[1], atol=0.1)
    assert not vectors.any()
    assert at_a_pixel.abs() < 1e-5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("side", "channels"), [(2, 2), (2, 4), (4, 4)])
def test_log_determinant_of_a_coupling(kind, side, channels):
    coupling, x = awake(Coupling(channels, 8, kind)), state(2, side, side, channels)
    y, got = coupling(x, WIDE)
    expected = log_det(lambda v: coupling(v, WIDE)[0], x)
    torch.testing.assert_close(torch.zeros(2, dtype=WIDE) if got is None else got, expected)
    assert (expected.abs().max() > 0.1) == (kind != "additive")
    torch.testing.assert_close(coupling.inverse(y, WIDE), x)


def test_a_coupling_shifts_before_it_scales():
    x = state(2, 2, 2, 4, dtype=torch.float32)
    shift, s = torch.tensor([1.0, 2.0]), torch.tensor([0.5, -9.0])
    scales = {"affine": s.tanh().exp(), "sigmoid": (s + 2).sigmoid()}
    for kind, scale in scales.items():
        coupling = Coupling(4, 8, kind)
        y, _ = coupling(x, torch.float32)
        torch.testing.assert_close(y[..., :2], x[..., :2])
        start = 1 if kind == "affine" else 1 / (1 + math.exp(-2))
        torch.testing.assert_close(y[..., 2:], x[..., 2:] * start)
        coupling.net.last.b.data = torch.cat([shift, s])
        y, _ = coupling(x, torch.float32)
        torch.testing.assert_close(y[..., 2:], (x[..., 2:] + shift) * scale)


def test_log_determinant_of_a_learned_prior():
    prior, x1, x2 = awake(Standardize(4)), state(2, 2, 2, 4), state(2, 2, 2, 4).flip(0)
    z, got = prior(x1, x2)
    rows = [
        log_det(lambda v, a=a: prior(a, v)[0], b[None])
        for a, b in zip(x1[:, None], x2, strict=True)
    ]
    torch.testing.assert_close(got, torch.cat(rows))
    torch.testing.assert_close(prior.inverse(x1, z), x2)


def test_squeezing_moves_blocks_of_four_pixels_into_channels():
    x = torch.arange(32).view(1, 4, 4, 2)
    out = squeeze(x)
    assert out.shape == (1, 2, 2, 8)
    assert set(out[0, 0, 1].tolist()) == set(x[0, :2, 2:].flatten().tolist())
    assert torch.equal(unsqueeze(out), x)


def test_an_affine_coupling_never_scales_by_more_than_e():
    coupling = awake(Coupling(4, 8, "affine"), 3.0)
    log_scale = coupling.parts(1e6 * state(2, 4, 4, 2), WIDE)[1]
    assert log_scale is not None
    assert 0.99 < log_scale.abs().max() <= 1


@pytest.mark.parametrize(("height", "width"), [(4, 6), (2, 2), (1, 3)])
def test_a_coupling_network_of_the_official_code_by_its_definition(height, width):
    """Zeros around a map and, as one channel more, ones around zeros; actnorms of exp(3 logs)."""
    coupling = awake(Coupling(4, 8, "sigmoid", edge=True, factor=3.0))
    net, x = coupling.net, state(2, height, width, 2)

    def conv(h: Tensor, weight: Tensor, edge: Tensor) -> Tensor:
        ring = torch.ones(len(h), 1, height + 2, width + 2, dtype=WIDE)
        ring[:, :, 1:-1, 1:-1] = 0
        padded = torch.cat([nn.functional.pad(h, (1, 1, 1, 1)), ring], 1)
        return nn.functional.conv2d(padded, torch.cat([weight, edge[:, None]], 1))

    def actnorm(h: Tensor, b: Tensor, logs: Tensor) -> Tensor:
        return (h + b[:, None, None]) * (3 * logs).exp()[:, None, None]

    h = conv(x.permute(0, 3, 1, 2), net.first, net.edge)
    h = actnorm(h, net.b[0], net.logs[0]).relu()
    h = actnorm(nn.functional.conv2d(h, net.second), net.b[1], net.logs[1]).relu()
    expected = actnorm(conv(h, net.last.weight, net.last.edge), net.last.b, net.last.logs)
    torch.testing.assert_close(net(x, WIDE), expected.permute(0, 2, 3, 1))


def test_zeros_tell_of_no_edge_and_the_edge_bias_does():
    """Of an image of zeros: the same everywhere, or another number on each side and corner."""
    for edge, kinds in ((False, 1), (True, 9)):
        prior = awake(Standardize(2, edge=edge))
        mean = prior.conv(torch.zeros(1, 5, 5, 2, dtype=WIDE), WIDE)[0, :, :, 0]
        assert len(mean.round(decimals=9).unique()) == kinds


def test_a_factor_of_log_scales_is_the_size_of_their_steps():
    """The same map after a start from data, and after a third of the step of the logarithms."""
    x = 3 * state(64, 2, 2, 4) + 1
    torch.manual_seed(0)
    one = Mixing(1, 4).double()
    torch.manual_seed(0)
    three = Mixing(1, 4, factor=3.0).double()
    for mixing in (one, three):
        mixing.start(0, x)
    torch.testing.assert_close(3 * three.logs, one.logs)
    for step in (0.0, 0.3):
        one.logs.data += step
        three.logs.data += step / 3
        for a, b in zip(one(), three(), strict=True):
            torch.testing.assert_close(a, b)
        torch.testing.assert_close(one.inverse(), three.inverse())


# --- the whole network ---------------------------------------------------------------------------

SHAPES = [((1, 2, 4), 1), ((1, 4, 4), 2), ((3, 4, 4), 2), ((2, 4, 8), 1), ((1, 8, 8), 3)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("shape", "levels"), SHAPES)
def test_log_determinant_of_the_whole_network(shape, levels, kind):
    net, x = awake(glow(shape, levels=levels, coupling=kind)), state(2, *shape)
    y = torch.tensor([0, 2])
    z, got = net(x, y)
    assert z.shape == (2, math.prod(shape))
    rows = [
        log_det(lambda v, k=k: net(v, k[None])[0], row[None]) for row, k in zip(x, y, strict=True)
    ]
    torch.testing.assert_close(got, torch.cat(rows))
    torch.testing.assert_close(net.inverse(z, y), x)


def test_the_official_network_is_a_flow_too():
    """Log-determinant, inverse, and gradients without states."""
    shape, y = (1, 4, 4), torch.tensor([0, 2])
    net, x = awake(glow(shape, **OFFICIAL)), state(2, *shape)
    z, got = net(x, y)
    rows = [
        log_det(lambda v, k=k: net(v, k[None])[0], row[None]) for row, k in zip(x, y, strict=True)
    ]
    torch.testing.assert_close(got, torch.cat(rows))
    torch.testing.assert_close(net.inverse(z, y), x)
    kept = gradients(net, x)
    recomputed = gradients(awake(glow(shape, **OFFICIAL, reversible=True)), x)
    for a, b in zip(kept, recomputed, strict=True):
        assert b is not None and b.any()
        assert (a - b).abs().max() <= 1e-9 * a.abs().max()


def test_the_inverse_undoes_the_network_before_and_after_training():
    """At most 1e-5 off in float32: at data, and at noise of temperature 1."""
    words = ["network.net.depth=4", "network.net.width=16", "schedule.images=100_000"]
    built, trainer = make(tiny_config("glow", *words))
    net = built.model.net
    codec, (images, labels, _) = built.codec, built.data.load("test")
    x, y = codec.encode(images[:64], None), labels[:64]
    z = torch.randn(64, x[0].numel(), generator=torch.Generator().manual_seed(0))
    for steps in (0, 1, 200):
        while trainer.clock.step < steps:
            trainer.one_step()
        with torch.no_grad():
            assert (net.inverse(net(x, y)[0], y) - x).abs().max() < 1e-5
            drawn = net.inverse(z, y)
            assert (net.inverse(net(drawn, y)[0], y) - drawn).abs().max() < 1e-5
            assert (net(drawn, y)[0] - z).abs().max() < 1e-4
    losses = trainer.peek()["loss/net"]
    assert sum(losses[-20:]) < sum(losses[:20]) - 20, "a bit per dimension was learned"


@pytest.mark.parametrize("keys", [{}, OFFICIAL], ids=["", "official"])
def test_the_start_standardizes_what_every_actnorm_sees(keys):
    net = glow((3, 8, 8), depth=3, width=8, **keys)
    factor = keys.get("logscale_factor", 1.0)
    x = 3 + 2 * state(64, 3, 8, 8, dtype=torch.float32) * state(3, 8, 8, dtype=torch.float32)
    net.start(x)

    def is_standard(v: Tensor, tolerance: float) -> None:
        v = v.flatten(0, -2)
        assert v.mean(0).abs().max() < tolerance
        assert (v.std(0, correction=0) - 1).abs().max() < tolerance

    h = x.permute(0, 2, 3, 1)
    with torch.no_grad():
        for level, flow in enumerate(net.flows):
            h = squeeze(h)
            matrices, vectors, _ = flow.mixing()
            maps = zip(flow.couplings, flow.mixing.b, flow.mixing.logs, strict=True)
            for k, (coupling, b, logs) in enumerate(maps):
                is_standard((h + b) * (factor * logs).exp(), 1e-4)
                h = product(h, matrices[k], vectors[k])
                inner: list[Tensor] = []

                def relu(v: Tensor, inner: list[Tensor] = inner) -> Tensor:
                    inner.append(v)
                    return v.relu()

                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(torch.nn.functional, "relu_", relu)
                    h, _ = coupling(h, h.dtype)
                assert len(inner) == 2
                for v in inner:
                    is_standard(v.permute(0, 2, 3, 1), 1e-3)
            h = h.chunk(2, dim=3)[0] if level == 0 else h


def test_the_label_decides_the_prior():
    net, x = awake(glow()).float(), state(1, 1, 8, 8, dtype=torch.float32)
    first, second = (net(x, torch.tensor([k]))[0] for k in (0, 1))
    top = math.prod(net.top)
    assert torch.equal(first[:, :-top], second[:, :-top])
    assert not torch.allclose(first[:, -top:], second[:, -top:], atol=1e-3)
    assert torch.equal(net(x, None)[0], net(x, torch.tensor([-1]))[0])


@pytest.mark.parametrize(
    ("shape", "levels", "says"),
    [
        ((1, 28, 28), 3, "28x28 pixels can be halved 2 times; use levels=2"),
        ((3, 8, 12), 3, "8x12 pixels can be halved 2 times"),
        ((1, 6, 6), 2, "halved 1 time; use levels=1"),
        ((1, 7, 7), 1, "0 times"),
        ((2,), 1, "images"),
    ],
)
def test_sizes_that_cannot_be_halved_are_refused(shape, levels, says):
    with pytest.raises(ValueError, match=says):
        glow(shape, levels=levels)


# --- gradients without states --------------------------------------------------------------------


def gradients(net: Glow, x: Tensor) -> list[Tensor]:
    """Of a negative log-likelihood, by x and every parameter."""
    x = x.clone().requires_grad_()
    z, log_dets = net(x, torch.arange(len(x)) % 3)
    (z.square().sum() / 2 - log_dets.sum()).backward()
    return [x.grad, *(p.grad for p in net.parameters())]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(WIDE, 1e-10), (torch.float32, 1e-5)])
def test_recomputed_states_give_the_same_gradients(kind, dtype, tolerance):
    nets = [awake(glow(coupling=kind, reversible=r), 0.05).to(dtype) for r in (False, True)]
    kept, recomputed = (gradients(net, state(3, 1, 8, 8, dtype=dtype)) for net in nets)
    for a, b in zip(kept, recomputed, strict=True):
        assert (a - b).abs().max() <= tolerance * a.abs().max()


def test_recomputed_states_compute_in_the_type_of_the_forward_pass():
    nets = [awake(glow(reversible=r), 0.05).float() for r in (False, True)]
    grads = []
    for net in nets:
        x = state(8, 1, 8, 8, dtype=torch.float32)
        with torch.autocast("cpu", torch.bfloat16):
            z, log_dets = net(x, None)
        assert z.dtype == log_dets.dtype == torch.float32
        (z.square().sum() / 2 - log_dets.sum()).backward()
        grads.append([p.grad for p in net.parameters()])
    for a, b in zip(*grads, strict=True):
        assert (a - b).norm() <= 0.02 * a.norm()


def test_memory_of_recomputed_states_does_not_grow_with_depth():
    def kept(depth: int, reversible: bool) -> int:
        net = glow((1, 16, 16), levels=1, depth=depth, width=16, reversible=reversible)
        own = {p.data_ptr() for p in net.parameters()}
        sizes = []

        def pack(t: Tensor) -> Tensor:
            if t.numel() >= 16 * 256 and t.data_ptr() not in own:
                sizes.append(t.numel())
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            net(torch.zeros(16, 1, 16, 16), None)
        return sum(sizes)

    assert kept(6, True) == kept(2, True) > 0
    assert kept(6, False) > 2 * kept(2, False) > 4 * kept(2, True)


# --- dequantized bytes ---------------------------------------------------------------------------


def noise(n: int) -> DrawNoise:
    return DrawNoise(0, 0, n, slice(0, n), torch.Generator(), None)


@pytest.mark.parametrize("half", [0.5, 1.0])
def test_every_byte_survives_dequantization(half):
    codec = Dequantize(Spec((1, 16, 16)), bits=8, half=half)
    u = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(500, -1, -1, -1)
    x = codec.encode(u, noise(500))
    assert -half <= x.min() < -half * 0.999
    assert half * 0.999 < x.max() < half
    assert torch.equal(codec.decode(x), u)
    assert torch.equal(codec.decode(codec.encode(u, None)), u)
    within = (x + half) * 128 / half - u  # the place within the grey level
    assert within.mean().item() == pytest.approx(0.5, abs=0.005)
    assert within.var().item() == pytest.approx(1 / 12, rel=0.02)


@pytest.mark.parametrize("bits", [1, 5])
def test_fewer_bits_are_the_high_ones_spread_over_all_greys(bits):
    codec = Dequantize(Spec((1, 16, 16)), bits=bits, half=0.5)
    u = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    out = codec.decode(codec.encode(u, noise(1))).flatten().int()
    levels = 2**bits
    expected = [round((v // (256 // levels)) * 255 / (levels - 1)) for v in range(256)]
    assert out.tolist() == expected
    assert codec.decode(torch.tensor([[[[-9.0, 9.0]]]])).flatten().tolist() == [0, 255]


@pytest.mark.parametrize(("bits", "half"), [(8, 0.5), (5, 1.0)])
def test_density_of_dequantized_bytes(bits, half):
    codec = Dequantize(Spec((3, 4, 4)), bits=bits, half=half)
    x = codec.encode(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), noise(2))
    # dx / dv from the distance of two neighbouring levels
    low, high = (
        codec.encode(torch.full((1, 3, 4, 4), v << (8 - bits), dtype=torch.uint8), None)
        for v in (0, 1)
    )
    expected = (high - low).double().log().sum().item()
    assert codec.logdet(x).tolist() == pytest.approx([expected] * 2, rel=1e-5)


def test_dequantize_refuses_points_and_ninth_bits():
    with pytest.raises(ValueError, match="codec=points"):
        Dequantize(Spec((2,)), bits=8, half=0.5)
    with pytest.raises(ValueError, match="1 to 8"):
        Dequantize(Spec((1, 8, 8)), bits=9, half=0.5)


# --- the model -----------------------------------------------------------------------------------


class Scaling(Bijection):
    """z = gain x + shift."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.gain = gain
        self.shift = nn.Parameter(torch.tensor(0.25))

    def forward(self, x: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
        size = x[0].numel()
        return (self.gain * x + self.shift).flatten(1), x.new_full(
            (len(x),), size * math.log(self.gain)
        )

    def inverse(self, z: Tensor, y: Tensor | None) -> Tensor:
        return ((z - self.shift) / self.gain).view(-1, 1, 4, 4)


SPEC = Spec((1, 4, 4))


@pytest.mark.parametrize(("half", "gain"), [(0.5, 3.0), (1.0, 1.5)])
def test_the_loss_is_bits_of_the_stored_values(half, gain):
    """The same density of the bytes, whatever the range of model space."""
    codec = Dequantize(SPEC, bits=8, half=half)
    u = torch.arange(128, dtype=torch.uint8).view(8, 1, 4, 4)
    x = codec.encode(u, noise(8))
    model = NLL(Scaling(gain), codec, SPEC, ema=0)
    got = model.loss(Batch(x, None, noise(8)))
    v = (x.double() + half) * 128 / half  # in grey levels
    deviation = 256 / 3.0  # of v under the model, whose x has deviation 1 / gain
    mean = 128 - 0.25 * deviation
    normal = torch.distributions.Normal(mean, deviation)
    torch.testing.assert_close(got.double(), -normal.log_prob(v).mean() / math.log(2))
    torch.testing.assert_close(model.log_prob(x, None, None).shape, torch.Size([8]))
    torch.testing.assert_close(model.transport(model.net(x, None)[0], None, noise(8), None), x)


def test_the_first_look_takes_256_data_in_whole_batches():
    seen: list[Tensor] = []

    class Looks(Scaling):
        def start(self, x: Tensor) -> None:
            seen.append(x)

    def batches() -> Iterator[Batch]:
        for i in count():
            yield Batch(torch.full((100, 1, 4, 4), float(i)), None, noise(100))

    NLL(Looks(1.0), Dequantize(SPEC, bits=8, half=0.5), SPEC, ema=0).start(batches())
    (x,) = seen
    assert x[:, 0, 0, 0].tolist() == [0.0] * 100 + [1.0] * 100 + [2.0] * 56


def test_what_has_no_density_or_inverse_is_refused():
    with pytest.raises(ValueError, match="codec=dequantize"):
        NLL(Scaling(1.0), Pixels(SPEC), SPEC, ema=0)
    with pytest.raises(ValueError, match="network=glow"):
        NLL(nn.Linear(2, 2), Dequantize(SPEC, bits=8, half=0.5), SPEC, ema=0)


def test_temperature_zero_draws_the_centre_of_every_class():
    built = build(tiny_config("glow", "sampler.temperature=0"))
    net = built.model.net
    with torch.no_grad():
        net.label.weight.normal_(0, 0.3, generator=torch.Generator().manual_seed(0))
        x = net.inverse(torch.zeros(2, built.model.size), torch.tensor([1, 2]))
    drawn = Pipeline(built).draw([1, 1, 2], 0, range(3), "raw")
    assert torch.equal(drawn, built.codec.decode(x[[0, 0, 1]]))
    assert not torch.equal(drawn[0], drawn[2])
