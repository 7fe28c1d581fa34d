"""WGAN-GP: the penalty by hand, the order of the steps, and an estimate that is a distance."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genlab.assemble.components import build
from genlab.config.compose import compose
from genlab.core.contract import Batch, Clock, Spec
from genlab.core.errors import ConfigError
from genlab.core.random import DrawNoise
from genlab.model.wgan_gp import WGANGP
from genlab.network.dcgan import DCGANCritic
from genlab.network.mlp import MLPDiscriminator
from genlab.network.resnet_gan import ResNetDiscriminator, ResNetGenerator, _Conv
from genlab.nn.double_backward import Conv2d, LeakyReLU
from genlab.run.checkpoint import load_model
from genlab.schedule.linear import Linear
from tests.model.test_every_model import largest_difference, make, two_ranks

KEYS = {
    "n_critic": 1,
    "g_batches": 1,
    "weight": 10.0,
    "center": 1.0,
    "one_sided": False,
    "at": "interpolates",
    "ema": 0.0,
}


def seeded(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def batches(n: int, *shape: int) -> Iterator[Batch]:
    """Batches of which no two are equal."""
    for i in itertools.count():
        noise = DrawNoise(0, i * n, n, slice(0, n), torch.Generator(), None)
        yield Batch(seeded(n, *shape, seed=i), None, noise)


class Generator(nn.Module):
    """x = scale z, reshaped; keeps what it was asked."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.shape, self.z_dim = shape, int(torch.Size(shape).numel())
        self.scale = nn.Parameter(torch.tensor(0.5))
        self.asked: list[Tensor] = []

    def forward(self, z: Tensor, y: Tensor | None) -> Tensor:
        self.asked.append(z)
        return self.scale * z.view(-1, *self.shape)


class Plane(nn.Module):
    """score = <w, x>; keeps its batches."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(seeded(*shape, seed=7))
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor, y: Tensor | None) -> Tensor:
        self.seen.append(x.detach())
        return (x * self.weight).flatten(1).sum(1)


class Cubic(Plane):
    """score = sum of w x^3: the slope is 3 w x^2."""

    def forward(self, x: Tensor, y: Tensor | None) -> Tensor:
        return super().forward(x**3, y)


def wgan(critic: nn.Module, *shape: int, **keys: object) -> WGANGP:
    return WGANGP(Generator(*shape), critic, **{**KEYS, **keys})


# --- the penalty ---------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2,), (3, 4, 5)])
@pytest.mark.parametrize("autocast", [False, True])
def test_penalty_of_a_linear_critic(shape, autocast):
    """The slope of <w, x> is w everywhere, so the penalty is (|w| - 1)^2, over all pixels."""
    model = wgan(Plane(*shape), *shape)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        update = next(model.step(batches(6, *shape)))
    w = model.discriminator.weight
    assert update.log["slope"].item() == pytest.approx(w.norm().item(), rel=1e-6)
    assert update.log["penalty"].item() == pytest.approx((w.norm().item() - 1) ** 2, rel=1e-5)
    update.loss.backward()
    both, _ = model.discriminator.seen
    real, fake = both.chunk(2)
    expected = 20 * (1 - 1 / w.norm()) * w + fake.mean(0) - real.mean(0)
    torch.testing.assert_close(w.grad, expected.detach(), rtol=1e-4, atol=1e-5)
    loss = (fake - real).mean(0).mul(w).sum() + 10 * (w.norm() - 1) ** 2
    torch.testing.assert_close(update.loss, loss, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("center", "one_sided", "norm", "penalty"),
    [
        (1.0, False, 0.25, 0.75**2),
        (1.0, True, 0.25, 0.0),
        (1.0, True, 1.5, 0.5**2),
        (0.0, False, 1.5, 1.5**2),
        (0.0, True, 1.5, 1.5**2),
    ],
)
def test_centers_and_sides(center, one_sided, norm, penalty):
    model = wgan(Plane(3, 2, 2), 3, 2, 2, center=center, one_sided=one_sided)
    with torch.no_grad():
        model.discriminator.weight.mul_(norm / model.discriminator.weight.norm())
    log = next(model.step(batches(4, 3, 2, 2))).log
    assert log["penalty"].item() == pytest.approx(penalty, abs=1e-5)


@pytest.mark.parametrize("at", ["interpolates", "real", "fake"])
def test_the_slope_is_taken_at_points_with_a_coefficient_for_each_sample(at):
    """Points are x + a (G(z) - x) with one a for all numbers of a sample, another for another."""
    model = wgan(Cubic(2, 3, 3), 2, 3, 3, at=at)
    batch = next(batches(64, 2, 3, 3))
    update = next(model.step(iter([batch])))
    _, cubed = model.discriminator.seen
    points = cubed.sign() * cubed.abs() ** (1 / 3)
    fakes = 0.5 * model.generator.asked[0].view_as(points)
    way = (fakes - batch.x).flatten(1)
    a = ((points - batch.x).flatten(1) * way).sum(1) / way.square().sum(1)
    torch.testing.assert_close(
        points, batch.x + a.view(-1, 1, 1, 1) * (fakes - batch.x), rtol=1e-3, atol=1e-3
    )
    if at == "interpolates":
        assert 0 <= a.min() < 0.15 < 0.85 < a.max() <= 1
        assert a.std().item() == pytest.approx(12**-0.5, abs=0.06)
    else:
        torch.testing.assert_close(a, torch.full_like(a, float(at == "fake")), atol=1e-3, rtol=0)
    slope = 3 * model.discriminator.weight * points**2
    expected = (slope.flatten(1).norm(dim=1) - 1).square().mean()
    torch.testing.assert_close(update.log["penalty"], expected.detach(), rtol=1e-3, atol=1e-4)


def critic_of_all_layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        Conv2d(2, 4, 4, 2, 1), LeakyReLU(0.2), Conv2d(4, 3, 3, 1, 1, bias=False), nn.SiLU(),
        Conv2d(3, 1, 4), nn.Flatten(0),
    )  # fmt: skip


def plain(net: nn.Sequential) -> nn.Sequential:
    """The same network of torch's own layers."""
    for layer in net:
        layer.__class__ = {Conv2d: nn.Conv2d, LeakyReLU: nn.LeakyReLU}.get(
            type(layer), type(layer)
        )
    return net


