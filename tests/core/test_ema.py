"""Averages of networks against sums over the weights they have seen."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from genlab.core.contract import Model
from genlab.core.ema import EMA, blend, gamma_of, make_ema, std_of
from genlab.core.schema import Average, coerce

WIDTH = 64
Floats = NDArray[np.float64]


def walk(steps: int, seed: int = 0) -> tuple[Floats, list[int]]:
    """Weights [steps + 1, WIDTH] of a random walk, far from 0, and images of each step."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(steps + 1, WIDTH)).cumsum(0) / steps**0.5 + 5
    return weights, rng.integers(1, 9, steps).tolist()


def tracked(weights: Floats, drawn: list[int], ema: Average) -> EMA:
    """An EMA that followed weights[0], then one step to each of the others."""
    *_, (_, average) = followed(weights, drawn, ema)
    return average


def followed(weights: Floats, drawn: list[int], ema: Average) -> Iterator[tuple[int, EMA]]:
    """The images so far and the EMA after every step."""
    net = nn.Linear(WIDTH, 1, bias=False).double()
    rows = torch.from_numpy(weights)
    net.weight.data.copy_(rows[0])
    average = EMA(net, ema)
    images = 0
    for row, n in zip(rows[1:], drawn, strict=True):
        net.weight.data.copy_(row)
        average.update(images, n)
        images += n
        yield images, average


def values(network: nn.Module) -> Floats:
    return network.weight.detach().numpy()[0].copy()


def power(weights: Floats, drawn: list[int], gamma: float) -> Floats:
    """Integral of s^gamma w(s) by the midpoint rule, w(s) being what the step over s made."""
    ends = np.concatenate([[0], np.cumsum(drawn)])
    fine = (np.arange(4000) + 0.5) / 4000
    shares = np.array(
        [((a + (b - a) * fine) ** gamma).mean() * (b - a) for a, b in pairwise(ends)]
    )
    return shares @ weights[1:] / shares.sum()


# --- each kind against its sum -------------------------------------------------------------------


def test_a_constant_decay_counts_steps():
    weights, drawn = walk(40)
    n, d = len(drawn), 0.93
    shares = np.array([d**n] + [(1 - d) * d ** (n - i) for i in range(1, n + 1)])
    assert shares.sum() == pytest.approx(1)
    found = values(tracked(weights, drawn, {"decay": d}).copy)
    np.testing.assert_allclose(found, shares @ weights, rtol=1e-13)
    other = tracked(weights, [8 * k for k in drawn], {"decay": d})
    assert np.array_equal(found, values(other.copy)), "whatever the batch"


@pytest.mark.parametrize("ramp", [0.0, 0.05, 0.3])
def test_a_half_life_counts_images(ramp):
    weights, drawn = walk(40)
    ends = np.cumsum(drawn)
    # how many half-lives each step took
    lives = [k / (min(25.0, ramp * t) if ramp else 25.0) for k, t in zip(drawn, ends, strict=True)]
    later = np.concatenate([np.cumsum(lives[::-1])[::-1], [0]])
    shares = np.diff(np.exp2(-later), prepend=0)
    found = values(tracked(weights, drawn, {"halflife": 25.0, "ramp": ramp}).copy)
    np.testing.assert_allclose(found, shares @ weights, rtol=1e-13)


def test_a_plain_number_is_a_half_life_with_a_ramp_of_a_twentieth():
    weights, drawn = walk(40)
    plain = values(tracked(weights, drawn, 25.0).copy)
    assert np.array_equal(plain, values(tracked(weights, drawn, {"halflife": 25.0}).copy))
    full = {"halflife": 25.0, "ramp": 0.05}
    assert np.array_equal(plain, values(tracked(weights, drawn, full).copy))


@pytest.mark.parametrize("std", [0.02, 0.05, 0.1, 0.25])
def test_a_power_function_is_the_integral_of_its_profile(std):
    weights, drawn = walk(60)
    found = values(tracked(weights, drawn, {"std": [std]}).copy)
    np.testing.assert_allclose(found, power(weights, drawn, gamma_of(std)), rtol=1e-5)


def test_several_averages_are_those_that_were_alone():
    weights, drawn = walk(20)
    both = tracked(weights, drawn, {"std": [0.05, 0.1]})
    assert both.stds == (0.05, 0.1)
    for std, copy in zip(both.stds, both.averages, strict=True):
        alone = tracked(weights, drawn, {"std": [std]})
        assert np.array_equal(values(copy), values(alone.copy))


@pytest.mark.parametrize("ema", [30.0, {"decay": 0.9}, {"std": [0.05, 0.1]}])
def test_buffers_are_copied(ema):
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = EMA(net, ema)
    for images in (0, 8):
        net(torch.randn(8, 2))
        average.update(images, 8)
    for copy in average.averages:
        assert torch.equal(copy[1].running_mean, net[1].running_mean)
        assert copy[1].num_batches_tracked == 2
        assert not copy.training and not any(p.requires_grad for p in copy.parameters())


def test_the_names_of_one_average_are_those_of_older_checkpoints():
    for ema in (50.0, {"decay": 0.9}, {"std": [0.1]}):
        assert list(EMA(nn.Linear(2, 1), ema).state_dict()) == ["copy.weight", "copy.bias"]
    names = list(EMA(nn.Linear(2, 1, bias=False), {"std": [0.1, 0.2]}).state_dict())
    assert names == ["copy.weight", "others.0.weight"]
    assert make_ema(nn.Linear(2, 1), 0) is None


# --- which one samples are drawn from ------------------------------------------------------------


