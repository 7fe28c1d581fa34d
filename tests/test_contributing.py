"""The examples of CONTRIBUTING.md work: their files, a copy of the package, a run of each."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from genlab.core.registry import PACKAGE, configs_dir

PAGE = Path(__file__).parent.parent / "CONTRIBUTING.md"
BLOCK = re.compile(r"^`(\S+?)`[,:].*?^```\w+\n(.*?)^```", re.DOTALL | re.MULTILINE)


def test_the_examples_train(tmp_path):
    files = dict(BLOCK.findall(PAGE.read_text(encoding="utf-8")))
    assert len(files) == 4
    shutil.copytree(PACKAGE, tmp_path / "genlab", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(configs_dir(), tmp_path / "configs")
    for name, body in files.items():
        assert not (tmp_path / name).exists()
        (tmp_path / name).write_text(body)

    def genlab(*words):
        run = subprocess.run(
            [sys.executable, "-m", "genlab", *words],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0, run.stderr
        return run.stdout

    small = ["schedule.images=64", "schedule.batch=16", "hardware=cpu", "hardware.threads=1"]
    gan = ["network.generator.width=8", "network.discriminator.width=8"]
    genlab("train", "model=rsgan", *gan, *small)
    toy = ["network=mlp", "data=toy", "codec=points", "sampler.clip=false"]
    genlab("train", "-m", "model=huber,v_prediction", *toy, *small)
    for title, loss in (("r3gan-digits", "g"), ("huber-toy", "net"), ("ddpm-toy", "net")):
        (folder,) = (tmp_path / "outputs" / title).iterdir()
        assert (folder / "STATUS").read_text() == "done\n"
        assert f"loss/{loss}" in (folder / "metrics.jsonl").read_text()
    called = genlab("list", "runs")
    assert all(name in called for name in ("rsgan-digits", "huber-toy", "v_prediction-toy"))
    genlab("report", "run=rsgan")
    (page,) = (tmp_path / "outputs" / "r3gan-digits").glob("*/report.html")
    assert "rsgan on digits" in page.read_text()
    listed = genlab("list", "models")
    assert all(name in listed for name in ("huber", "rsgan", "v_prediction"))