def gradients_through_the_slope(net: nn.Sequential, dtype: torch.dtype) -> list[Tensor]:
    x = seeded(5, 2, 8, 8).to(dtype).requires_grad_()
    score = net.to(dtype)(x)
    (slope,) = torch.autograd.grad(score.sum(), x, create_graph=True)
    ((slope.flatten(1).norm(dim=1) - 1).square().mean() + score.mean()).backward()
    return [x.grad, *(p.grad for p in net.parameters())]


def test_layers_of_critics_have_the_second_derivatives_of_torch():
    """A kink, a smooth activation, which needs the forward pass again, strides and biases."""
    ours = gradients_through_the_slope(critic_of_all_layers(), torch.float64)
    torchs = gradients_through_the_slope(plain(critic_of_all_layers()), torch.float64)
    for a, b in zip(ours, torchs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_layers_of_critics_against_finite_differences():
    net = critic_of_all_layers().double()
    first = net[0].weight
    grads = gradients_through_the_slope(net, torch.float64)

    def loss() -> Tensor:
        x = seeded(5, 2, 8, 8).double().requires_grad_()
        score = plain(critic_of_all_layers()).double()
        score.load_state_dict(net.state_dict())
        out = score(x)
        (slope,) = torch.autograd.grad(out.sum(), x)
        return (slope.flatten(1).norm(dim=1) - 1).square().mean() + out.mean()

    step = seeded(*first.shape, seed=3).double()
    sides = []
    for h in (1e-6, -1e-6):
        with torch.no_grad():
            first += h * step
        sides.append(loss().detach())
        with torch.no_grad():
            first -= h * step
    torch.testing.assert_close(
        (grads[1] * step).sum(), (sides[0] - sides[1]) / 2e-6, rtol=1e-4, atol=1e-8
    )


@pytest.mark.parametrize("labels", [None, 3])
@pytest.mark.parametrize("network", [DCGANCritic, ResNetDiscriminator])
def test_the_penalty_does_not_run_back_through_the_forward_pass(network, labels):
    """Between the kinks a slope is a product of weights: the biases get no gradient, not zeros."""
    critic = network(Spec((3, 32, 32), labels), width=2)
    batch = next(batches(4, 3, 32, 32))._replace(y=None if labels is None else torch.arange(4) % 3)
    penalty, _ = wgan(critic, 3, 32, 32).penalty(batch, seeded(4, 3, 32, 32, seed=9))
    penalty.backward()
    for name, p in critic.named_parameters():
        assert (p.grad is None) == name.endswith("bias"), name


@pytest.mark.parametrize("asked", ["x", "weight", "both"])
def test_a_convolution_gives_whatever_derivative_is_asked_for(asked):
    x, layer = seeded(2, 2, 6, 6).requires_grad_(), Conv2d(2, 3, 3, 1, 1)
    of = {"x": [x], "weight": [layer.weight], "both": [x, layer.weight, layer.bias]}[asked]
    for graph in (False, True):
        got = torch.autograd.grad(layer(x).square().sum(), of, create_graph=graph)
        reference = F.conv2d(x, layer.weight, layer.bias, 1, 1)
        expected = torch.autograd.grad(reference.square().sum(), of, create_graph=graph)
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a, b)
        if graph:
            twice = [
                torch.autograd.grad(sum(g.square().sum() for g in gs), [x, layer.weight])
                for gs in (got, expected)
            ]
            torch.testing.assert_close(*twice)


