"""Runs of an earlier version are sampled, evaluated, resumed and found; see tests/old_runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import genlab
from genlab.cli import main as cli
from genlab.run.directory import Run
from tests.helpers.runs import journal

OLD = Path(__file__).parent.parent / "old_runs"
METRICS = {"flow_matching": "swd", "wgan_gp": "swd", "vqvae": "psnr"}
RESUMED = {
    "flow_matching": {"loss/net": 1.53165054, "heldout/loss": 1.55890191},
    "wgan_gp": {"loss/d": 9.26671886, "loss/g": -0.03530410, "heldout/loss": 9.20176275},
    "vqvae": {"loss/net": 0.42776720, "usage": 1.0, "heldout/loss": 0.42422775},
}
"""Journal after 64 more images by the version that saved the run."""


@pytest.fixture(params=METRICS)
def run(request, tmp_path):
    """A copy of an old run."""
    folder = f"{request.param}-digits"
    shutil.copytree(OLD / folder, tmp_path / folder)
    (path,) = (tmp_path / folder).iterdir()
    return Run(path)


def command(*words):
    assert cli.main(list(map(str, words))) == 0


def test_it_draws_what_it_drew(run):
    if run.config["model"]["name"] == "vqvae":
        (source,) = run.path.glob("samples/train/*.png")
        command("sample", f"run={run.path}", f"from={source}", "save=npy", "name=new")
    else:
        command("sample", f"run={run.path}", "n=8", "save=npy", "name=new")
    (new,) = run.path.glob("samples/new/[sr]*s.npy")
    old = np.load(run.path / "samples" / "old" / new.name).astype(int)
    assert np.abs(np.load(new).astype(int) - old).max() <= 1


def test_loaded_in_python_it_draws_what_it_drew(run):
    pipeline, old = genlab.load(run.path), run.path / "samples" / "old"
    if run.config["model"]["name"] == "vqvae":
        codes, wanted = (np.load(old / f"{name}.npy") for name in ("codes", "reconstructions"))
        new = pipeline.decode(torch.from_numpy(codes).long()).numpy()
    else:
        new, wanted = pipeline.sample(8), np.load(old / "samples.npy")
    assert np.abs(new.astype(int) - wanted).max() <= 1


def test_it_is_worth_what_it_was_worth(run):
    metric = METRICS[run.config["model"]["name"]]
    command("eval", f"run={run.path}", f"metric={metric}", "n=64", "n_real=64", "labels=even",
            "name=new")  # fmt: skip
    old, new = (
        json.loads((run.path / "eval" / name / "result.json").read_text())["metrics"][metric]
        for name in ("old", "new")
    )
    assert new["values"] == pytest.approx(old["values"], rel=1e-3)
    assert new["protocol"] | old["protocol"] == new["protocol"]


def test_it_goes_on_as_it_would_have(run):
    images = run.config["schedule"]["images"] + 64
    command("resume", f"run={run.path}", f"schedule.images={images}", "every.log=64")
    last = journal(run)[-1]
    wanted = RESUMED[run.config["model"]["name"]]
    assert run.status == "done" and last["images"] == images
    assert {k: last[k] for k in wanted} == pytest.approx(wanted, rel=1e-3)


def test_its_command_typed_again_finds_it(run, capsys):
    words = (run.path / "overrides.txt").read_text().splitlines()
    command("train", *words, f"outputs={run.path.parent.parent}")
    assert f"this run is done: {run.path}" in capsys.readouterr().out


def test_a_sweep_typed_again_finds_it(run, tmp_path, capfd, monkeypatch):
    """Its jobs are processes of their own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    words = [
        w
        for w in (run.path / "overrides.txt").read_text().splitlines()
        if not w.startswith("every.log=")
    ]
    command("train", "--multirun", *words, f"outputs={run.path.parent.parent}", "every.log=8,64")
    assert capfd.readouterr().out.count(f"this run is done: {run.path}") == 2
    assert list(run.path.parent.iterdir()) == [run.path]
