"""Which run `latest` is for those who draw from it."""

from __future__ import annotations

import os

import pytest

import genlab
from genlab.cli.main import main
from genlab.run.directory import Run
from genlab.training.run_loop import train_run
from tests.helpers.runs import small, started


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """A gan, a vqvae, and a run that was made and never trained, in this order."""
    root = tmp_path_factory.mktemp("three")
    made = [
        started(small(name, "digits", outputs=str(root), **{"schedule.images": images}))
        for name, images in (("gan", 8), ("vqvae", 8), ("gan", 16))
    ]
    for run in made[:2]:
        train_run(run.path)
    made[2].status = "interrupted: before it began"
    for age, run in enumerate(reversed(made)):
        for name in ("config.yaml", "STATUS", "metrics.jsonl", "checkpoints/latest"):
            if (run.path / name).exists():
                os.utime(run.path / name, (1e9 - age, 1e9 - age))
    return root, made


def test_latest_is_the_newest_run_that_can_be_drawn_from(outputs, capsys):
    root, (gan, vqvae, untrained) = outputs
    assert main(["sample", f"outputs={root}", "n=2", "name=latest"]) == 0
    assert (gan.path / "samples/latest/images/000001.png").is_file()
    said = capsys.readouterr().err
    newer = f"; {untrained.title} is newer and has no checkpoint yet"
    assert f"latest is {gan.title}{newer}" in said
    words = ["metric=psnr", "n=4", "name=latest"]
    assert main(["eval", f"outputs={root}", *words]) == 0, "a vqvae is evaluated, too"
    assert f"latest is {vqvae.title}{newer}" in capsys.readouterr().err
    assert genlab.load(outputs=root).run.path == vqvae.path


def test_a_run_that_is_named_is_taken_as_it_is(outputs, capsys):
    root, (_, vqvae, untrained) = outputs
    assert main(["sample", f"run={untrained.path}"]) == 4
    assert f"genlab resume run={untrained.path}" in capsys.readouterr().err
    assert main(["sample", f"run={vqvae.id}", f"outputs={root}"]) == 2
    said = capsys.readouterr().err
    assert f"genlab sample run={vqvae.path} from=" in said and "latest is" not in said


def test_a_run_that_still_trains_is_said_to(outputs, capsys):
    _, (gan, _, _) = outputs
    run = Run(gan.path)
    with run.lock():
        run.status = "running"
        assert main(["sample", f"run={run.path}", "n=1", "name=running"]) == 0
    run.status = "done"
    assert f"{run.title} is still training; taking its checkpoint at image 8" in (
        capsys.readouterr().err
    )
