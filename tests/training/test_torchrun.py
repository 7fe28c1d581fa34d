"""Data parallel by the command line: two gloo ranks give the weights of one."""

import os
import signal
import subprocess
import sys
import time

import pytest
from safetensors.torch import load_file

from tests.helpers.trainers import SMALL

pytestmark = pytest.mark.slow

WORDS = ["schedule.images=64", "schedule.batch=16", "hardware=cpu", "hardware.precision=fp32"]
WORDS += ["hardware.threads=1", "optimizer=sgd", "optimizer.lr=0.05", "every.sample=1000"]
WORDS += [f"network.net.{k}={SMALL[k]}" for k in ("width", "embedding", "head_width")]


def weights(folder):
    (run,) = (folder / "outputs/flow_matching-digits").iterdir()
    assert (run / "STATUS").read_text() == "done\n"
    return load_file(run / "checkpoints/000000000064/model.safetensors")


def train(folder, *before, devices=1):
    folder.mkdir()
    words = [*WORDS, f"hardware.devices={devices}"]
    command = [sys.executable, "-m", *before, "genlab", "train", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return weights(folder)


def test_torchrun_and_devices_are_one_rank(tmp_path):
    alone = train(tmp_path / "alone")
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
    for other in (train(tmp_path / "torchrun", *torchrun), train(tmp_path / "two", devices=2)):
        assert alone.keys() == other.keys()
        assert max(float((alone[k] - other[k]).abs().max()) for k in alone) < 1e-6


def test_ranks_keep_the_averages_of_one(tmp_path):
    kept = []
    for devices in (1, 2):
        words = [*WORDS, "model.ema={std: [0.05,0.1]}", f"hardware.devices={devices}"]
        words += ["every.checkpoint=32", f"outputs={tmp_path}/{devices}"]
        command = [sys.executable, "-m", "genlab", "train", *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        files = sorted((tmp_path / str(devices)).glob("*/*/averages/*"))
        assert [f.name for f in files] == ["000000000032.safetensors", "000000000064.safetensors"]
        kept.append([load_file(f) for f in files])
    for alone, two in zip(*kept, strict=True):
        assert alone.keys() == two.keys()
        assert max(float((alone[k] - two[k]).abs().max()) for k in alone) < 1e-6


def test_ranks_end_with_the_code_of_what_happened(tmp_path):
    words = [w for w in WORDS if "optimizer.lr" not in w]
    words += ["optimizer.lr=1e20", "optimizer.clip=null", "hardware.devices=2"]
    command = [sys.executable, "-m", "genlab", "train", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 6, done.stderr
    assert "not finite" in done.stderr
    assert "Traceback" not in done.stderr
    (run,) = (tmp_path / "outputs/flow_matching-digits").iterdir()
    assert (run / "STATUS").read_text().startswith("failed: ")


def test_a_signal_stops_all_ranks_saves_and_resumes(tmp_path):
    words = [w for w in WORDS if "schedule.images" not in w]
    words += ["schedule.images=1_000_000", "hardware.devices=2", "every.log=64"]
    command = [sys.executable, "-m", "genlab", "train", *words]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if line.startswith("images "):
                break
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
        assert process.wait(60) == 143, rest
    (run,) = (tmp_path / "outputs/flow_matching-digits").iterdir()
    assert (run / "STATUS").read_text().startswith("interrupted: SIGTERM")
    (saved,) = (p.name for p in (run / "checkpoints").glob("0*"))
    more = f"schedule.images={int(saved) + 32}"
    command = [sys.executable, "-m", "genlab", "resume", f"run={run}", more]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert f"resuming at image {int(saved):,}" in done.stderr


def test_a_grid_does_not_hold_up_the_stop_of_all_ranks(tmp_path):
    """Rank 0 draws it alone, for minutes, and the others wait for it at their next step."""
    words = [*WORDS, "sampler=euler", "sampler.steps=100_000", "every.sample=32"]
    words += ["every.log=16", "hardware.devices=2"]
    command = [sys.executable, "-m", "genlab", "train", *words]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if line.startswith("images 16/"):
                break
        time.sleep(2)  # until the grid is begun, as a rule; what is asserted holds before it too
        process.send_signal(signal.SIGTERM)
        try:
            assert process.wait(60) == 143
        finally:
            process.kill()
    (run,) = (tmp_path / "outputs/flow_matching-digits").iterdir()
    assert (run / "STATUS").read_text().startswith("interrupted: SIGTERM")
    assert not list(run.glob("samples/train/*.png")) and list(run.glob("checkpoints/0*"))


def steps(process):
    """Waits until a training has logged."""
    for line in process.stderr:
        if line.startswith("images "):
            return
    raise AssertionError("it ended before")


def children(pid):
    """Processes of which this is an ancestor."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True).stdout
    rows = [tuple(map(int, row.split())) for row in listed.splitlines()]
    found = [pid]
    for parent in found:
        found += [child for child, of in rows if of == parent]
    return found[1:]


LONG = [w for w in WORDS if "schedule.images" not in w] + ["schedule.images=1_000_000"]
LONG += ["every.log=64"]


def test_a_rank_that_is_killed_ends_the_run_with_code_10(tmp_path):
    command = [sys.executable, "-m", "genlab", "train", *LONG, "hardware.devices=2"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        steps(process)
        (_, last) = children(process.pid)
        os.kill(last, signal.SIGKILL)
        rest = process.stderr.read()
        assert process.wait(60) == 10, rest
    assert "rank 1 was killed by SIGKILL" in rest and "Traceback" not in rest
    (run,) = (tmp_path / "outputs/flow_matching-digits").iterdir()
    assert (run / "STATUS").read_text().startswith(("failed: another rank is gone", "interrupted"))


def test_ranks_of_torchrun_end_with_it(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node=2", "-m", "genlab", "train", *LONG]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        steps(process)
        ranks = children(process.pid)
        assert len(ranks) == 2
        process.kill()
        end = time.monotonic() + 30
        while (alive := [r for r in ranks if os.path.exists(f"/proc/{r}")]) and (
            time.monotonic() < end
        ):
            time.sleep(0.1)
        for rank in alive:
            os.kill(rank, signal.SIGKILL)
        assert not alive


DIFFERENT = """
import os, sys
from genlab.cli.main import main
sys.exit(main([*sys.argv[1:], f"optimizer.lr=0.0{1 + int(os.environ['RANK'])}"]))
"""


def test_ranks_of_other_words_are_refused_before_there_is_a_run(tmp_path):
    (tmp_path / "different.py").write_text(DIFFERENT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node=2", "different.py", "train", *WORDS]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    said = "genlab: ranks differ: optimizer.lr is 0.01 on rank 0, 0.02 on rank 1; start all with"
    assert done.returncode and done.stderr.count(said) == 2, done.stderr
    assert "exitcode  : 2" in done.stderr
    assert not (tmp_path / "outputs").exists()


OTHER_DATA = """
import os, sys, torch
from genlab.cli.main import main
from genlab.data.digits import Digits
load = Digits.load
def other(self, split):
    data = load(self, split)
    return data._replace(x=data.x ^ int(os.environ["RANK"]))
Digits.load = other
sys.exit(main(sys.argv[1:]))
"""


def test_ranks_of_other_data_are_refused(tmp_path):
    (tmp_path / "other.py").write_text(OTHER_DATA)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node=2", "other.py", "train", *WORDS]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode and "genlab: ranks differ: data values is" in done.stderr, done.stderr
    assert "start all with the same data" in done.stderr and "exitcode  : 3" in done.stderr
