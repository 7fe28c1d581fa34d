"""What samplers ask of the data and the path before they draw."""

from __future__ import annotations

import pytest
import torch

import genlab
from genlab.assemble.components import build
from genlab.codec.dequantize import Dequantize
from genlab.codec.pixels import Pixels
from genlab.core.contract import Spec
from genlab.core.errors import ConfigError
from genlab.core.random import SampleNoise
from genlab.sampler.noise_levels import ends
from tests.helpers.gaussian_data import CLIPPED, sampler
from tests.helpers.paths import SPEC, path
from tests.helpers.runs import small, trained


@pytest.mark.parametrize("name", CLIPPED)
@pytest.mark.parametrize(("codec", "half"), [("dequantize", 0.5), ("pixels", 1.0)])
def test_clipped_estimates_lie_in_the_range_of_the_codec(name, codec, half):
    keys = {"sampler": name, "sampler.clip": True, "codec": codec}
    keys |= {"codec.half": half} if codec == "dequantize" else {}
    bound = build(small("flow_matching", "digits", **keys)).sampler
    noise = SampleNoise(0, range(2), "cpu")
    far = torch.tensor([-9.0, 9.0]).view(2, 1, 1, 1).expand(2, *SPEC.shape)
    out = bound(lambda x, t, y: far, noise.normal(*SPEC.shape), None, noise)
    assert torch.equal(out, far / 9 * half)


@pytest.mark.parametrize("codec", [lambda s: Dequantize(s, bits=3, half=0.7), Pixels])
def test_bounds_hold_every_byte_and_decode_to_the_first_and_the_last(codec):
    codec = codec(Spec((1, 16, 16)))
    low, high = codec.spec.bounds
    x = codec.encode(torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16), None)
    assert low <= x.min() and x.max() <= high
    ends = torch.stack([torch.full((1, 16, 16), v) for v in (low, high)])
    assert codec.decode(ends).flatten(1)[:, 0].tolist() == [0, 255]


def test_points_have_no_range_to_be_kept_in():
    with pytest.raises(ConfigError, match=r"points have none; use sampler.clip=false"):
        build(small("flow_matching", "toy", **{"sampler": "ddim", "sampler.clip": True}))


# --- Langevin --------------------------------------------------------------------------------


@pytest.mark.parametrize("process", ["ve", "edm", "linear", "vp", "ddpm"])
def test_a_chain_that_forgets_too_slowly_is_refused_and_what_is_advised_is_not(process):
    """Both numbers are the least that do: one less is refused too."""
    way = path(process)
    with pytest.raises(ConfigError, match="samples would be noise") as e:
        sampler("langevin", steps=10).check(way, SPEC)
    advice = dict(w.split("=") for w in str(e.value).split("; use ")[1].split(" or "))
    assert set(advice) == {"sampler.steps", "sampler.repeats"}
    for key, least in advice.items():
        word = key.removeprefix("sampler.")
        keys = {"steps": 10, "repeats": 5}
        sampler("langevin", **(keys | {word: int(least)})).check(way, SPEC)
        with pytest.raises(ConfigError):
            sampler("langevin", **(keys | {word: int(least) - 1})).check(way, SPEC)


def test_the_numbers_of_the_papers_pass():
    sampler("langevin", span=[0.01, 50.0]).check(path("ve"), SPEC)
    ncsn = {"steps": 10, "repeats": 100, "rate": 0.2, "span": [0.01, 1.0]}
    sampler("langevin", **ncsn).check(path("ve"), SPEC)
    sampler("langevin").check(path("ve"), SPEC)


@pytest.mark.parametrize("ratio", [1.1, 1.19, 1.21, 1.5])
def test_it_is_refused_where_a_long_chain_would_settle_at_twice_its_variance(ratio):
    """w = left (g^2 w - 1) + 1 settles at (1 - left) / (1 - left g^2), or nowhere."""
    left = (1 - 0.062) ** 10
    settles = (1 - left) / (1 - left * ratio**2) if left * ratio**2 < 1 else float("inf")
    sigmas = [50 / ratio**i for i in range(200) if 50 / ratio**i > 0.01]
    refused = False
    try:
        sampler("langevin", grid=sigmas).check(path("ve"), SPEC)
    except ConfigError as e:
        refused = "sampler.repeats=" in str(e) and "sampler.steps=" not in str(e)
    assert refused == (settles > 2)


# --- levels ----------------------------------------------------------------------------------


def test_a_list_of_levels_is_recorded_as_so_many_steps(tmp_path_factory):
    run = trained(tmp_path_factory, "flow_matching")
    words = ["sampler=euler", "sampler.steps=50", "sampler.grid=[9,3,1]"]
    pipeline = genlab.load(run, overrides=words)
    assert pipeline.record()["sampler"]["steps"] == 3
    pipeline.sampler.recount()
    pipeline.sample(1)
    assert pipeline.sampler.evaluations == 3


@pytest.mark.parametrize("kind", ["uniform", "karras", "geometric", "list"])
def test_a_discrete_path_has_no_more_levels_than_it_learned(kind):
    way = path("ddpm", steps=100)
    low, high = ends(way, None)
    sigmas = torch.linspace(high, low, 101, dtype=torch.float64).tolist()
    ours = sampler("euler", steps=101, grid=sigmas if kind == "list" else kind)
    with pytest.raises(ConfigError, match="use at most 100"):
        ours.check(way, SPEC)
