"""The wheel carries what a run needs, configs included, and works from any folder."""

import os
import subprocess
import sys
import zipfile

from genlab.core.registry import PACKAGE, configs_dir


def test_wheel_works_from_any_folder(tmp_path):
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "-w", tmp_path, PACKAGE.parent], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("genlab-*.whl")
    with zipfile.ZipFile(wheel) as z:
        inside = set(z.namelist())
        z.extractall(tmp_path / "site")
    configs = {
        f"genlab/configs/{p.relative_to(configs_dir())}" for p in configs_dir().rglob("*.yaml")
    }
    sources = {
        f"genlab/{p.relative_to(PACKAGE)}"
        for p in PACKAGE.rglob("*")
        if p.is_file() and "__pycache__" not in p.parts and "configs" not in p.parts
    }
    assert configs | sources <= inside
    git = ["git", "-C", PACKAGE.parent, "ls-files", "-z", "genlab"]
    tracked = subprocess.run(git, capture_output=True, text=True).stdout.split("\0")
    assert {n for n in tracked if n} <= inside  # an ignore rule hides a folder from the wheel, too
    assert not [n for n in inside if n.startswith(("tests", "outputs", "scripts"))]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shown = subprocess.run(
        [sys.executable, "-m", "genlab", "show", "model=gan"],
        cwd=elsewhere,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
    )
    assert shown.returncode == 0, shown.stderr
    assert "dcgan_generator" in shown.stdout
    assert not list(elsewhere.iterdir())