def test_the_critics_pass_of_the_penalty_is_float32_under_autocast():
    seen = []

    class Watch(Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            out = super().forward(x)
            seen.append((len(x), out.dtype))
            return out

    model = wgan(nn.Sequential(Watch(1, 1, 4), nn.Flatten(0)), 1, 4, 4)
    model.discriminator.forward = lambda x, y: nn.Sequential.forward(model.discriminator, x)
    with torch.autocast("cpu", torch.bfloat16):
        update = next(model.step(batches(6, 1, 4, 4)))
    assert seen == [(12, torch.bfloat16), (6, torch.float32)]
    assert update.log["penalty"].dtype == torch.float32


def test_a_flat_critic_has_a_finite_gradient():
    model = wgan(Plane(4), 4)
    with torch.no_grad():
        model.discriminator.weight.zero_()
    update = next(model.step(batches(4, 4)))
    update.loss.backward()
    assert update.log["penalty"].item() == 1
    assert model.discriminator.weight.grad.isfinite().all()


def test_a_critic_with_batch_normalization_is_refused():
    words = ["model=wgan_gp", "data.size=16", "network=dcgan", "hardware=cpu"]
    with pytest.raises(ConfigError, match=r"batch normalization.*network=dcgan_wgan"):
        build(compose(words), meta=True)
    build(compose([*words, "network.discriminator.norm=none"]), meta=True)


# --- the order of the steps ----------------------------------------------------------------------


def test_the_critic_sees_another_batch_at_every_step_and_then_the_generator_steps():
    model = wgan(Plane(3), 3, n_critic=4)
    source = [next(b) for b in [batches(8, 3)] for _ in range(4)]
    data = iter(source)
    steps = model.step(data)
    for i in range(4):
        update = next(steps)
        assert update.on == "d"
        both, _ = model.discriminator.seen[2 * i :]
        assert torch.equal(both[:8], source[i].x)
        update.loss.backward()
        assert model.generator.scale.grad is None
        model.discriminator.weight.grad = None
    fakes = list(model.generator.asked)
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(fakes, 2))
    update = next(steps)
    assert update.on == "g"
    update.loss.backward()
    assert model.discriminator.weight.grad is None
    assert model.generator.scale.grad.any()
    assert model.discriminator.weight.requires_grad
    assert next(steps, None) is None
    assert next(data, None) is None


def test_the_generator_meets_the_critic_that_has_stepped():
    model = wgan(Plane(3), 3, n_critic=2)
    steps = model.step(batches(8, 3))
    next(steps), next(steps)
    with torch.no_grad():
        model.discriminator.weight.fill_(2.0)
    update = next(steps)
    z = model.generator.asked[-1]
    torch.testing.assert_close(update.loss, -(2.0 * 0.5 * z).sum(1).mean())


@pytest.mark.parametrize("g_batches", [1, 3])
def test_the_batch_of_the_generator_is_a_multiple(g_batches):
    model = wgan(Plane(3), 3, g_batches=g_batches)
    list(zip(range(2), model.step(batches(8, 3)), strict=True))
    critic, own = model.generator.asked
    assert (len(critic), len(own)) == (8, 8 * g_batches)
    assert len(torch.cat([critic, own]).unique(dim=0)) == 8 + 8 * g_batches, "all noise is fresh"


