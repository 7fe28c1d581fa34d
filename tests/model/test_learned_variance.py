"""A learned variance reaches the samples: by hand, by what is exact, and to the end."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import numpy as np
import pytest
import torch

import genlab
from genlab.assemble.bound_sampler import PathSampler
from genlab.assemble.components import build
from genlab.cli.main import main
from genlab.config.compose import compose
from genlab.core.errors import ConfigError
from tests.helpers.gaussian_data import SD, Gaussian, Impulses, last, sampler
from tests.helpers.path_models import Given, model, process
from tests.helpers.paths import path
from tests.helpers.runs import trained

# --- a step ----------------------------------------------------------------------------------


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("steps", [1000, 4])
def test_a_step_by_the_table_of_ddpm(steps, clip):
    """Nichol and Dhariwal, eq. 15 and section 4: betas of the levels that are visited."""
    v = torch.tensor([[0.0, 1.0, 0.3], [-0.2, 1.4, 0.5]])
    datum = torch.tensor([[0.5, -3.0, 1.5], [0.1, 0.2, -0.9]])
    start, *draws = torch.randn(steps, 2, 3)
    asked = []

    def denoiser(x, t):
        asked.append(t[0].item())
        return datum, v

    ours = sampler("ancestral", steps=steps, variance="learned", clip=clip)
    states = list(ours(denoiser, start, path("ddpm"), Given(*draws)))
    x0 = (datum.clamp(-1, 1) if clip else datum).double()
    bar = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)
    visited = torch.linspace(1000, 0, steps + 1).round().long()[:-1]
    assert asked == pytest.approx((visited / 1000).tolist())
    x = start.double() * (1 - bar[-1]).sqrt()
    for i, (t, s) in enumerate(pairwise(visited)):
        high, low = bar[t - 1], bar[s - 1]
        beta = 1 - high / low
        tilde = (1 - low) / (1 - high) * beta
        mean = (low.sqrt() * beta * x0 + (1 - beta).sqrt() * (1 - low) * x) / (1 - high)
        x = mean + (0.5 * (v * beta.log() + (1 - v) * tilde.log())).exp() * draws[i]
        if i in (0, 1, 2, steps - 2):
            torch.testing.assert_close(states[i + 1].double(), x, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(states[-1].double(), x0, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["ddpm", "vp", "linear"])
def test_with_the_right_variance_few_steps_have_the_variance_of_the_data(name):
    """x_s given x_t is normal for Gaussian data, so a chain of any stride can be exact.

    Its variance is that of the joint normal of x_s and x_t; v puts it between the bounds.
    """
    here = path(name)
    ours = sampler("ancestral", steps=5, variance="learned", span=[0.02, 20.0])
    visited = ours.noise_levels(here)
    denoiser, pending = Gaussian(here), pairwise(visited[:-1])

    def predict_variance(x, t):
        x0 = denoiser(x, t)
        if (pair := next(pending, None)) is None:
            return x0, torch.zeros_like(x)
        high, low = pair
        alpha = high.a / low.a
        own = [(level.a * SD) ** 2 + level.b**2 for level in pair]
        right = own[1] - (alpha * own[1]) ** 2 / own[0]
        large = high.b**2 - (alpha * low.b) ** 2
        small_ = large * low.b**2 / high.b**2
        v = math.log(right / small_) / math.log(large / small_)
        return x0, torch.full_like(x, v)

    rows = 7
    noise = Impulses(rows)
    # from the true marginal rather than from b z
    root = math.hypot(visited[0].a * SD, visited[0].b) / visited[0].b
    start = torch.zeros(rows, 1, dtype=torch.float64)
    start[0] = root
    states = list(ours(predict_variance, start, here, noise))
    influence = states[-2] - states[-2][-1]
    low = visited[-2]
    wanted = (low.a * SD) ** 2 + low.b**2
    assert influence.square().sum().item() == pytest.approx(wanted, rel=1e-6)


# --- a model ---------------------------------------------------------------------------------


def test_one_evaluation_gives_both_and_counts_once():
    ours = model("ddpm", process("vp"), variance="learned")
    fixed = model("ddpm", process("vp"))
    assert ours.learned_variance and not fixed.learned_variance
    asked, forward = [], ours.net.forward
    ours.net.forward = lambda x, t, y: asked.append(t) or forward(x, t, y)
    draws = torch.randn(5, 3, 2)
    bound = PathSampler(sampler("ancestral", steps=5, variance="learned"), None, ours.process)
    with torch.no_grad():
        drawn = ours.transport(draws[0], None, Given(*draws[1:]), bound)
    assert len(asked) == bound.evaluations == 5

    @torch.no_grad()
    def both(x, t):
        return ours.predict_variance(x, t, None)

    wanted = last(bound.sampler(both, draws[0], ours.process, Given(*draws[1:])))
    torch.testing.assert_close(drawn, wanted)


LEARNED = ["model=ddpm", "model.variance=learned", "network.net.outputs=2"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["model=flow_matching", "sampler=ancestral"], ["'flow_matching' here learns none"]),
        (["model=ddpm"], ["'ddpm' here learns none", "variance=small"]),
        ([*LEARNED, "sampler.through=vp"], ["sampler.through=null", "variance=small"]),
        ([*LEARNED, "guidance.scale=2"], ["guidance=cfg", "guidance.scale=1", "variance=small"]),
        ([*LEARNED, "guidance.scale=0"], ["guidance.scale=1"]),
        ([*LEARNED, "guidance=upsample"], ["guidance=upsample", "guidance=none"]),
    ],
)
def test_what_has_no_learned_variance_is_refused_before_training(words, said):
    config = compose([*words, "sampler.variance=learned", "hardware=cpu"])
    with pytest.raises(ConfigError) as error:
        build(config, meta=True)
    assert len(error.value.problems) == 1
    assert all(part in error.value.problems[0] for part in said), error.value.problems


@pytest.mark.parametrize("guidance", ["none", "cfg"])
def test_plain_guidance_is_allowed(guidance):
    words = [*LEARNED, "sampler.variance=learned", f"guidance={guidance}", "hardware=cpu"]
    build(compose(words), meta=True)


# --- to the end ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    keys = {"model.variance": "learned", "network.net.outputs": 2, "sampler.variance": "learned"}
    return trained(tmp_path_factory, "ddpm", **keys)


def test_a_run_samples_with_its_learned_variance(run):
    few = ["sampler.steps=4"]
    plain = genlab.load(run, overrides=[*few, "sampler.variance=small"]).sample(3)
    pipeline = genlab.load(run, overrides=few)
    found = pipeline.sample(3)
    assert found.shape == plain.shape
    assert (found != plain).any()
    assert main(["sample", f"run={run}", "name=four", "n=3", *few]) == 0
    record = json.loads((run / "samples" / "four" / "sample.json").read_text())
    assert record["evaluations"] == 4


def test_a_run_refuses_what_changes_its_estimates(run):
    with pytest.raises(ConfigError, match=r"guidance\.scale=1"):
        genlab.load(run, overrides=["guidance.scale=2"])
    images = np.zeros((1, 1, 8, 8), np.uint8)
    with pytest.raises(ConfigError, match=r"task=edit .* sampler\.variance=small"):
        genlab.load(run).edit(images, strength=0.5)
    few = ["sampler.variance=small", "sampler.steps=4"]
    assert genlab.load(run, overrides=few).edit(images, strength=0.5)[0].shape == (1, 1, 1, 8, 8)


@pytest.mark.parametrize("recipe", ["cifar10/nichol2021", "fashion_mnist/ddpm_learned"])
def test_the_recipes_draw_with_it(recipe):
    assert compose([f"experiment={recipe}"])["sampler"]["variance"] == "learned"
