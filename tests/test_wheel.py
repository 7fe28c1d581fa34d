"""The wheel carries what a run needs, configs included, and works from any folder."""

import os
import subprocess
import sys
import zipfile

import pytest

from genlab.core.registry import PACKAGE, configs_dir

ROOT = PACKAGE.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The path of a wheel of this tree."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "-w", folder, ROOT], check=True, capture_output=True)
    (path,) = folder.glob("genlab-*.whl")
    return path


def test_wheel_works_from_any_folder(wheel, tmp_path):
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


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs a checkout by git")
def test_wheel_holds_every_tracked_file(wheel):
    """An ignore rule hides a folder from the wheel, too."""
    git = ["git", "-C", ROOT, "ls-files", "-z", "genlab"]
    tracked = subprocess.run(git, check=True, capture_output=True, text=True).stdout.split("\0")
    with zipfile.ZipFile(wheel) as z:
        assert {n for n in tracked if n} <= set(z.namelist())
