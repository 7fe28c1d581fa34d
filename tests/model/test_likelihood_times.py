"""Times in proportion to the weight of the likelihood, against sums over fine grids of times."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from genlab.assemble.components import build
from genlab.config.compose import compose, digest
from genlab.core.contract import Batch
from genlab.core.gaussian_path import loss_weight
from genlab.core.schema import Predict
from genlab.model.likelihood_times import effective_share
from genlab.model.path import FIRST, PathModel
from tests.helpers.path_models import Given, model, process
from tests.helpers.paths import PATHS, SPEC, path

CONTINUOUS = list(PATHS)
DISCRETE = ["ddpm", "iddpm"]
U = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
CONSTANT: list[Predict] = ["eps", "score", "v", "F"]


def learner(name: str, predict: str, **keys: object) -> PathModel:
    given = process("cosine") if name == "iddpm" else path(name)
    keys = {"weight": "likelihood", "sd": 0.7, "predict": predict, **keys}
    return model("flow_matching", given, **keys)


def weights(ours: PathModel, t: Tensor, predict: Predict | None = None) -> Tensor:
    """The weight of the likelihood at t, by its formula."""
    wanted = predict or ours.prediction
    return loss_weight("likelihood", wanted, *ours.process.coefficients(t), ours.sd)


def grid(ours: PathModel) -> tuple[Tensor, Tensor]:
    """Times and how much of the uniform measure each stands for: all of them, or a fine grid."""
    if steps := ours.process.steps:
        t = torch.arange(1, steps + 1, dtype=torch.float64) / steps
        return t, torch.full_like(t, 1 / steps)
    t = fine(FIRST, 400_001)
    return t, widths(t)


def fine(low: float, points: int) -> Tensor:
    """From `low` to 1, closer and closer together towards both ends."""
    t = torch.linspace(np.log(low), 20, points, dtype=torch.float64).sigmoid()
    return low + (t - t[0]) / (t[-1] - t[0]) * (1 - low)


def widths(t: Tensor) -> Tensor:
    """What each of rising points stands for, by the trapezoid rule."""
    half = t.diff() / 2
    return torch.cat([half, half.new_zeros(1)]) + torch.cat([half.new_zeros(1), half])


@pytest.mark.parametrize("predict", CONSTANT)
@pytest.mark.parametrize("name", CONTINUOUS)
def test_quantiles_of_the_times(name, predict):
    ours = learner(name, predict)
    drawn = ours.times(Given(U.float()))
    assert drawn.min() >= FIRST and drawn.max() <= 1
    t, width = grid(ours)
    mass = (weights(ours, t) * width).cumsum(0) - weights(ours, t) * width / 2
    below = np.interp(drawn.log().numpy(), t.log().numpy(), (mass / mass[-1]).numpy())
    np.testing.assert_allclose(below, U.numpy(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("predict", CONSTANT)
@pytest.mark.parametrize("name", DISCRETE)
def test_each_time_of_a_discrete_path_is_drawn_as_often_as_it_weighs(name, predict):
    ours = learner(name, predict)
    t, _ = grid(ours)
    index = (ours.times(Given(U)) / t[0]).round().long() - 1
    share = torch.bincount(index, minlength=len(t)).double() / len(U)
    wanted = weights(ours, t) / weights(ours, t).sum()
    assert (share - wanted).abs().max() <= 1.01 / len(U)


@pytest.mark.parametrize("predict", [*CONSTANT, "x0", "velocity"])
@pytest.mark.parametrize("name", [*CONTINUOUS, *DISCRETE])
def test_the_loss_is_the_bound_without_bias(name, predict):
    """E of what is weighed at these times = E of the weight at uniform ones, for any error."""
    ours = learner(name, predict)
    u = fine(1e-9, 100_001)[:-1]
    x = torch.zeros(len(u), 2)
    on_path = ours.forward(Batch(x, None, Given(u, x)))
    t, width = grid(ours)
    for error in (lambda t: torch.ones_like(t), lambda t: t, lambda t: (8 * t).cos().square()):
        exact = (weights(ours, t) * error(t) * width).sum()
        found = (on_path.weight.double() * error(on_path.t.double()) * widths(u)).sum()
        torch.testing.assert_close(found, exact, rtol=1e-3, atol=0)


@pytest.mark.parametrize("predict", CONSTANT)
@pytest.mark.parametrize("name", [*CONTINUOUS, *DISCRETE])
def test_every_image_of_a_batch_counts(name, predict):
    """All weigh the same: the weight times what it is divided by is one constant."""
    ours = learner(name, predict)
    x = torch.zeros(len(U), 2)
    weight = ours.forward(Batch(x, None, Given(U, x))).weight
    torch.testing.assert_close(weight, weight[:1].expand_as(weight))


@pytest.mark.parametrize("predict", ["eps", "F"])
@pytest.mark.parametrize("name", [*CONTINUOUS, *DISCRETE])
def test_how_many_images_count_at_uniform_times(name, predict):
    """(E w)^2 / E w^2, where times below the earliest are that one."""
    ours, wanted = (learner(name, predict, density=d) for d in ("uniform", "likelihood"))
    t, width = grid(ours)
    if ours.process.steps is None:
        t, width = torch.cat([t[:1], t]), torch.cat([t[:1], width])
    w = weights(ours, t)
    exact = (w * width).sum().square() / (w.square() * width).sum()
    found = effective_share(ours.times, wanted.likelihood_times)
    assert found == pytest.approx(exact.item(), rel=0.15)


def test_at_lognormal_times_as_many_count_as_their_densities_say():
    """The weight, divided by the density of ln sigma, of all between the ends and of both ends."""
    location, scale = -1.0, 4.0
    ours = learner("edm", "eps", density="lognormal", location=location, scale=scale)
    wanted = learner("edm", "eps").likelihood_times
    log = torch.linspace(np.log(80 * FIRST), np.log(80), 100_001, dtype=torch.float64)
    chance = Normal(*torch.tensor([location, scale], dtype=torch.float64))
    mass = widths(log) * chance.log_prob(log).exp()
    mass[0] += chance.cdf(log[0])
    mass[-1] += 1 - chance.cdf(log[-1])
    w = (-log).exp()  # over uniform times; t = sigma / 80
    exact = (w * mass).sum().square() / (w.square() * mass).sum()
    assert effective_share(ours.times, wanted) == pytest.approx(exact.item(), rel=0.01)


def test_a_batch_of_which_hardly_an_image_counts_is_told_with_the_fix():
    few = learner("linear", "eps", density="uniform")
    (note,) = few.notes(128)
    assert "a batch of 128 images counts as 0.2," in note and "model.density=likelihood" in note
    ladder = model("score_sde", path("ve"), weight="likelihood", density="ladder")
    assert not ladder.notes(128), "its levels are those of the density"
    assert not learner("linear", "eps").notes(128)
    assert not learner("ve", "eps", density="uniform").notes(128)
    assert not learner("linear", "eps", weight="uniform").notes(128)


@pytest.mark.parametrize(
    ("words", "density"),
    [
        ("model=score_sde", "uniform"),
        ("model=score_sde model.weight=likelihood", "likelihood"),
        ("model=score_sde model.weight=likelihood model.density=uniform", "uniform"),
        ("model=score_sde model.density=auto", "uniform"),
        ("model=edm model.weight=likelihood", "lognormal"),
    ],
)
def test_a_config_says_which_density_auto_is(words, density):
    assert compose(words.split())["model"]["density"] == density


def test_auto_has_the_digest_of_what_it_is():
    auto, named = (compose(["model=ddpm", f"model.density={d}"]) for d in ("auto", "uniform"))
    assert digest(auto) == digest(named)
    assert model("ddpm", process("vp")).density == "uniform", "also where a YAML is built as it is"


def test_images_of_any_size_have_a_path():
    """The inverse of a path whose noise depends on the size of images."""
    shifted = path("shifted_cosine", SPEC, reference=[4, 32])
    ours = model("flow_matching", shifted, (1, 8, 8), weight="likelihood", predict="v")
    t = ours.times(Given(torch.tensor([0.0, 1 - 2**-24])))
    torch.testing.assert_close(t, torch.tensor([FIRST, 1.0]).double(), rtol=2e-3, atol=1e-9)


@pytest.mark.parametrize("words", ["model=ddpm", "model=flow_matching", "model=score_sde"])
def test_they_are_numbers_also_of_a_model_without_storage(words):
    ours = build(compose([words, "model.weight=likelihood", "hardware=cpu"]), meta=True).model
    assert isinstance(ours, PathModel)
    t = ours.times(Given(torch.tensor([0.0, 0.999])))
    assert 0 < t[0] < t[1] <= 1
    assert not [key for key in ours.state_dict() if "likelihood" in key]
