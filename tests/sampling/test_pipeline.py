"""What `genlab sample` and `genlab.load` draw."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import genlab
from genlab.cli.main import main
from genlab.core.random import SampleNoise
from genlab.training.run_loop import train_run
from tests.helpers.runs import small, started


@pytest.fixture(scope="module")
def path_run(tmp_path_factory):
    """A finished tiny flow-matching run; not to be changed but for its samples."""
    torch.set_num_threads(1)
    run = started(
        small("flow_matching", outputs=str(tmp_path_factory.mktemp("fm")), data="digits")
    )
    train_run(run.path)
    return run.path


@pytest.fixture(scope="module")
def toy_run(tmp_path_factory):
    torch.set_num_threads(1)
    run = started(small("gan", "toy", outputs=str(tmp_path_factory.mktemp("toy"))))
    train_run(run.path)
    return run.path


def sample(run, *words):
    assert main(["sample", f"run={run}", "name=t", *words]) == 0
    return run / "samples" / "t"


def test_grid_images_and_record(path_run):
    folder = sample(path_run, "n=7", "labels=[3,1]", "seed=5", "guidance.scale=2", "sampler=euler")
    images = [np.asarray(Image.open(folder / f"images/{i:06d}.png")) for i in range(7)]
    assert {i.shape for i in images} == {(8, 8)}
    assert not (folder / "images" / "000007.png").exists()
    record = json.loads((folder / "sample.json").read_text())
    assert record["labels"] == [3, 1]
    assert record["sampler"]["name"] == "euler"
    assert record["guidance"]["scale"] == 2
    assert record["evaluations"] == 2 * record["sampler"]["steps"], "guidance asks twice a step"
    in_python = genlab.load(path_run, overrides=["sampler=euler", "guidance.scale=2"])
    again = in_python.sample(7, labels=[3, 1], seed=5)
    assert np.array_equal(again[:, 0], np.stack(images))


def test_a_model_that_draws_in_one_call_costs_one_evaluation(toy_run):
    record = json.loads((sample(toy_run, "n=3", "batch=2") / "sample.json").read_text())
    assert record["evaluations"] == 1


def test_rk45_draws_and_counts_the_same_whatever_the_precision(path_run):
    pytest.importorskip("torchdiffeq")
    drawn = []
    for precision in ("fp32", "bf16"):
        words = ["sampler=rk45", "guidance.scale=2", f"hardware.precision={precision}"]
        pipeline = genlab.load(path_run, overrides=words)
        drawn.append((pipeline.sample(6, seed=5).tolist(), pipeline.sampler.evaluations))
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("word", ["span=[3,1]", "grid=[1,2]", "span=[0.1,1e9]"])
def test_levels_that_the_path_does_not_have_are_refused_before_anything_is_drawn(
    path_run, word, capsys
):
    before = sorted(path_run.rglob("*"))
    assert main(["sample", f"run={path_run}", "sampler.through=edm", f"sampler.{word}"]) == 2
    assert "sampler." in capsys.readouterr().err
    assert sorted(path_run.rglob("*")) == before


def test_three_lines_of_python(path_run):
    images = genlab.load(path_run).sample(16)
    assert images.dtype == np.uint8
    assert images.shape == (16, 1, 8, 8)


def test_batch_does_not_change_images_and_seed_does(path_run):
    pipeline = genlab.load(path_run)
    whole = pipeline.sample(6, batch=6).astype(int)
    assert np.abs(whole - pipeline.sample(6, batch=4)).max() <= 1
    assert np.array_equal(pipeline.sample(3, batch=3), pipeline.sample(3, batch=3))
    assert not np.array_equal(whole, pipeline.sample(6, seed=1))


def test_weights_are_the_average_or_the_last(path_run):
    pipeline = genlab.load(path_run)
    z = torch.zeros(1, 1, 8, 8)
    with torch.no_grad():
        # what each kind of weights should give, from the modules themselves
        t, y = torch.tensor([0.5]), torch.tensor([0])
        ema = z - 0.5 * pipeline.model.ema.copy.eval()(z, t, y)
        raw = z - 0.5 * pipeline.model.net.eval()(z, t, y)
        for weights, wanted in (("ema", ema), ("raw", raw)):
            with pipeline.using(weights):
                torch.testing.assert_close(pipeline.model.denoise(z, t, y), wanted)
    assert not torch.equal(ema, raw)


def test_npy_interpolation_and_trajectory(path_run):
    folder = sample(path_run, "n=5", "save=npy", "interpolate=true", "animate=true")
    samples = np.load(folder / "samples.npy", allow_pickle=False)
    assert samples.shape == (5, 1, 8, 8)
    with Image.open(folder / "trajectory.png") as film:
        steps = genlab.load(path_run).config["sampler"]["steps"]
        assert film.n_frames == 1 + steps + 1, "the result, noise, and what every step makes"
    assert (folder / "interpolation.png").exists()


def test_interpolation_ends_at_its_samples(path_run):
    """The ends of a strip are the samples of its two starting points."""
    pipeline = genlab.load(path_run)
    strips = pipeline.interpolate(seed=4, label=2).reshape(6, 9, 1, 8, 8).astype(int)
    ends = pipeline.sample(12, labels=2, seed=4).astype(int)
    assert np.abs(strips[:, 0] - ends[0::2]).max() <= 1
    assert np.abs(strips[:, -1] - ends[1::2]).max() <= 1


def test_points_are_a_scatter_and_an_array(toy_run):
    folder = sample(toy_run, "n=50", "save=npy", "interpolate=true")
    points = np.load(folder / "samples.npy", allow_pickle=False)
    assert points.shape == (50, 2)
    assert points.dtype == np.float32
    assert Image.open(folder / "grid.png").size[0] > 100


def test_temperature_multiplies_the_noise(toy_run):
    pipeline = genlab.load(toy_run, overrides=["sampler.temperature=0.5"])
    generator, noise = pipeline.model.ema.copy, SampleNoise(3, range(4), "cpu")
    with torch.no_grad():
        wanted = generator(0.5 * pipeline.model.prior(noise), None)
    np.testing.assert_allclose(pipeline.sample(4, seed=3), wanted, rtol=1e-5)
    still = genlab.load(toy_run, overrides=["sampler.temperature=0"]).sample(4)
    assert (still == still[0]).all()
