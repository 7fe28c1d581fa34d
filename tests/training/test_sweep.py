"""Sweeps: every combination, each on its own, stopped as one."""

import os
import subprocess
import sys

import pytest

from genlab.core import subprocesses
from genlab.core.errors import ConfigError, DeviceError, Refused
from genlab.training import sweep
from tests.helpers.runs import SMALL


def test_every_combination_in_order():
    jobs = sweep.expand(["model=flow_matching,gan", "optimizer.betas=[0.5,0.9]", "seed=range(2)"])
    assert [(j[0], j[2]) for j in jobs] == [
        (f"model={m}", f"seed={s}") for m in ("flow_matching", "gan") for s in (0, 1)
    ]
    assert {j[1] for j in jobs} == {"optimizer.betas=[0.5,0.9]"}


def test_all_problems_of_all_jobs_before_the_first(monkeypatch):
    monkeypatch.setattr(sweep, "_launch", lambda *_: pytest.fail("started"))
    with pytest.raises(ConfigError) as e:
        sweep.main(["seed=0,-1", "optimizer.lr=1e-3,fast"])
    assert any("seed" in p for p in e.value.problems)
    assert any("fast" in p for p in e.value.problems)


def test_launchers_are_installed_ones(monkeypatch):
    with pytest.raises(ConfigError, match="'joblib'"):
        sweep.main(["seed=0,1", "hydra/launcher=jobib"])
    with pytest.raises(Refused):
        sweep.main(["seed=0,1", "hydra.launcher._target_=os.system"])
    monkeypatch.setattr(sweep, "_has_joblib", lambda: False)
    with pytest.raises(DeviceError, match=r"genlab\[sweep\]"):
        sweep.main(["seed=0,1", "hydra/launcher=joblib"])


def test_after_a_stop_no_job_is_started(monkeypatch, capsys):
    started = []

    def run(commands, environments):
        started.append(commands[0][-1])
        return (143, 15) if len(started) == 2 else (0, 0)

    monkeypatch.setattr(subprocesses, "run", run)
    monkeypatch.setattr(sweep, "_stopped", 0)
    assert [sweep.run_job([f"seed={i}"]) for i in range(4)] == [0, 143, 143, 143]
    assert started == ["seed=0", "seed=1"]


@pytest.mark.slow
def test_one_failing_job_lets_the_others_finish_and_rerun_does_the_rest(tmp_path):
    small = [f"network.net.{k}={SMALL[k]}" for k in ("width", "embedding", "head_width")]
    words = ["schedule.images=64", "schedule.batch=16", "hardware=cpu", "hardware.threads=1"]
    words += ["hardware.precision=fp32", "every.sample=1000", "optimizer.clip=null", *small]
    command = [sys.executable, "-m", "genlab", "train", "-m", *words, "optimizer.lr=1e20,1e-3"]
    first = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=os.environ)
    assert first.returncode == 6, first.stderr
    assert "1 of 2 jobs did not end" in first.stdout
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == 6
    assert "this run is done" in again.stdout
    runs = list((tmp_path / "outputs/flow_matching-digits").iterdir())
    assert sorted((r / "STATUS").read_text()[:6] for r in runs) == ["done\n", "failed"]
