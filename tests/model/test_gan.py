"""GANs: the order of their steps, their keys, and an estimate that is a distance.

The formulas of losses and penalties are in tests/nn/test_adversarial.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from genlab.assemble.components import build
from genlab.config.compose import compose
from genlab.core.contract import Batch, Clock, Spec
from genlab.core.errors import ConfigError
from genlab.core.random import DrawNoise
from genlab.model.gan import GAN, WGANGP, NonSaturating
from genlab.network.mlp import MLPDiscriminator
from genlab.nn.adversarial import LOSSES
from genlab.run.tensors import load_model
from tests.helpers.trainers import largest_difference, run, two_ranks


def batches(n: int, *shape: int) -> Iterator[Batch]:
    """Batches of which no two are equal."""
    for i in itertools.count():
        noise = DrawNoise(0, i * n, n, slice(0, n), torch.Generator(), None)
        x = torch.randn(n, *shape, generator=torch.Generator().manual_seed(i))
        yield Batch(x, None, noise)


class Generator(nn.Module):
    """x = W z; keeps its noise."""

    z_dim = 3

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, 3, generator=torch.Generator().manual_seed(1)))
        self.asked: list[Tensor] = []

    def forward(self, z: Tensor, y: Tensor | None) -> Tensor:
        self.asked.append(z)
        return z @ self.weight.T


class Discriminator(nn.Module):
    """score = <w, x>, whose slope is w, of length 1; keeps its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.6, -0.8]))
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor, y: Tensor | None) -> Tensor:
        self.seen.append(x.detach())
        return x @ self.weight


def game(loss: str, *penalties: dict, **keys: object) -> GAN:
    own = {"clip_weights": None, "n_critic": 1, "g_batches": 1, "ema": 0.0, **keys}
    return GAN(Generator(), Discriminator(), loss=loss, penalties=list(penalties), **own)


def penalty(at: str, weight: float, center: float = 0.0, one_sided: bool = False) -> dict:
    return {"at": at, "weight": weight, "center": center, "power": 2.0, "one_sided": one_sided}


def gan(r1: float = 0.0) -> NonSaturating:
    return NonSaturating(Generator(), Discriminator(), r1=r1, ema=0.0)


KEYS = {"n_critic": 1, "g_batches": 1, "weight": 10.0, "center": 1.0, "one_sided": False}
KEYS |= {"at": "interpolates", "ema": 0.0}


def wgan_gp(generator: nn.Module | None = None, critic: nn.Module | None = None, **keys: object):
    return WGANGP(generator or Generator(), critic or Discriminator(), **{**KEYS, **keys})


# --- the order of the steps ----------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
def test_d_steps_on_fresh_data_n_critic_times_and_then_g_on_fresh_noise(loss):
    """Each on its loss, with gradients for its own weights alone, against the other as it is."""
    model = game(loss, n_critic=3, g_batches=2)
    g, d = model.generator, model.discriminator
    source = list(itertools.islice(batches(8, 2), 3))
    data = iter(source)
    steps = model.step(data)
    for i in range(3):
        update = next(steps)
        assert update.on == "d"
        real, fake = d.seen[2 * i :]
        assert torch.equal(real, source[i].x)
        torch.testing.assert_close(fake, g.asked[i] @ g.weight.T)
        wanted = LOSSES[loss].discriminator(real @ d.weight, fake @ d.weight)
        torch.testing.assert_close(update.loss, wanted)
        assert update.log["score_real"].item() == pytest.approx((real @ d.weight).mean().item())
        assert update.log["score_fake"].item() == pytest.approx((fake @ d.weight).mean().item())
        update.loss.backward()
        assert g.weight.grad is None
        assert d.weight.grad.any()
        d.weight.grad = None
    with torch.no_grad():
        d.weight.mul_(-2)  # as its optimizer might
    update = next(steps)
    assert update.on == "g"
    fake, *real = d.seen[6:]
    assert all(torch.equal(x, source[2].x) for x in real)
    scores = (source[2].x @ d.weight).repeat(2) if real else None
    assert len(real) == LOSSES[loss].relative
    torch.testing.assert_close(update.loss, LOSSES[loss].generator(scores, fake @ d.weight))
    update.loss.backward()
    assert d.weight.grad is None
    assert g.weight.grad.any()
    assert d.weight.requires_grad
    assert [len(z) for z in g.asked] == [8, 8, 8, 16]
    assert len(torch.cat(g.asked).unique(dim=0)) == 40, "all noise is fresh"
    assert next(steps, None) is None
    assert next(data, None) is None


