"""Every line of README.md's code blocks runs as it is written, in its order, on small settings."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genlab.cli.main import main
from genlab.data.cifar10 import CIFAR10
from tests.data import test_cifar10 as cifar10
from tests.data.test_celeba import mini as celeba
from tests.helpers import idx_files, image_files

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
HEADING = re.compile(r"^#+ ([^\n]*)$|^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)

MACHINE = ["hardware.device=cpu", "hardware.threads=1"]
SMALL = {
    "train": ["schedule.images=64", "schedule.batch=16", *MACHINE],
    "resume": ["schedule.images=128", *MACHINE],
    "sample": ["n=4", "batch=4", *MACHINE],
    "eval": ["n=20", *MACHINE],
}
"""What lines of a verb get at their end: the last word of a key counts."""

GIVEN = {
    "PHOTOS": lambda _: "photos",
    "MASK": lambda _: "mask.png",
    "RUN": lambda at: str([at, *sorted(at.glob("outputs/edm-digits/*"))[:-1]][-1]),
    "SAMPLES": lambda at: next(map(str, at.glob("outputs/*-digits/*/samples/2*")), ""),
}
"""What stands in capitals is the reader's."""

NEEDS = ("pip install",)
"""Beginnings of lines that need the network."""


def lines():
    """[(heading, line)] of all blocks, comments cut off."""
    found, heading = [], ""
    for title, block in HEADING.findall(README):
        heading = title or heading
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            if words and not line.startswith(NEEDS):
                found.append((heading, words))
    return found


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A folder with data sets in miniature, and photographs of odd sizes."""
    data = tmp_path / "data"
    for name in ("MNIST", "FashionMNIST"):
        idx_files.write(data / name / "raw", idx_files.mini(train=200, test=40, side=28)[0])
    celeba(data / "celeba")
    cifar10.write(data / "cifar10" / "cifar-10-batches-bin", cifar10.binary(cifar10.batches()))
    monkeypatch.setattr(CIFAR10, "contents", {})
    monkeypatch.setattr(CIFAR10, "count", 5 * cifar10.N)
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for i in range(40):
        w, h = rng.integers(90, 200, 2)
        Image.fromarray(image_files.picture(i, w, h)).save(tmp_path / f"photos/{i}.jpg")
    mask = np.zeros((8, 8), np.uint8)
    mask[:4] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    monkeypatch.setenv("GENLAB_DATA", str(data))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_every_line_runs(machine, capfd):
    assert len(lines()) > 30
    failed = []
    for heading, words in lines():
        assert words[0] == "genlab", words
        given = {name: find(machine) for name, find in GIVEN.items()}
        pairs = [word.partition("=") for word in words[1:]]
        words = [f"{key}{equals}{given.get(value, value)}" for key, equals, value in pairs]
        words += SMALL.get(words[0], [])
        code = main(words)
        said = capfd.readouterr()
        if code:
            failed.append(f"{heading}: genlab {shlex.join(words)}: {code}\n{said.err[-600:]}")
    assert not failed, "\n\n".join(failed)
