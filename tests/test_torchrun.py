"""Data parallel by the command line: two gloo ranks give the weights of one."""

import subprocess
import sys

import pytest
from safetensors.torch import load_file
from test_contract import SMALL

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
