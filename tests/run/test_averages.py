"""Averages that are kept while a run is trained, and those that are made of them afterwards."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import genlab
from genlab.cli.main import main
from genlab.config.compose import compose
from genlab.core.console import shown_by
from genlab.core.ema import EMA
from genlab.core.errors import CheckpointError, ConfigError, DiskError, Stopped
from genlab.run import failpoint
from genlab.run.averages import Averages
from genlab.run.directory import Run
from genlab.training.run_loop import train_run
from tests.helpers.evaluations import evaluated
from tests.helpers.runs import Config, fingerprint, small, started
from tests.helpers.stops import stop_at
from tests.run.test_checkpoint import arm, armed, end_of, flip, halve

__all__ = ["armed"]  # a fixture

POWER = {"model.ema": {"std": [0.05, 0.1]}}
LENGTH = {"schedule.images": 480, "every.checkpoint": 48, "every.log": 480}


def config(root: Path, **keys: object) -> Config:
    return small("gan", "toy", **{"outputs": str(root), **LENGTH, **POWER, **keys})


def trained(root: Path, **keys: object) -> Path:
    torch.set_num_threads(1)
    run = started(config(root, **keys))
    train_run(run.path)
    return run.path


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A finished run with two power-function averages; tests add samples and evaluations."""
    return trained(tmp_path_factory.mktemp("power"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    return trained(tmp_path_factory.mktemp("plain"), **{"model.ema": 50})


def kept(run: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted((run / "averages").iterdir())}


def vector(network: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in network.parameters()])


# --- what is kept --------------------------------------------------------------------------------


def test_the_averages_of_every_checkpoint_are_kept(run, plain):
    assert list(kept(run)) == [f"{t:012d}.safetensors" for t in range(48, 481, 48)]
    assert len(list((run / "checkpoints").glob("0*"))) <= 3, "checkpoints come and go"
    model = load_file(run / "checkpoints" / f"{480:012d}" / "model.safetensors")
    last = load_file(run / "averages" / f"{480:012d}.safetensors")
    assert {k.split("/")[1] for k in last} == {"0.05", "0.1"}
    for key, tensor in last.items():
        assert tensor.dtype == torch.float32
        place = {"0.05": "copy", "0.1": "others.0"}[key.split("/")[1]]
        assert torch.equal(tensor, model[f"ema.{place}.{key.split('/')[2]}"])
    assert not (plain / "averages").exists(), "a half-life needs none"


def test_a_run_that_goes_on_keeps_what_one_that_never_stopped_keeps(run, tmp_path, monkeypatch):
    stopped = started(config(tmp_path))
    stop_at(monkeypatch, 304)
    with pytest.raises(Stopped):
        train_run(stopped.path)
    late = stopped.path / "averages" / f"{336:012d}.safetensors"
    late.write_bytes(b"of a life that was lost")
    (stopped.path / "averages" / ".tmp-x").write_bytes(b"half")
    assert len(kept(stopped.path)) == 8
    train_run(stopped.path)
    assert kept(stopped.path) == kept(run)
    name = f"{480:012d}"
    assert fingerprint(stopped.path / "checkpoints" / name) == fingerprint(
        run / "checkpoints" / name
    )


@pytest.mark.parametrize("place", failpoint.EMA_POINTS)
def test_killed_while_averages_are_kept(run, tmp_path, place):
    other = started(config(tmp_path))

    def die() -> None:
        arm(place, "kill", 4)
        train_run(other.path)

    assert end_of(die) == -signal.SIGKILL
    train_run(other.path)
    assert kept(other.path) == kept(run)


def test_a_full_disk_while_averages_are_kept(run, tmp_path, armed):
    model = genlab.load(run).model
    averages = Averages(tmp_path)
    averages.save(8, model)
    armed("average.before_fsync", "enospc")
    with pytest.raises(DiskError, match=r"cannot write .*averages.*; free some space"):
        averages.save(16, model)
    assert list(kept(tmp_path)) == ["000000000008.safetensors"]


# --- what is made of them ------------------------------------------------------------------------


@pytest.mark.parametrize(("std", "most"), [(0.07, 2e-3), (0.12, 2e-3), (0.04, 1e-2)])
def test_it_is_the_average_a_run_of_that_length_tracks(run, tmp_path, std, most):
    pipeline = genlab.load(run)
    with pipeline.using(std):
        made = vector(pipeline.model.drawn_from(pipeline.model.generator))
    wanted = vector(genlab.load(trained(tmp_path, **{"model.ema": {"std": [std]}})).model.ema.copy)
    short, long = map(vector, pipeline.model.ema.averages)
    assert (made - wanted).norm() < most * (short - long).norm()
    assert most < 0.1 * float(
        min((made - short).norm(), (made - long).norm()) / (short - long).norm()
    )


def test_one_that_was_tracked_is_found_again(run):
    pipeline = genlab.load(run)
    for std, copy in zip((0.05, 0.1), pipeline.model.ema.averages, strict=True):
        made = pipeline.post_hoc_ema(std)
        assert made.residual < 1e-6
        assert made.moments == tuple(range(48, 481, 48))
        shown = pipeline.model.ema.network_for(std)
        torch.testing.assert_close(vector(shown), vector(copy), rtol=1e-5, atol=1e-7)


def test_samples_are_drawn_with_it_and_others_as_before(run):
    pipeline = genlab.load(run)
    ema, raw = pipeline.sample(8), pipeline.sample(8, weights="raw")
    made = {std: pipeline.sample(8, weights=std) for std in (0.12, 0.05)}
    np.testing.assert_allclose(made[0.05], ema, atol=1e-5)
    assert not np.allclose(made[0.12], ema, atol=1e-4)
    assert np.array_equal(pipeline.sample(8), ema)
    assert np.array_equal(pipeline.sample(8, weights="raw"), raw)
    assert np.array_equal(pipeline.sample(8, weights=0.12), made[0.12])
    z = pipeline.model.prior(genlab.core.random.SampleNoise(0, range(8), "cpu"))
    with torch.no_grad():
        pipeline.post_hoc_ema(0.12)
        direct = pipeline.codec.decode(pipeline.model.ema.network_for(0.12)(z, None))
    np.testing.assert_allclose(direct.numpy(), made[0.12], atol=1e-6)


def test_averages_after_a_checkpoint_are_not_of_it(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    shutil.rmtree(copy / "checkpoints" / f"{480:012d}")
    made = genlab.load(copy).post_hoc_ema(0.07)
    assert made.moments == tuple(range(48, 433, 48))


@pytest.mark.parametrize("damage", [flip, halve])
def test_a_damaged_file_is_left_out_and_said(run, tmp_path, capsys, damage):
    copy = shutil.copytree(run, tmp_path / "copy")
    damage(copy / "averages" / f"{96:012d}.safetensors")
    pipeline = genlab.load(copy)
    assert 96 not in pipeline.post_hoc_ema(0.07).moments
    assert len(pipeline.post_hoc_ema(0.07).moments) == 9
    assert "000000000096.safetensors are left out" in capsys.readouterr().err


def test_those_of_another_model_are_left_out(run, tmp_path):
    said: list[str] = []
    model = nn.ModuleDict({"ema": EMA(nn.Linear(2, 2), {"std": [0.05, 0.1]})})
    with shown_by(said.append):
        made = Averages(run).rebuild(model, 480, 0.09)
    assert made.moments == (480,) and len(said) == 9
    assert "another model" in said[0]


def test_what_cannot_be_made_is_refused(run, plain, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    shutil.rmtree(copy / "averages")
    with pytest.raises(CheckpointError, match=r"smaller every\.checkpoint"):
        genlab.load(copy).sample(2, weights=0.2)
    with pytest.raises(CheckpointError, match=r"averages of 0\.05 and 0\.1 kept at 10 moments"):
        genlab.load(run).sample(2, weights=0.01)
    with pytest.raises(ConfigError, match="keeps power-function averages"):
        genlab.load(plain).sample(2, weights=0.07)
    for weights in (0.5, 0, -1.0, "best", True, None):
        with pytest.raises(ConfigError, match="weights must be ema or raw or a relative"):
            genlab.load(run).sample(2, weights=weights)


def test_a_target_keeps_nothing_to_draw_from(tmp_path):
    model = nn.ModuleDict({"target": EMA(nn.Linear(2, 2), {"std": [0.1]}, target=True)})
    averages = Averages(tmp_path)
    averages.save(8, model)
    assert averages.moments() == []
    with pytest.raises(ConfigError):
        averages.rebuild(model, 8, 0.1)


# --- on the command line -------------------------------------------------------------------------


def test_train_sample_and_eval_by_the_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["experiment=toy/gan", "model.ema={std: [0.05,0.1]}", "schedule.batch=8"]
    words += ["schedule.images=160", "hardware=cpu", "hardware.threads=1", "every.sample=1000"]
    assert main(["train", *words]) == 0
    [path] = (tmp_path / "outputs").glob("gan-toy/*")
    assert Run(path).config["model"]["ema"] == {"std": [0.05, 0.1]}
    assert main(["sample", "n=4", "weights=0.07", "name=t"]) == 0
    assert "weights=0.07: made of averages kept at 10 moments, " in capsys.readouterr().out
    record = json.loads((path / "samples/t/sample.json").read_text())
    assert record["weights"] == 0.07 and 0 < record["residual"] < 0.02
    assert main(["sample", "n=4", "weights=0.01", "name=u"]) == 4
    assert "leave over" in capsys.readouterr().err
    assert not (path / "samples/u").exists()
    descriptions = [
        evaluated(path, "metric=swd", "n=16", "n_real=16", *more).description
        for more in (["weights=0.07"], ["weights=0.12"], [])
    ]
    assert [s["weights"] for s in descriptions] == [0.07, 0.12, "ema"]
    assert descriptions[0]["residual"] == record["residual"]
    assert "residual" not in descriptions[2]
    assert len(list((path / "eval").glob(".streams-*"))) == 3, "samples of other weights"
    assert "<dd>0.07</dd>" in (path / "report.html").read_text()


@pytest.mark.parametrize(
    ("word", "wanted"),
    [
        ("model.ema=50000", 50_000),
        ("model.ema={decay: 0.9999}", {"decay": 0.9999}),
        ("model.ema={std: [0.05,0.1]}", {"std": [0.05, 0.1]}),
        ("model.ema={halflife: 5_000, ramp: 0}", {"halflife": 5_000, "ramp": 0}),
    ],
)
def test_every_kind_can_be_typed(word, wanted):
    assert compose(["model=gan", word])["model"]["ema"] == wanted
    other = ["model.ema={std: [0.2]}", word]
    assert compose(["model=gan", *other])["model"]["ema"] == wanted
