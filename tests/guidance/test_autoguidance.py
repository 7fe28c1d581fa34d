"""Guidance by a weaker run: its formula on any path, what is recorded, and what is refused."""

from __future__ import annotations

import hashlib
import json
import math
import shutil

import numpy as np
import pytest
import torch

import genlab
from genlab.assemble.components import build
from genlab.cli.main import main
from genlab.config.compose import compose
from genlab.core.errors import CheckpointError, ConfigError
from genlab.core.gaussian_path import change_path
from genlab.evaluation.verb import of_run
from genlab.sampling.pipeline import Pipeline
from tests.helpers.runs import small, trained


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory, "flow_matching")


@pytest.fixture(scope="module")
def weaker(tmp_path_factory):
    """Half as long, on another path, predicting something else."""
    keys = {"process": "trig", "model.predict": "x0", "schedule.images": 32, "seed": 3}
    return trained(tmp_path_factory, "flow_matching", **keys, **{"every.checkpoint": 16})


def guided(run, weaker, *words):
    more = ["guidance=autoguidance", f"guidance.run={weaker}", *words]
    return genlab.load(run, overrides=["sampler=euler", "sampler.steps=3", *more])


def state(sigma: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    y = torch.tensor([0, 7, 3])
    return torch.randn(3, 1, 8, 8, generator=g), torch.full((3,), sigma / (1 + sigma)), y


@pytest.mark.parametrize("sigma", [0.05, 1.0, 20.0])
def test_the_estimate_leads_away_from_that_of_the_weaker_run(run, weaker, sigma):
    """On the linear path; the weaker run is asked on its own, the circle."""
    pipeline = guided(run, weaker, "guidance.scale=2.5")
    other = genlab.load(weaker)
    x, t, y = state(sigma)
    a, phi = 1 / (1 + sigma), math.atan(sigma)
    with torch.no_grad(), pipeline.using("ema"), other.using("ema"):
        there = torch.full_like(t, phi * 2 / math.pi)
        weak = other.model.denoise(x * math.cos(phi) / a, there, y)
        own = pipeline.model.denoise(x, t, y)
        guidance = pipeline.sampler.guidance
        got = guidance(pipeline.model.denoise, y, pipeline.model.process)(x, t)
    assert not torch.allclose(own, weak, atol=1e-3)
    torch.testing.assert_close(got, weak + 2.5 * (own - weak), rtol=1e-4, atol=1e-4)


def test_followed_on_a_third_path_it_is_the_same_estimate(run, weaker):
    pipeline = guided(run, weaker, "sampler.through=edm")
    x, t, y = state(1.0)
    model, sampler = pipeline.model, pipeline.sampler
    denoiser, guidance, edm = model.denoise, sampler.guidance, sampler.through
    with torch.no_grad(), pipeline.using("ema"):
        here = guidance(denoiser, y, model.process)(x, t)
        moved = guidance(change_path(denoiser, model.process, edm), y, edm)
        there = moved(2 * x, edm.time(torch.ones(3)))
    torch.testing.assert_close(there, here, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("words", "evaluations"),
    [
        ([], 6),
        (["guidance.scale=1"], 3),
        (["guidance.interval=[1.5,3]"], 4),  # sigma is inf, 2 and 1 / 2
    ],
)
def test_evaluations_of_both_networks_are_counted(run, weaker, words, evaluations):
    pipeline = guided(run, weaker, *words)
    pipeline.sample(2)
    assert pipeline.sampler.evaluations == evaluations


def test_scale_one_changes_nothing(run, weaker):
    plain = genlab.load(run, overrides=["sampler=euler", "sampler.steps=3"]).sample(3)
    assert np.array_equal(guided(run, weaker, "guidance.scale=1").sample(3), plain)
    assert not np.array_equal(guided(run, weaker).sample(3), plain)


def test_a_reference_without_labels_is_asked_for_none_and_said_once(run, tmp_path_factory, capsys):
    other = trained(tmp_path_factory, "flow_matching", **{"model.classes": "none"})
    pipeline = guided(run, other)
    assert pipeline.sample(2, batch=1).shape == (2, 1, 8, 8)
    assert capsys.readouterr().err.count("trained without labels") == 1


def test_a_run_is_no_reference_of_itself_but_its_raw_weights_are(run, capsys):
    with pytest.raises(ConfigError, match="guides it nowhere"):
        guided(run, run).sample(1)
    words = [f"run={run}", "n=1", "name=own", "guidance=autoguidance", f"guidance.run={run}"]
    assert main(["sample", *words]) == 2
    assert not (run / "samples" / "own").exists()
    assert guided(run, run, "guidance.weights=raw").sample(1).shape == (1, 1, 8, 8)


def test_the_weights_are_read_when_the_first_sample_is_drawn(run, weaker):
    config = guided(run, weaker).config
    for meta in (True, False):
        built = build(config, meta=meta)
        other = built.pretrained["guidance.run"]
        assert not other.loaded
    made = other.described
    Pipeline(built).draw([0], 0, [0])
    assert other.loaded and other.model is made, "made once"


def test_building_a_reference_leaves_random_numbers_alone(run, weaker):
    pipeline = guided(run, weaker)
    torch.manual_seed(5)
    pipeline.draw([0], 0, [0])
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(1))