def test_penalties_add_up_and_their_passes_give_the_scores():
    """R3GAN's two, and one between: D is evaluated once at each of the three."""
    plain = game("least_squares")
    both = game("least_squares", penalty("real", 3), penalty("fake", 2), penalty("between", 1))
    without, update = (next(m.step(batches(16, 2))) for m in (plain, both))
    assert len(both.discriminator.seen) == 3
    torch.testing.assert_close(update.loss, without.loss + 6, msg="the slope of D is 1")
    assert update.log["penalty_between"].item() == pytest.approx(1)
    assert update.log["slope_fake"].item() == pytest.approx(1)
    assert (plain.double_backward, both.double_backward) == (False, True)
    with pytest.raises(ValueError, match="none twice"):
        game("hinge", penalty("real", 1), penalty("real", 2))


def test_weights_are_clipped_after_every_step_of_d():
    model = game("wasserstein", clip_weights=0.3, n_critic=2)
    steps = model.step(batches(8, 2))
    for _ in range(2):
        assert next(steps).on == "d"
        with torch.no_grad():
            model.discriminator.weight.copy_(torch.tensor([0.1, -5.0]))
    assert next(steps).on == "g"
    assert model.discriminator.weight.tolist() == pytest.approx([0.1, -0.3])


def test_players_share_nothing_and_samples_need_no_sampler():
    model = gan()
    players = model.players()
    assert list(players) == ["d", "g"]
    assert players["d"] == [model.discriminator.weight]
    assert players["g"] == [model.generator.weight]
    first, second = (next(batches(4, 2)).noise for _ in range(2))
    out = model.transport(model.prior(first), None, first, None)
    torch.testing.assert_close(out, second.normal(3) @ model.generator.weight.T)


# --- gan and wgan_gp, whose keys are older -------------------------------------------------------


def test_keys_of_gan_are_those_of_its_penalty():
    model = gan(r1=5.0)
    assert model.penalties == [penalty("real", 2.5)]
    assert gan().penalties == []
    assert model.losses is LOSSES["non_saturating"]
    log = next(model.step(batches(16, 2))).log
    real, fake = (x @ model.discriminator.weight for x in model.discriminator.seen)
    wanted = {"d_real": real.sigmoid().mean().item(), "d_fake": fake.sigmoid().mean().item()}
    assert {k: v.item() for k, v in log.items()} == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("at", "point"), [("interpolates", "between"), ("real", "real"), ("fake", "fake")]
)
def test_keys_of_wgan_gp_are_those_of_its_penalty(at, point):
    model = wgan_gp(at=at, weight=3.0, center=0.5, one_sided=True)
    assert model.penalties == [penalty(point, 3.0, 0.5, one_sided=True)]


def test_wgan_gp_scores_data_and_samples_in_one_batch():
    model = wgan_gp(center=0.0)
    update = next(model.step(batches(6, 2)))
    both, between = model.discriminator.seen
    assert (len(both), len(between)) == (12, 6)
    real, fake = (both @ model.discriminator.weight).chunk(2)
    torch.testing.assert_close(update.loss, (fake - real).mean() + 10)
    assert {k: v.item() for k, v in update.log.items()} == pytest.approx(
        {"wasserstein": (real - fake).mean().item(), "penalty": 1.0, "slope": 1.0}
    )


def test_held_out_value_needs_no_gradients_around_it():
    """What every.eval writes: the value of the game on data, with gradients only inside."""
    model = wgan_gp(center=0.5)
    with torch.no_grad():
        loss, log = model.loss(next(batches(8, 2)))
    assert not loss.requires_grad
    torch.testing.assert_close(-loss, log["wasserstein"] - 10 * log["penalty"])


