"""The worked example of CONTRIBUTING.md works: its two files, a copy of the package, one run."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from genlab.core.registry import PACKAGE, configs_dir

PAGE = Path(__file__).parent.parent / "CONTRIBUTING.md"


def test_the_example_model_trains(tmp_path):
    text = PAGE.read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    config = re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1]
    shutil.copytree(PACKAGE, tmp_path / "genlab", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(configs_dir(), tmp_path / "configs")
    (tmp_path / "genlab/model/lsgan.py").write_text(code)
    (tmp_path / "configs/model/lsgan.yaml").write_text(config)
    words = ["model=lsgan", "schedule.images=64", "schedule.batch=16", "hardware=cpu"]
    words += ["network.generator.width=8", "network.discriminator.width=8", "hardware.threads=1"]
    run = subprocess.run(
        [sys.executable, "-m", "genlab", "train", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    (folder,) = (tmp_path / "outputs/lsgan-digits").iterdir()
    assert (folder / "STATUS").read_text() == "done\n"
    assert "loss/g" in (folder / "metrics.jsonl").read_text()
    listed = subprocess.run(
        [sys.executable, "-m", "genlab", "list", "models"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert "lsgan" in listed.stdout