def test_a_training_is_watched_by_guided_samples(weaker, tmp_path_factory):
    keys = {"guidance": "autoguidance", "guidance.run": str(weaker), "every.sample": 64}
    run = trained(tmp_path_factory, "flow_matching", **keys)
    assert list((run / "samples" / "train").glob("*.png"))


def test_samples_record_their_reference(run, weaker):
    words = ["guidance=autoguidance", f"guidance.run={weaker}", "n=2", "name=t"]
    assert main(["sample", f"run={run}", *words]) == 0
    record = json.loads((run / "samples" / "t" / "sample.json").read_text())
    manifest = (weaker / "checkpoints" / "000000000032" / "manifest.json").read_bytes()
    assert record["reference"] == {
        "run": f"{weaker.parent.name}/{weaker.name}",
        "checkpoint": 32,
        "weights": "ema",
        "digest": hashlib.sha256(manifest).hexdigest()[:12],
    }


def test_another_checkpoint_of_the_reference_makes_other_streams(run, weaker, tmp_path):
    copy = tmp_path / weaker.parent.name / weaker.name
    shutil.copytree(weaker, copy)
    words = [f"run={run}", f"outputs={tmp_path}", "n=4"]
    asked = compose(words, primary="eval")
    others = ["guidance=autoguidance", f"guidance.run={copy}"]
    first = of_run(asked, others, {})
    assert of_run(asked, others, {}).digest() == first.digest()
    assert first.description["evaluations"] == 2 * (2 * 2 - 1)
    assert first.description["reference"]["checkpoint"] == 32
    shutil.rmtree(copy / "checkpoints" / "000000000032")
    second = of_run(asked, others, {})
    assert second.description["guidance"] == first.description["guidance"]
    assert second.digest() != first.digest()


# --- refusals ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def larger(tmp_path_factory):
    return trained(tmp_path_factory, "flow_matching", **{"data.size": 16})


@pytest.fixture(scope="module")
def dequantized(tmp_path_factory):
    return trained(tmp_path_factory, "flow_matching", codec="dequantize")


@pytest.fixture(scope="module")
def points(tmp_path_factory):
    return trained(tmp_path_factory, "flow_matching", "toy")


@pytest.fixture(scope="module")
def more_classes(tmp_path_factory):
    return trained(tmp_path_factory, "flow_matching", **{"model.classes": 12})


@pytest.mark.parametrize(
    ("which", "reason"),
    [
        ("gan", "a model without a path"),
        ("larger", "trained on images of 16x16 pixels, this model of 8x8"),
        ("dequantized", "codec.name=dequantize.*this model with .*codec.name=pixels"),
        ("points", "data.name=toy.*this model with .*data.name=digits"),
        ("more_classes", "trained with 12 classes, this model with 10"),
    ],
)
def test_a_reference_that_cannot_be_compared_is_refused(run, which, reason, request):
    other = request.getfixturevalue(which)
    with pytest.raises(ConfigError, match=rf"guidance.*run=.*{reason}"):
        guided(run, other)
    config = small("flow_matching", "digits", guidance="autoguidance")
    config["guidance"]["run"] = str(other)
    with pytest.raises(ConfigError, match=reason):
        build(config, meta=True)


def test_a_reference_that_is_not_there_is_refused(run, weaker, tmp_path, capsys):
    with pytest.raises(ConfigError, match="run is not set"):
        genlab.load(run, overrides=["guidance=autoguidance"])
    with pytest.raises(ConfigError, match="no run 'nowhere'"):
        guided(run, "nowhere")
    with pytest.raises(CheckpointError, match="no checkpoint 999"):
        guided(run, weaker, "guidance.checkpoint=999")
    empty = tmp_path / weaker.parent.name / weaker.name
    shutil.copytree(weaker, empty)
    shutil.rmtree(empty / "checkpoints")
    with pytest.raises(CheckpointError, match="has no checkpoint yet"):
        guided(run, empty)
    words = ["train", "guidance=autoguidance", f"guidance.run={empty}", f"outputs={tmp_path}/o"]
    assert main(words) == 4
    assert "guidance.run=" in capsys.readouterr().err
    assert not list(tmp_path.glob("o/*/*"))
