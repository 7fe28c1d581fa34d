"""GANs: losses and penalties in their steps, and an estimate that is a distance."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from genlab.assemble.components import build
from genlab.config.compose import compose
from genlab.core.contract import Batch, Clock, Spec
from genlab.core.errors import ConfigError
from genlab.core.random import DrawNoise
from genlab.model.gan import GAN, WGANGP, NonSaturating
from genlab.network.mlp import MLPDiscriminator
from genlab.nn.double_backward import Conv2d
from genlab.run.checkpoint import load_model
from tests.helpers.trainers import largest_difference, make, two_ranks

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


@pytest.mark.parametrize(
    ("at", "point"), [("interpolates", "between"), ("real", "real"), ("fake", "fake")]
)
def test_keys_of_wgan_gp_are_those_of_its_penalty(at, point):
    (keys,) = wgan(Plane(2), 2, at=at, weight=3.0, center=0.5, one_sided=True).penalties
    assert keys == penalty(point, 3.0, 0.5) | {"one_sided": True}


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


# --- the loss that does not saturate -------------------------------------------------------------


class LinearG(nn.Module):
    """x = W z."""

    z_dim = 3

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, 3, generator=torch.Generator().manual_seed(1)))

    def forward(self, z: Tensor, y: Tensor | None) -> Tensor:
        return z @ self.weight.T


class LinearD(nn.Module):
    """logit = <w, x>; keeps its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.6, -0.8]))
        self.batches: list[Tensor] = []

    def forward(self, x: Tensor, y: Tensor | None) -> Tensor:
        self.batches.append(x.detach())
        return x @ self.weight


def gan(r1: float = 0.0) -> NonSaturating:
    return NonSaturating(LinearG(), LinearD(), r1=r1, ema=0.0)


def test_gan_steps_on_the_papers_losses_in_turn():
    model, data = gan(), next(batches(16, 2))
    d, g = model.discriminator, model.generator
    steps = model.step(iter([data]))
    update = next(steps)
    real, fakes = d.batches
    assert update.on == "d"
    assert torch.equal(real, data.x)
    # maximize log D(x) + log(1 - D(G(z))), with D = sigmoid(logit) and 1 - D = sigmoid(-logit)
    gain = logsigmoid(real @ d.weight).mean() + logsigmoid(-fakes @ d.weight).mean()
    torch.testing.assert_close(update.loss, -gain)
    assert update.log["d_real"].item() == pytest.approx((real @ d.weight).sigmoid().mean().item())
    assert update.log["d_fake"].item() == pytest.approx((fakes @ d.weight).sigmoid().mean().item())
    update.loss.backward()
    assert g.weight.grad is None
    assert d.weight.grad.any()
    d.weight.grad = None

    update = next(steps)
    fresh = d.batches[-1]
    assert update.on == "g"
    assert not torch.equal(fresh, fakes)
    torch.testing.assert_close(update.loss, -logsigmoid(fresh @ d.weight).mean())
    update.loss.backward()
    assert d.weight.grad is None
    assert g.weight.grad.any()
    assert d.weight.requires_grad
    assert next(steps, None) is None


def test_gan_generator_meets_the_discriminator_that_has_stepped():
    model = gan()
    steps = model.step(batches(16, 2))
    next(steps)
    with torch.no_grad():
        model.discriminator.weight.zero_()
    assert next(steps).loss.item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("autocast", [False, True])
def test_r1_is_half_gamma_times_the_squared_slope_at_the_data(autocast):
    """The slope of <w, x> is w, of length 1 here."""
    plain, penalized = gan(), gan(r1=5.0)
    assert not plain.double_backward
    assert penalized.double_backward
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        without, update = (next(m.step(batches(16, 2))) for m in (plain, penalized))
    tolerance = 0.01 if autocast else 1e-6
    torch.testing.assert_close(update.loss, without.loss + 2.5, rtol=0, atol=tolerance)
    update.loss.backward()
    slope = penalized.discriminator.weight.grad
    without.loss.backward()
    extra = slope - plain.discriminator.weight.grad
    torch.testing.assert_close(
        extra, 5.0 * plain.discriminator.weight.detach(), rtol=0.01, atol=0.01
    )


