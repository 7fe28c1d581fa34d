"""`genlab sample` keeps what it has drawn, and draws what is missing."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import genlab
from genlab.assemble.bound_sampler import PathSampler
from genlab.cli.main import main
from tests.helpers.runs import trained


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished tiny run; tests draw into folders of their own."""
    return trained(tmp_path_factory, "flow_matching")


@pytest.fixture
def stop(monkeypatch):
    """stop(n, signals): they come in the n-th network evaluation of all that is drawn, once.

    Returns how many rows the evaluations had from the first on."""
    plain = PathSampler.count

    def plan(n: int, *numbers: int) -> list[int]:
        seen: list[int] = []

        def count(bound: PathSampler, rows: int) -> None:
            plain(bound, rows)
            seen.append(rows)
            if len(seen) == n:
                for number in numbers or (signal.SIGINT,):
                    os.kill(os.getpid(), number)

        monkeypatch.setattr(PathSampler, "count", count)
        return seen

    return plan


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted((folder / "images").iterdir())}


def record(folder: Path) -> dict[str, object]:
    return json.loads((folder / "sample.json").read_text())


EVALUATIONS = 3  # of a batch: two steps of Heun


@pytest.mark.parametrize(
    "numbers",
    [(signal.SIGINT,), pytest.param((signal.SIGINT, signal.SIGINT), marks=pytest.mark.slow)],
)
def test_the_line_that_a_stop_prints_draws_the_rest(run, stop, numbers, capsys):
    """Bit for bit: a batch is the same batch, whatever came before."""
    words = ["sample", f"run={run}", "n=10", "batch=4", "seed=3", "labels=[1,2,3]"]
    assert main([*words, f"name=whole{len(numbers)}"]) == 0
    whole = run / "samples" / f"whole{len(numbers)}"
    stop(2 * EVALUATIONS + 1, *numbers)
    capsys.readouterr()
    assert main([*words, f"name=part{len(numbers)}"]) == 130
    said = capsys.readouterr().err
    part = run / "samples" / f"part{len(numbers)}"
    assert f"SIGINT at 8 of 10 samples, kept in {part}; go on with: genlab sample" in said
    assert list(files(part)) == [f"{i:06d}.png" for i in range(8)]
    assert (record(part)["n"], record(part)["drawn"]) == (10, 8)
    assert (part / "grid.png").is_file()
    seen = stop(0)
    assert main(shlex.split(said.partition("go on with: ")[2])[1:]) == 0
    assert seen == EVALUATIONS * [2]
    assert files(part) == files(whole) and record(part) == record(whole)
    assert (part / "grid.png").read_bytes() == (whole / "grid.png").read_bytes()


def test_the_same_command_without_a_name_goes_on_too(run, stop):
    words = ["sample", f"run={run}", "n=6", "batch=2", "seed=4"]
    before = set((run / "samples").glob("*"))
    stop(EVALUATIONS + 2, signal.SIGTERM)
    assert main(words) == 143
    (folder,) = set((run / "samples").glob("*")) - before
    stop(0)
    assert main([*words[:-1], "seed=5"]) == 0, "another command: a folder of its own"
    assert len(files(folder)) == 2
    assert main(words) == 0
    assert len(files(folder)) == 6 and "drawn" not in record(folder)
    assert main(words) == 0
    assert len(set((run / "samples").glob("*")) - before) == 3, "it was done: a new folder"


def test_an_array_is_kept_too(run, stop):
    words = ["sample", f"run={run}", "n=6", "batch=4", "save=npy"]
    stop(EVALUATIONS + 1)
    assert main([*words, "name=array"]) == 130
    array = run / "samples/array/samples.npy"
    assert np.load(array).shape == (4, 1, 8, 8)
    stop(0)
    assert main([*words, "name=array"]) == 0
    assert np.array_equal(np.load(array), genlab.load(run).sample(6, batch=4))


def test_a_stop_before_the_first_samples_leaves_nothing(run, stop, capsys):
    stop(1)
    assert main(["sample", f"run={run}", "n=3", "name=none"]) == 130
    assert "SIGINT at 0 of 3 samples, none of them kept; begin again with" in (
        capsys.readouterr().err
    )
    assert not (run / "samples" / "none").exists()


