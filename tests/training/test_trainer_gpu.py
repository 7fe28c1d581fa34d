"""What only a GPU takes: steps that are taken back on the device, Adamax that counts there."""

import copy

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from genlab.config.compose import config_of
from genlab.core import registry
from genlab.core.spikes import BLOCK
from genlab.training.trainer import Limits, Player
from tests.helpers.gpu import CUDA, DEVICE, MARKS, without_a_sync
from tests.helpers.trainers import make, tiny_config

pytestmark = MARKS
SIZES = ((300,), (17, 5), (4, 3, 3, 3))


def player(name, device=DEVICE, clip=0.5):
    """A player of one optimizer with all that shows: momentum, weight decay, clipping."""
    generator = torch.Generator().manual_seed(0)
    params = [nn.Parameter(torch.randn(s, generator=generator).to(device)) for s in SIZES]
    node = OmegaConf.to_container(config_of("optimizer", name))
    node |= {"weight_decay": 0.1, "clip": clip, "lr": 1e-2}
    node |= {"momentum": 0.9} if "momentum" in node else {}
    made = Player("net", registry.build("optimizer", node, params=params), False)
    made.at_hand = False  # in a rehearsal, too, the flag is not looked at
    return made


def step(player, value=None, limits=None):
    """A step on gradients of this value, else on random ones."""
    generator = torch.Generator().manual_seed(len(player.optimizer.state))
    for p in player.params:
        grad = torch.randn(p.shape, generator=generator)
        p.grad = (grad if value is None else torch.full_like(grad, value)).to(p.device)
    player.step(torch.ones((), device=player.params[0].device), None, limits)


def numbers(player):
    state = player.optimizer.state
    return copy.deepcopy([(p.detach(), state.get(p, {})) for p in player.params])


def limits(norm):
    return Limits(*(torch.tensor(v, device=DEVICE) for v in (float("inf"), norm)), None)


@pytest.mark.parametrize("name", registry.names("optimizer"))
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e6], ids=["nan", "inf", "spike"])
def test_of_a_step_that_is_not_taken_nothing_is_left_on_the_device(name, bad):
    """Neither of one that is not finite nor of a spike; and nobody waits to learn which it was."""
    made = player(name)
    for _ in range(3):
        step(made)
    before = numbers(made)
    given = torch.full((), bad, device=DEVICE)
    for p in made.params:
        p.grad = given.expand_as(p).contiguous()
    loss, bounds = torch.ones((), device=DEVICE), limits(1e5)
    with without_a_sync():
        made.step(loss, None, bounds)
    for (weight, moments), (weight_after, moments_after) in zip(
        before, numbers(made), strict=True
    ):
        assert torch.equal(weight, weight_after)
        assert moments.keys() == moments_after.keys() and moments
        for key, value in moments.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(moments_after[key])), key
    step(made)
    assert not torch.equal(made.params[0], before[0][0]), "the next one is taken"
    assert all(p.isfinite().all() for p in made.params)


@pytest.mark.parametrize("name", registry.names("optimizer"))
def test_an_optimizer_goes_as_on_the_cpu(name):
    there, here = player(name), player(name, torch.device("cpu"))
    for _ in range(20):
        step(there)
        step(here)
    for a, b in zip(there.params, here.params, strict=True):
        torch.testing.assert_close(a.cpu(), b, rtol=1e-5, atol=1e-6)


def test_adamax_counts_its_steps_where_the_weights_are():
    made = player("adamax")
    step(made)
    assert all(g["capturable"] == CUDA for g in made.optimizer.param_groups)
    counts = [made.optimizer.state[p]["step"] for p in made.params]
    assert all(c.device.type == DEVICE.type and float(c) == 1 for c in counts)


@pytest.mark.parametrize("on_spike", ["warn", "skip"])
@pytest.mark.parametrize("model", ["glow", "gan"])
def test_a_training_by_adamax_waits_for_nothing(model, on_spike):
    words = [f"hardware={DEVICE.type}", "optimizer=adamax", f"hardware.on_spike={on_spike}"]
    _, trainer = make(tiny_config(model, *words, "schedule.images=100_000"))
    for _ in range(3):  # allocate, and make the moments
        trainer.one_step()
    with without_a_sync():
        for _ in range(BLOCK - 4):  # limits of spikes are read every BLOCK steps
            trainer.one_step()
    values = trainer.read()
    assert all(v == v for v in values.values())