def test_gan_players_share_nothing_and_samples_need_no_sampler():
    model = gan()
    players = model.players()
    assert list(players) == ["d", "g"]
    assert players["d"] == [model.discriminator.weight]
    assert players["g"] == [model.generator.weight]
    first, second = (next(batches(4, 2)).noise for _ in range(2))
    out = model.transport(model.prior(first), None, first, None)
    torch.testing.assert_close(out, second.normal(3) @ model.generator.weight.T)


# --- losses and penalties as keys ----------------------------------------------------------------


def variant(loss: str, *penalties: dict, **keys: object) -> GAN:
    own = {"clip_weights": None, "n_critic": 1, "g_batches": 1, "ema": 0.0, **keys}
    return GAN(LinearG(), LinearD(), loss=loss, penalties=list(penalties), **own)


def penalty(at: str, weight: float, center: float = 0.0) -> dict:
    return {"at": at, "weight": weight, "center": center, "power": 2.0, "one_sided": False}


def test_a_relative_loss_is_of_pairs_in_both_steps():
    model, data = variant("relativistic", g_batches=2), next(batches(16, 2))
    w, steps = model.discriminator.weight, model.step(iter([data]))
    update = next(steps)
    real, fakes = model.discriminator.batches
    torch.testing.assert_close(update.loss, -logsigmoid(real @ w - fakes @ w).mean())
    update = next(steps)
    fresh, again = model.discriminator.batches[2:]
    assert torch.equal(again, data.x)
    torch.testing.assert_close(update.loss, -logsigmoid(fresh @ w - (again @ w).repeat(2)).mean())


def test_penalties_add_up_and_their_passes_give_the_scores():
    """R3GAN's two, and one between: D is evaluated once at each of the three."""
    plain = variant("least_squares")
    both = variant("least_squares", penalty("real", 3), penalty("fake", 2), penalty("between", 1))
    without, update = (next(m.step(batches(16, 2))) for m in (plain, both))
    assert len(both.discriminator.batches) == 3
    torch.testing.assert_close(update.loss, without.loss + 6, msg="the slope of D is 1")
    assert update.log["penalty_between"].item() == pytest.approx(1)
    assert update.log["slope_fake"].item() == pytest.approx(1)
    assert (plain.double_backward, both.double_backward) == (False, True)


def test_weights_are_clipped_after_every_step_of_d():
    model = variant("wasserstein", clip_weights=0.3, n_critic=2)
    steps = model.step(batches(8, 2))
    for _ in range(2):
        assert next(steps).on == "d"
        with torch.no_grad():
            model.discriminator.weight.copy_(torch.tensor([0.1, -5.0]))
    assert next(steps).on == "g"
    assert model.discriminator.weight.tolist() == pytest.approx([0.1, -0.3])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["model=r3gan", "network=dcgan"], r"batch normalization.*network=dcgan_wgan"),
        (["model=lsgan", "model.penalties=[{at: real, wieght: 1}]"], r"penalties.*a penalty like"),
        (["model=lsgan", "model.penalties=[{at: data, weight: 1}]"], r"real or fake or between"),
        (["model=lsgan", "model.penalties=[{at: real}]"], r"weight"),
        (["model=lsgan", "model.loss=hing"], r"non_saturating or"),
    ],
)
def test_what_does_not_fit_is_said(words, says):
    with pytest.raises(ConfigError, match=says):
        build(compose(["data.size=16", "hardware=cpu", *words]), meta=True)


def test_a_penalty_is_changed_by_a_word():
    words = ["model=r3gan", "model.penalties.0.weight=7", "hardware=cpu"]
    penalties = build(compose(words), meta=True).model.penalties
    assert [(p["at"], p["weight"]) for p in penalties] == [("real", 7), ("fake", 0.5)]
    added = "model.penalties=[{at: between, weight: 1, center: 1}]"
    (only,) = build(compose(["model=r3gan", added, "hardware=cpu"]), meta=True).model.penalties
    assert only == penalty("between", 1.0, 1.0)