def toy(**hardware: object) -> dict:
    """WGAN-GP on points: no batch normalization anywhere."""
    words = ["model=wgan_gp", "data=toy", "network=mlp_gan", "codec=points", "model.classes=none"]
    config = compose([*words, "optimizer=sgd", "hardware=cpu", "schedule.batch=16"])
    for network in config["network"].values():
        network.update(width=8, depth=2)
    config["network"]["generator"]["z_dim"] = 3
    config["hardware"] |= {"precision": "fp32", "threads": 1, **hardware}
    config["optimizer"]["lr"] = 0.02
    config["model"] |= {"n_critic": 3, "g_batches": 2}
    return config


def test_the_clock_counts_every_batch_that_was_drawn():
    built, trainer = run(toy(), 2)
    assert trainer.clock == Clock(step=2, images=2 * 3 * 16, drawn=3 * 16)
    lines = trainer.peek()
    assert len(lines["loss/d"]) == len(lines["wasserstein"]) == 6
    assert len(lines["loss/g"]) == 2
    assert built.model.clock is trainer.clock


def test_accumulation_and_ranks_change_nothing(tmp_path):
    whole = run(toy(), 2)[0].model
    for path in two_ranks(toy(), 2, tmp_path):
        other = build(toy()).model
        load_model(other, path)
        assert largest_difference(whole, other) < 1e-6
    assert largest_difference(whole, run(toy(micro_batch=4), 2)[0].model) < 1e-6


class Shifted(nn.Module):
    """Standard normal points, moved."""

    def __init__(self, *by: float) -> None:
        super().__init__()
        self.z_dim = len(by)
        self.by = nn.Parameter(torch.tensor(by))

    def forward(self, z: Tensor, y: Tensor | None) -> Tensor:
        return z + self.by


def test_the_estimate_of_a_trained_critic_is_the_distance_of_two_gaussians():
    """W1 of N(0, I) and N(m, I) is |m|.

    The best linear critic, of slope s in the direction of m, has s |m| - 10 (s - 1)^2 to gain, so
    s = 1 + |m| / 20: a penalty, unlike a constraint, lets the estimate exceed W1 by as much.
    """
    torch.manual_seed(0)
    critic = MLPDiscriminator(Spec((2,)), width=32, depth=2)
    model = wgan_gp(Shifted(1.2, -1.6), critic, n_critic=600)
    optimizer = torch.optim.Adam(critic.parameters(), 3e-3, (0.5, 0.9))
    logs = []
    for update in itertools.islice(model.step(batches(256, 2)), 600):
        update.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        logs.append(update.log)
    estimate, slope = (
        float(torch.stack([log[k] for log in logs[-200:]]).mean())
        for k in ("wasserstein", "slope")
    )
    assert slope == pytest.approx(1 + 2.0 / 20, abs=0.06)
    assert estimate == pytest.approx(2.0 * (1 + 2.0 / 20), rel=0.06)


# --- losses and penalties as keys ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["model=wgan_gp", "network=dcgan"], r"batch normalization.*network=dcgan_wgan"),
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


def test_a_critic_without_batch_normalization_fits():
    words = ["model=wgan_gp", "data.size=16", "network=dcgan", "hardware=cpu"]
    build(compose([*words, "network.discriminator.norm=none"]), meta=True)


def test_a_penalty_is_changed_by_a_word():
    words = ["model=r3gan", "model.penalties.0.weight=7", "hardware=cpu"]
    penalties = build(compose(words), meta=True).model.penalties
    assert [(p["at"], p["weight"]) for p in penalties] == [("real", 7), ("fake", 0.5)]
    added = "model.penalties=[{at: between, weight: 1, center: 1}]"
    (only,) = build(compose(["model=r3gan", added, "hardware=cpu"]), meta=True).model.penalties
    assert only == penalty("between", 1.0, 1.0)