class Holder(Model):
    def __init__(self, **averages: Average) -> None:
        super().__init__()
        self.net = nn.Linear(1, 1)
        for name, ema in averages.items():
            self.add_module(name, EMA(self.net, ema, target=name == "target"))


def test_samples_are_drawn_from_the_average_that_is_no_target():
    model = Holder(target={"decay": 0.5}, ema={"std": [0.05, 0.1]})
    assert model.drawn_from(model.net) is model.net
    model.weights = "ema"
    assert model.drawn_from(model.net) is model.ema.copy
    assert model.drawn_from(nn.Linear(1, 1)) is not model.ema.copy
    model.ema.rebuild(0.07, {n: p + 1 for n, p in model.ema.copy.named_parameters()})
    model.weights = 0.07
    rebuilt = model.drawn_from(model.net)
    assert torch.equal(rebuilt.weight, model.ema.copy.weight + 1)
    assert not any("rebuilt" in name for name in model.state_dict())


def test_two_averages_to_draw_from_are_refused():
    model = Holder(ema=10.0, other=20.0)
    model.weights = "ema"
    with pytest.raises(RuntimeError, match="make one of them a target"):
        model.drawn_from(model.net)


def test_targets_move_with_the_other_averages():
    model = Holder(target={"decay": 0.0}, ema={"decay": 0.5})
    start = model.net.weight.detach().clone()
    model.net.weight.data += 1
    model.clock = type("Clock", (), {"images": 0, "drawn": 4})()
    model.end_step({})
    torch.testing.assert_close(model.target.copy.weight, start + 1)
    torch.testing.assert_close(model.ema.copy.weight, start + 0.5)


# --- profiles ------------------------------------------------------------------------------------

S = (np.arange(200_000) + 0.5) / 200_000


def profile(std: float, t: float) -> Floats:
    gamma = gamma_of(std)
    return np.where(t >= S, (gamma + 1) * S**gamma / t ** (gamma + 1), 0)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 3.0, 6.94, 16.97, 200.0])
def test_the_relative_deviation_is_that_of_the_profile(gamma):
    p = (gamma + 1) * S**gamma
    mean = (p * S).mean()
    assert std_of(gamma) == pytest.approx((p * (S - mean) ** 2).mean() ** 0.5, rel=1e-5)


@pytest.mark.parametrize("std", [0.001, 0.05, 0.1, 0.2, 0.288])
def test_gamma_is_the_root_of_the_cubic(std):
    gamma = gamma_of(std)
    assert std_of(gamma) == pytest.approx(std, rel=1e-12)
    cubic = [1, 7, 16 - std**-2, 12 - std**-2]
    assert gamma == pytest.approx(np.roots(cubic).real.max(), rel=1e-9)


def test_the_exponents_of_the_paper():
    assert (gamma_of(0.05), gamma_of(0.1)) == pytest.approx((16.97, 6.94), abs=0.005)


@pytest.mark.parametrize("std", [0.0, -0.1, 0.29, float("nan")])
def test_a_deviation_no_profile_has_is_refused(std):
    with pytest.raises(ValueError, match="relative std"):
        gamma_of(std)


@pytest.mark.parametrize("std", [0.03, 0.07, 0.15])
def test_what_is_left_over_is_the_distance_of_the_profiles(std):
    kept = [(s, t) for t in (0.4, 0.7, 1.0) for s in (0.05, 0.1)]
    shares, residual = blend(std, 500, [(s, 500 * t) for s, t in kept])
    wanted = profile(std, 1.0)
    found = sum(x * profile(s, t) for x, (s, t) in zip(shares.tolist(), kept, strict=True))
    assert float(shares.sum()) == pytest.approx(1, abs=1e-12)
    assert residual == pytest.approx(
        (((found - wanted) ** 2).mean() / (wanted**2).mean()) ** 0.5, rel=1e-3
    )
    rng = np.random.default_rng(0)
    for _ in range(20):  # no other shares that sum to 1 come nearer
        step = rng.normal(size=len(kept)) * 0.02
        other = found + sum(
            x * profile(s, t) for x, (s, t) in zip(step - step.mean(), kept, strict=True)
        )
        assert ((other - wanted) ** 2).mean() > ((found - wanted) ** 2).mean()


# --- what `ema` may be ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (0, 0.0),
        (50_000, 50_000.0),
        ({"halflife": 5}, {"halflife": 5.0, "ramp": 0.05}),
        ({"halflife": 5, "ramp": 0}, {"halflife": 5.0, "ramp": 0.0}),
        ({"decay": 0}, {"decay": 0.0}),
        ({"std": [0.1]}, {"std": [0.1]}),
    ],
)
def test_averages_a_config_may_name(value, wanted):
    assert coerce(value, "Average") == wanted


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (-1, "a half-life in images >= 0"),
        (True, "a half-life in images >= 0"),
        ("0.9", "{decay: 0.9999}"),
        (None, "{decay: 0.9999}"),
        ([0.1], "{std: "),
        ({}, "{std: "),
        ({"halflive": 3}, "{halflife: "),
        ({"decay": 0.9, "std": [0.1]}, "{decay: "),
        ({"decay": 1}, "a number >= 0 and below 1"),
        ({"halflife": 0}, "{halflife: ...} with a finite number > 0"),
        ({"halflife": 5, "ramp": -1}, "{ramp: ...} with a finite number >= 0"),
        ({"std": 0.1}, "{std: [...]}"),
        ({"std": []}, "{std: [...]}"),
        ({"std": [0.1, 0.1]}, "none twice"),
        ({"std": [0.3]}, "at most 0.288"),
    ],
)
def test_averages_a_config_may_not_name(value, says):
    with pytest.raises(ValueError) as e:
        coerce(value, "Average")
    assert says in str(e.value)