def test_what_was_drawn_in_another_way_is_replaced(run, stop, capsys):
    words = ["sample", f"run={run}", "name=again", "batch=2"]
    assert main([*words, "n=4", "animate=true"]) == 0
    folder = run / "samples" / "again"
    first = files(folder)
    seen = stop(0)
    assert main([*words, "n=2"]) == 0 and not seen, "more are there than are asked for"
    assert files(folder) == first and record(folder)["n"] == 4
    capsys.readouterr()
    assert main([*words, "n=2", "seed=1"]) == 0
    assert "drawn in another way; they are replaced" in capsys.readouterr().err
    assert len(files(folder)) == 2 and not (folder / "trajectory.png").exists()


def test_the_grid_of_kept_colour_images_is_theirs(tmp_path):
    """Read back from their files."""
    from genlab.run import pictures
    from genlab.sampling.kept_samples import KeptSamples

    images = np.random.default_rng(0).integers(0, 256, (3, 3, 8, 8), dtype=np.uint8)
    for part in (range(2), range(2, 3)):
        kept = KeptSamples(tmp_path, {"seed": 0}, part.stop, "png")
        kept.keep(images[part.start : part.stop], part, 1)
        kept.finish()
    pictures.save(pictures.sheet(images), tmp_path / "expected.png")
    found, wanted = (Image.open(tmp_path / n) for n in ("grid.png", "expected.png"))
    assert np.array_equal(np.asarray(found), np.asarray(wanted))


def test_reconstructions_of_a_stopped_command_are_kept(
    vqvae, tmp_path, digits, monkeypatch, capsys
):
    from genlab.sampling.pipeline import Pipeline
    from tests.helpers.evaluations import save

    plain, calls = Pipeline.reconstruct, []

    def reconstruct(*given, **words):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(*given, **words)

    monkeypatch.setattr(Pipeline, "reconstruct", reconstruct)
    photos = save(digits[:7], tmp_path / "photos")
    assert main(["sample", f"run={vqvae}", f"from={photos}", "batch=2", "name=cut"]) == 143
    folder = vqvae / "samples" / "cut"
    said = capsys.readouterr().err
    assert re.search(rf"SIGTERM at 4 images, kept in {folder}; begin again with: genlab", said)
    assert len(files(folder)) == 4 == len(np.load(folder / "codes.npy"))
    assert len(json.loads((folder / "names.json").read_text())) == 4


def test_images_are_not_written_over_while_they_are_read(vqvae, tmp_path, digits, capsys):
    from tests.helpers.evaluations import save

    photos = save(digits[:3], tmp_path / "photos")
    assert main(["sample", f"run={vqvae}", f"from={photos}", "name=own"]) == 0
    folder = vqvae / "samples" / "own"
    assert main(["sample", f"run={vqvae}", f"from={folder}", "name=own"]) == 2
    assert "choose another name=" in capsys.readouterr().err and len(files(folder)) == 3
    assert main(["sample", f"run={vqvae}", f"from={folder}", "name=twice"]) == 0
    assert list(files(vqvae / "samples" / "twice")) == list(files(folder))


def test_a_checkpoint_is_chosen(run):
    first, *_, last = sorted(p.name for p in run.glob("checkpoints/[0-9]*"))
    for words, expected in ((f"checkpoint={int(first)}", first), ("checkpoint=latest", last)):
        assert main(["sample", f"run={run}", "n=1", f"name={expected}", words]) == 0
        assert record(run / "samples" / expected)["checkpoint"] == expected
    with pytest.raises(genlab.GenlabError, match="no checkpoint 'worst'"):
        genlab.load(run, checkpoint="worst")


def test_all_given_images_are_reconstructed_unless_fewer_are_asked_for(vqvae, tmp_path, digits):
    np.save(tmp_path / "given.npy", digits[:70, None])
    words = ["sample", f"run={vqvae}", f"from={tmp_path}/given.npy", "name=all"]
    for more, n in (([], 70), (["n=3"], 3)):
        assert main([*words, *more]) == 0
        assert len(json.loads((vqvae / "samples" / "all" / "names.json").read_text())) == n
