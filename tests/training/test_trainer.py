"""The loop against hand-written ones: lockstep, clipping, guards, averages."""

import contextlib
import copy
from functools import partial

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from genlab.config.compose import config_of
from genlab.core import registry
from genlab.core.contract import Batch, Model, Optimizer, Update
from genlab.core.ema import EMA, frozen
from genlab.core.errors import Diverged
from genlab.schedule.cosine import Cosine
from genlab.training.trainer import Player, Trainer


class Source:
    """Batches of ones; `micro` of them side by side."""

    def __init__(self, micro=1, batch=4):
        self.micro, self.batch, self.draws = micro, batch, 0

    def open(self, start):
        self.draws = 0
        return [self._one() for _ in range(self.micro)]

    def whole(self):
        while True:
            yield Batch(torch.ones(self.batch, 1), None, None)

    def _one(self):
        draws = 0
        while True:
            draws += 1
            self.draws = max(self.draws, draws)
            yield Batch(torch.ones(self.batch // self.micro, 1), None, None)


class Two(Model):
    """Two players, each one number; `steps` writes down who ran when."""

    def __init__(self, script=None):
        super().__init__()
        self.d, self.g = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        nn.init.ones_(self.d.weight)
        nn.init.ones_(self.g.weight)
        self.trace, self.script = [], script

    def players(self):
        return {"d": list(self.d.parameters()), "g": list(self.g.parameters())}

    def step(self, data):
        if self.script:
            yield from self.script(self, data)
            return
        x = next(data).x
        self.trace.append(("d", self.d.weight.detach().item()))
        yield Update(self.d(self.g(x)).mean(), on="d")
        self.trace.append(("g", self.d.weight.detach().item()))
        yield Update(-self.d(self.g(x)).mean(), on="g")


class SGD(Optimizer, torch.optim.SGD):
    fused = True


class AdamW(Optimizer, torch.optim.AdamW):
    fused = True


def trainer(model, micro=1, lr=0.1, clip=None, schedule=None, optimizer=SGD):
    optimizers = {}
    for name, params in model.players().items():
        optimizers[name] = optimizer(params, lr, fused=True)
        optimizers[name].clip = clip
    return Trainer(
        model,
        optimizers,
        Source(micro),
        schedule or (lambda images: 1.0),
        seed=0,
        autocast=contextlib.nullcontext,
    )


@pytest.mark.parametrize("micro", [1, 2, 4])
def test_all_micro_batches_see_d_after_its_step_and_nobody_steps_twice(micro):
    model = Two()
    trainer(model, micro).one_step()
    # L_d = d g: d <- 1 - 0.1; then L_g = -d g: g <- 1 + 0.1 d = 1.09
    assert model.trace == [("d", 1.0)] * micro + [("g", pytest.approx(0.9))] * micro
    assert float(model.d.weight) == pytest.approx(0.9)
    assert float(model.g.weight) == pytest.approx(1.09)


def test_clipping_is_the_norm_of_torch():
    weight = torch.tensor([[3.0, -4.0]])
    for clip in (1.0, 2.5, 100.0):
        model = Model()
        model.p = nn.Parameter(torch.zeros(1, 2))
        model.loss = lambda batch, m=model: (m.p * weight).sum()
        t = trainer(model, clip=clip, lr=1.0)
        t.one_step()
        by_hand = nn.Parameter(torch.zeros(1, 2))
        by_hand.grad = weight.clone()
        torch.nn.utils.clip_grad_norm_([by_hand], clip)
        torch.testing.assert_close(model.p.detach(), -by_hand.grad, rtol=1e-5, atol=0)
        assert t.read()["grad_norm/net"] == pytest.approx(5.0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("optimizer", [SGD, AdamW])
def test_a_step_that_is_not_finite_changes_nothing_and_is_named(bad, optimizer):
    def script(model, data):
        x = next(data).x
        factor = bad if model.clock.step == 3 else 1.0
        yield Update(model.d(x).mean() * factor, on="d")
        with frozen(model.d):
            yield Update(model.g(x).mean(), on="g")

    model = Two(script)
    t = trainer(model, optimizer=optimizer)
    for _ in range(3):
        t.one_step()
    before = model.d.weight.clone()
    t.one_step()
    assert torch.equal(model.d.weight, before)
    with pytest.raises(Diverged, match=r"'d' is not finite at step 3 \(learning rate 0.1\)"):
        t.read()


class Counts(Optimizer):
    """An optimizer of one's own: a moment that is replaced, not changed, and a number."""

    def __init__(self, params, lr=0.1):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                state["mean"] = 0.9 * state.get("mean", torch.ones_like(p)) + p.grad
                state["count"] = state.get("count", 0) + 1
                p.mul_(0.99).sub_(group["lr"] * state["mean"] / state["count"])


class Means(Counts):
    """The same without a number: all of its state is on the device."""

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                state["mean"] = 0.9 * state.get("mean", torch.ones_like(p)) + p.grad
                p.mul_(0.99).sub_(group["lr"] * state["mean"])


def optimizers():
    """Every registered optimizer, with what shows: momentum, weight decay and clipping."""
    for name in registry.names("optimizer"):
        node = OmegaConf.to_container(config_of("optimizer", name)) | {"weight_decay": 0.1}
        node |= {"momentum": 0.9} if "momentum" in node else {}
        for clip in (None, 0.5):
            yield pytest.param(
                partial(registry.build, "optimizer", {**node, "clip": clip}), id=f"{name}-{clip}"
            )
    yield Counts
    yield Means


@pytest.mark.parametrize("make", list(optimizers()))
@pytest.mark.parametrize("at_hand", [True, False])
@pytest.mark.parametrize("good", [0, 2])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_of_a_step_that_is_not_finite_nothing_is_left(make, at_hand, good, bad):
    def numbers():
        state = {k: optimizer.state[p] for k, p in enumerate(params) if optimizer.state.get(p)}
        return copy.deepcopy([p.detach() for p in params]), copy.deepcopy(state)

    def step(value):
        for p in params:
            p.grad = torch.full_like(p, value)
        player.step(torch.tensor(1.0), None)

    params = [nn.Parameter(torch.tensor([1.0, -2.0])), nn.Parameter(torch.ones(2, 2))]
    optimizer = make(params=params)
    player = Player("net", optimizer, False)
    player.at_hand = at_hand  # False: as on a GPU, where the flag is not looked at
    for i in range(good):
        step(1.0 + i)
    weights, state = numbers()
    step(bad)
    after, state_after = numbers()
    assert all(torch.equal(a, b) for a, b in zip(weights, after, strict=True))
    assert state.keys() == state_after.keys()
    for moments, moments_after in zip(state.values(), state_after.values(), strict=True):
        assert moments.keys() == moments_after.keys()
        for name, value in moments.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(moments_after[name])), name
    step(1.0)
    assert not torch.equal(params[0].detach(), weights[0]), "the next one is taken"
    assert all(p.isfinite().all() for p in params)


def test_a_bad_step_long_before_the_log_is_still_named():
    def script(model, data):
        yield Update(model.d(next(data).x).mean() / (model.clock.step != 70), on="d")

    t = trainer(Two(script))
    for _ in range(200):
        t.one_step()
    with pytest.raises(Diverged, match="step 70 "):
        t.read()


def test_a_loss_that_trains_nobody_is_an_error():
    def script(model, data):
        yield Update(model.d(next(data).x).mean(), on="g")

    with pytest.raises(RuntimeError, match="'g' reaches none of its parameters"):
        trainer(Two(script)).one_step()


def test_an_unknown_player_is_an_error():
    def script(model, data):
        yield Update(model.d(next(data).x).mean(), on="critic")

    with pytest.raises((RuntimeError, KeyError), match="critic"):
        trainer(Two(script)).one_step()


def test_micro_batches_that_disagree_are_an_error():
    seen = []

    def script(model, data):
        seen.append(1)
        yield Update(model.d(model.g(next(data).x)).mean(), on="d" if len(seen) == 1 else "g")

    with pytest.raises(RuntimeError, match="same player"):
        trainer(Two(script), micro=2).one_step()


def test_one_loss_for_two_players():
    def script(model, data):
        yield Update(
            model.d(next(data).x).mean() + model.g(torch.ones(1, 1)).mean(), on=("d", "g")
        )

    model = Two(script)
    trainer(model).one_step()
    assert float(model.d.weight) == float(model.g.weight) == pytest.approx(0.9)


def test_clock_counts_every_draw():
    def script(model, data):
        for _ in range(3):
            yield Update(model.d(next(data).x).mean(), on="d")

    t = trainer(Two(script))
    t.one_step()
    assert (t.clock.step, t.clock.images, t.clock.drawn) == (1, 12, 12)


def test_means_are_over_all_steps_since_the_last_line():
    def script(model, data):
        x = next(data).x
        yield Update(model.d(x).mean() * 0 + model.clock.step, on="d", log={"s": x.sum().detach()})

    t = trainer(Two(script))
    for _ in range(100):
        t.one_step()
    line = t.read()
    assert line["loss/d"] == pytest.approx(99 / 2)
    assert line["s"] == pytest.approx(4.0)
    t.one_step()
    assert t.read()["loss/d"] == pytest.approx(100)


def test_learning_rate_follows_the_schedule():
    schedule = Cosine(images=40, batch=4, warmup=8, floor=0.1)
    t = trainer(Two(), schedule=schedule)
    seen = []
    for _ in range(10):
        t.one_step()
        seen.append(t.players["d"].lr())
    import math

    done = [max(0.0, (4 * i - 8) / 32) for i in range(10)]
    wanted = [0.05, 0.1, *(0.1 * (0.1 + 0.45 * (1 + math.cos(math.pi * d))) for d in done[2:])]
    assert seen == pytest.approx(wanted)


def test_an_ema_is_the_average_of_its_formula():
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    start = net[0].weight.detach().clone()
    average = EMA(net, {"halflife": 100.0, "ramp": 0.0})
    with torch.no_grad():
        net[0].weight += 1
        net[1].running_mean += 5
    average.update(images=0, drawn=100)
    torch.testing.assert_close(average.copy[0].weight, start + 0.5)
    assert torch.equal(average.copy[1].running_mean, net[1].running_mean), "buffers are copied"
    average.update(images=100, drawn=200)
    torch.testing.assert_close(average.copy[0].weight, start + 1 - 0.5 * 0.25)
    assert average.tracks(net)
    assert not average.train().training
    assert not any(p.requires_grad for p in average.parameters())
    assert "_network" not in str(average.state_dict().keys())


def test_a_young_ema_forgets_its_start():
    net = nn.Linear(1, 1, bias=False)
    average = EMA(net, 1e6)
    with torch.no_grad():
        net.weight.fill_(7.0)
    average.update(images=0, drawn=64)
    # half-life 0.05 * 64 images: twenty half-lives have passed
    torch.testing.assert_close(average.copy.weight, net.weight, rtol=1e-4, atol=1e-4)


def test_frozen_blocks_weights_and_lets_inputs_through():
    net, x = nn.Linear(1, 1), torch.ones(1, 1, requires_grad=True)
    with frozen(net):
        net(x).sum().backward()
    assert net.weight.grad is None
    assert x.grad is not None
    assert net.weight.requires_grad


def fp16(model, **kwargs):
    t = trainer(model, **kwargs)
    other = Trainer(
        model,
        t.optimizers,
        Source(),
        lambda images: 1.0,
        seed=0,
        autocast=contextlib.nullcontext,
        fp16=True,
    )
    return other


@pytest.mark.parametrize("clip", [None, 0.5])
def test_a_loss_scale_changes_nothing_but_the_range(clip):
    plain, scaled = Two(), Two()
    trainer(plain, clip=clip).one_step()
    t = fp16(scaled, clip=clip)
    t.one_step()
    torch.testing.assert_close(scaled.d.weight, plain.d.weight)
    torch.testing.assert_close(scaled.g.weight, plain.g.weight)
    assert t.read()["scale/d"] == 2.0**16


def test_an_overflow_halves_the_scale_of_its_player_alone_and_is_survived():
    def script(model, data):
        x = next(data).x
        huge = 3e38 if model.clock.step == 1 else 1.0
        yield Update(model.d(x).mean() * huge, on="d")
        yield Update(model.g(x).mean(), on="g")

    model = Two(script)
    t = fp16(model)
    t.one_step()
    before = model.d.weight.clone()
    t.one_step()
    assert torch.equal(model.d.weight, before), "the step is left out"
    t.one_step()
    assert not torch.equal(model.d.weight, before)
    line = t.read()
    assert (line["scale/d"], line["scale/g"]) == (2.0**15, 2.0**16)
    again = fp16(Two(script))
    clock = {"step": t.clock.step, "images": t.clock.images}
    again.restore(clock, {n: p.state() for n, p in t.players.items()})
    assert again.players["d"].state() == {"scale": 2.0**15, "calm": 1}
    assert again.players["g"].state() == {"scale": 2.0**16, "calm": 3}


def test_two_players_on_one_loss_share_its_scale():
    def script(model, data):
        x = next(data).x
        yield Update(model.d(x).mean() + model.g(x).mean(), on=("d", "g"))

    model = Two(script)
    t = fp16(model)
    t.players["g"].scale.fill_(2.0)
    t.one_step()
    assert float(model.d.weight) == pytest.approx(0.9)
    assert float(model.g.weight) == pytest.approx(0.9)


def test_a_scale_at_its_floor_ends_the_run():
    def script(model, data):
        yield Update(model.d(next(data).x).mean() * float("inf"), on="d")

    t = fp16(Two(script))
    with pytest.raises(Diverged, match="bf16"):
        for _ in range(40):
            t.one_step()
        t.read()


class Looks(Two):
    """Writes down what it is shown before the first step."""

    def start(self, data):
        self.trace.append(("start", len(next(data).x), torch.is_grad_enabled()))


@pytest.mark.parametrize("micro", [1, 4])
def test_a_model_looks_at_the_whole_batch_once_before_the_first_step(micro):
    model = Looks()
    t = trainer(model, micro)
    t.one_step()
    t.one_step()
    assert model.trace[0] == ("start", 4, False)
    assert [words[0] for words in model.trace].count("start") == 1


def test_a_model_that_goes_on_does_not_look_again():
    model = Looks()
    t = trainer(model)
    t.restore({"step": 3, "images": 12}, {})
    t.one_step()
    assert "start" not in [words[0] for words in model.trace]