def toy(**keys: object) -> dict:
    """WGAN-GP on points: no batch normalization anywhere."""
    words = ["model=wgan_gp", "data=toy", "network=mlp_gan", "codec=points", "model.classes=none"]
    config = compose([*words, "optimizer=sgd", "hardware=cpu", "schedule.batch=16"])
    for network in config["network"].values():
        network.update(width=8, depth=2)
    config["network"]["generator"]["z_dim"] = 3
    config["hardware"] |= {"precision": "fp32", "threads": 1}
    config["optimizer"]["lr"] = 0.02
    config["model"] |= {"n_critic": 3, "g_batches": 2, **keys}
    return config


def trained(config: dict, steps: int = 2):
    built, trainer = make(config)
    for _ in range(steps):
        trainer.one_step()
    return built.model, trainer


def test_the_clock_counts_every_batch_that_was_drawn():
    model, trainer = trained(toy())
    assert trainer.clock == Clock(step=2, images=2 * 3 * 16, drawn=3 * 16)
    lines = trainer.peek()
    assert len(lines["loss/d"]) == len(lines["wasserstein"]) == 6
    assert len(lines["loss/g"]) == 2
    assert model.clock is trainer.clock


def test_accumulation_and_ranks_change_nothing(tmp_path):
    config = toy()
    whole, _ = trained(config)
    for path in two_ranks(config, 2, tmp_path):
        other = build(config).model
        load_model(other, path)
        assert largest_difference(whole, other) < 1e-6
    config["hardware"]["micro_batch"] = 4
    parts, _ = trained(config)
    assert largest_difference(whole, parts) < 1e-6


# --- the estimate --------------------------------------------------------------------------------


class Shifted(nn.Module):
    """Standard normal points, moved."""

    def __init__(self, *by: float) -> None:
        super().__init__()
        self.z_dim = len(by)
        self.by = nn.Parameter(torch.tensor(by))

    def forward(self, z: Tensor, y: Tensor | None) -> Tensor:
        return z + self.by


@pytest.mark.parametrize("by", [(1.5,), (1.2, -1.6)])
def test_the_estimate_of_a_trained_critic_is_the_distance_of_two_gaussians(by):
    """W1 of N(0, I) and N(m, I) is |m|.

    The best linear critic, of slope s in the direction of m, has s |m| - 10 (s - 1)^2 to gain, so
    s = 1 + |m| / 20: a penalty, unlike a constraint, lets the estimate exceed W1 by as much.
    """
    torch.manual_seed(0)
    critic = MLPDiscriminator(Spec((len(by),)), width=32, depth=2)
    model = WGANGP(Shifted(*by), critic, **{**KEYS, "n_critic": 600})
    optimizer = torch.optim.Adam(critic.parameters(), 3e-3, (0.5, 0.9))
    logs = []
    for update in itertools.islice(model.step(batches(256, len(by))), 600):
        update.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        logs.append(update.log)
    distance = float(torch.tensor(by).norm())
    estimate, slope = (
        float(torch.stack([log[k] for log in logs[-200:]]).mean())
        for k in ("wasserstein", "slope")
    )
    assert slope == pytest.approx(1 + distance / 20, abs=0.06)
    assert estimate == pytest.approx(distance * (1 + distance / 20), rel=0.06)


def test_held_out_value_needs_no_gradients_around_it():
    """What every.eval writes: the value of the game on data, with gradients only inside."""
    model = wgan(Plane(3), 3)
    with torch.no_grad():
        loss, log = model.loss(next(batches(8, 3)))
    assert not loss.requires_grad
    torch.testing.assert_close(-loss, log["wasserstein"] - 10 * log["penalty"])


# --- the residual networks -----------------------------------------------------------------------


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


# --- schedule --------------------------------------------------------------------


def test_linear_schedule():
    falls = Linear(images=1000, batch=10, warmup=0, floor=0.0)
    assert [falls(i) for i in (0, 250, 1000, 1200)] == [1.0, 0.75, 0.0, 0.0]
    warm = Linear(images=1100, batch=10, warmup=100, floor=0.2)
    assert [warm(i) for i in (40, 90, 100, 600, 1100)] == pytest.approx([0.5, 1, 1, 0.6, 0.2])
    with pytest.raises(ValueError, match="warmup"):
        Linear(images=100, batch=10, warmup=100, floor=0.0)
