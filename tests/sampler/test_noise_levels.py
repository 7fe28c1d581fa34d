"""The noise levels samplers visit, and those they refuse."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from genlab.assemble.components import build
from genlab.core.errors import ConfigError
from genlab.core.gaussian_path import NoiseLevel, TruncatedPath
from genlab.core.random import SampleNoise
from genlab.sampler.noise_levels import grid
from tests.helpers.gaussian_data import SD, Gaussian, last, sampler
from tests.helpers.paths import PATHS, path
from tests.helpers.runs import small


def visited(process, steps=5, kind="uniform", span=None, rho=7.0) -> list[NoiseLevel]:
    return grid(process, steps, kind, span, rho)


def sigmas(*args, **keys) -> list[float]:
    return [level.sigma for level in visited(*args, **keys)]


def times(*args, **keys) -> list[float]:
    return [level.t for level in visited(*args, **keys)]


@pytest.mark.parametrize("kind", ["auto", "uniform", "quadratic", "geometric", "karras"])
@pytest.mark.parametrize("process", [*PATHS, "ddpm"])
def test_levels_fall_from_the_start_to_the_datum(process, kind):
    found = visited(path(process), 6, kind)
    assert len(found) == 7
    assert found[-1] == (0, 1, 0, 0, 0)
    assert all(a.t > b.t for a, b in pairwise(found[:-1]))
    assert all(a.sigma > b.sigma for a, b in pairwise(found))
    assert all(level.b > 0 for level in found[:-1])
    for level in found[:-1]:
        t = torch.tensor([level.t], dtype=torch.float64)
        assert level[1:] == tuple(c.item() for c in path(process).coefficients(t))


def test_karras_grid_is_that_of_the_paper():
    """Its ends are 80 and .002 to the bit, and then the datum."""
    n, rho = 18, 7
    low, high = 0.002, 80.0
    wanted = [
        (high ** (1 / rho) + i / (n - 1) * (low ** (1 / rho) - high ** (1 / rho))) ** rho
        for i in range(n)
    ]
    found = sigmas(path("edm"), n, "karras")
    assert found == pytest.approx([*wanted, 0], rel=1e-12)
    assert (found[0], found[-2], found[-1]) == (80.0, 0.002, 0.0)
    assert sigmas(path("linear"), n, "karras")[:-1] == pytest.approx(wanted, rel=1e-9)


def test_a_path_that_is_shorter_bounds_the_grid():
    assert sigmas(path("ve"), 3, "karras")[::2] == pytest.approx([50, 0.01])
    assert sigmas(path("ddpm"), 3, "karras")[2] == pytest.approx(0.0100005, rel=1e-5)
    assert sigmas(path("ddpm"), 2, "karras", [0.02, 100.0]) == pytest.approx([100, 0.02, 0])
    assert sigmas(TruncatedPath(path("linear"), 0.5), 2, "geometric")[0] == pytest.approx(1)


def test_geometric_is_the_ladder_of_the_exploding_path():
    assert sigmas(path("edm"), 4, "geometric", [0.01, 10.0]) == pytest.approx(
        [10, 1, 0.1, 0.01, 0]
    )
    ladder = sigmas(path("ve"), 10)
    assert ladder == pytest.approx(sigmas(path("ve"), 10, "geometric"))


def test_uniform_and_quadratic_times():
    assert times(path("linear"), 4) == [1, 0.75, 0.5, 0.25, 0]
    assert times(path("linear"), 4, "quadratic") == [1, 0.5625, 0.25, 0.0625, 0]
    assert times(path("ve"), 3) == [1, 0.5, 0, 0], "it never gets to the datum by itself"
    assert times(path("linear"), 3, span=[0.25, 4.0]) == pytest.approx([0.8, 0.5, 0.2, 0])


def test_a_discrete_path_is_visited_at_its_own_times():
    ddpm = path("ddpm")
    assert [t * 1000 for t in times(ddpm, 4)] == [1000, 750, 500, 250, 0]
    assert [round(t * 1000, 9) for t in times(ddpm, 1000)] == list(range(1000, -1, -1))
    assert all(t * 1000 == pytest.approx(round(t * 1000)) for t in times(ddpm, 7))
    quadratic = [round(t * 1000) for t in times(ddpm, 10, "quadratic")]
    assert quadratic == [round(1000 * (1 - i / 10) ** 2) for i in range(11)]
    cut = TruncatedPath(ddpm, 0.6)
    assert [round(t * 600) for t in times(cut, 3)] == [600, 400, 200, 0]


@pytest.mark.parametrize(
    ("process", "keys", "words"),
    [
        ("ddpm", {"steps": 1001}, ["sampler.steps=1001", "at most 1000"]),
        ("ddpm", {"steps": 500, "kind": "quadratic"}, ["quadratic grid", "sampler.grid=uniform"]),
        ("ve", {"kind": [60.0, 1.0]}, ["sigma=60", "0.01 to 50", "sampler.through"]),
        ("ve", {"kind": "karras", "span": [0.001, 40.0]}, ["sigma=0.001", "sampler.span"]),
        ("ve", {"span": [0.1, 51.0]}, ["sigma=51", "sampler.span"]),
        ("ddpm", {"kind": [1.0, 0.0099]}, ["sigma=0.0099"]),
        ("ve", {"kind": [1.0, 0.01, 0.009999]}, ["must fall"]),
        ("linear", {"kind": [1.0, 1.0]}, ["must fall"]),
        ("linear", {"kind": []}, ["must fall"]),
        ("linear", {"span": [2.0, 1.0]}, ["sampler.span", "least and the largest"]),
        ("linear", {"span": [2.0]}, ["sampler.span", "least and the largest"]),
        ("linear", {"kind": "karras", "span": [1.0, 2.0, 3.0]}, ["sampler.span"]),
    ],
)
def test_what_a_path_does_not_have_is_refused(process, keys, words):
    with pytest.raises(ConfigError) as e:
        visited(path(process), **keys)
    assert all(word in str(e.value) for word in words), e.value


def test_one_step_of_each_grid():
    for kind in ("uniform", "quadratic", "geometric", "karras", [3.0]):
        first, datum = visited(path("linear"), 1, kind)
        assert datum.sigma == 0 < first.sigma
    assert visited(path("linear"), 1)[0].sigma == math.inf


def test_karras_grid_has_the_root_it_is_asked_for():
    """rho = 2 makes roots of sigma equally spaced, rho = 1 sigma itself."""
    for rho, inner in ((2.0, [9, 4]), (1.0, [11, 6])):
        found = sigmas(path("edm"), 4, "karras", [1.0, 16.0], rho=rho)
        assert found == pytest.approx([16, *inner, 1, 0])


@pytest.mark.parametrize("name", ["ancestral", "ddim", "dpmpp_2m", "euler", "heun"])
def test_as_they_are_samplers_keep_the_variance_on_the_path_of_edm(name):
    """Fifty first-order steps lose a fifteenth; times equal in sigma lose a half and more."""
    noise = SampleNoise(0, range(1), "cpu")  # one image of 4000 numbers
    x = last(sampler(name)(Gaussian(path("edm")), noise.normal(4000).double(), path("edm"), noise))
    assert x.std().item() == pytest.approx(SD, rel=0.1)


@pytest.mark.parametrize(
    ("process", "keys", "levels"),
    [("ddpm", {}, 1000), ("cosine", {"steps": 30}, 30), ("vp", {}, 1000)],
)
def test_ancestral_visits_all_levels_unless_told(process, keys, levels):
    assert len(sampler("ancestral").noise_levels(path(process, **keys))) == levels + 1


def test_ddpm_draws_on_the_levels_a_prediction_of_the_noise_has():
    """Of cosine's thousand, 997: the other three lie above sigma = 200."""
    bound = build(small("ddpm", "digits", **{"process": "cosine", "sampler.steps": None})).sampler
    assert len(bound.sampler.noise_levels(bound.process)) == 998
