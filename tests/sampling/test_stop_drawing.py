"""A stop that is asked for while images are drawn does not wait for them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest
import torch

from genlab.assemble.bound_sampler import PathSampler
from genlab.core.errors import Stopped
from genlab.core.signals import DrawingStopped, Signals, check_stop
from genlab.evaluation.cache import ShardedCache, ranges
from genlab.model.path import PathModel
from genlab.run.directory import Run
from genlab.training import preview
from genlab.training.run_loop import train_run
from genlab.training.trainer import Trainer
from tests.helpers.runs import journal, started
from tests.training.test_resume import newest, same

SLOW = {"sampler": "langevin", "sampler.steps": 2, "sampler.repeats": 2**9}
QUICK = {"sampler": "ancestral", "sampler.steps": 4}
EVERY = {"every.log": 24, "every.checkpoint": 32, "every.sample": 24, "schedule.images": 48}
JUDGED = {"every.eval": 16, "metric": "swd", "eval.n": 24, "keep.best": "metric/swd"}


@pytest.fixture
def during(monkeypatch) -> Callable[[int], list[int]]:
    """during(n): SIGTERM comes in the n-th network evaluation of all that is drawn, once.

    Returns the list of rows of every evaluation from the first on.
    """
    plain = PathSampler.count

    def plan(n: int) -> list[int]:
        seen: list[int] = []

        def count(bound: PathSampler, rows: int) -> None:
            plain(bound, rows)
            seen.append(rows)
            if len(seen) == n:
                os.kill(os.getpid(), signal.SIGTERM)

        monkeypatch.setattr(PathSampler, "count", count)
        return seen

    return plan


def grids(run: Run) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted((run.path / "samples/train").glob("*.png"))}


def test_a_grid_is_abandoned_within_one_evaluation(tiny, during):
    """Even where the sampler evaluates the network hundreds of times between two states."""
    run = started(tiny("ddpm", **EVERY, **SLOW))
    seen = during(10)
    with pytest.raises(Stopped, match=r"SIGTERM at image 24, saved; go on with") as e:
        train_run(run.path)
    assert e.value.code == 143 and len(seen) == 10
    assert newest(run).name == f"{24:012d}" and run.status.startswith("interrupted: SIGTERM")
    assert not grids(run) and not (run.path / "metrics.jsonl").exists()


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_what_was_abandoned_is_done_when_the_run_goes_on(tiny, tmp_path, during, schedule):
    """Stopped in every drawing in turn, those of the last image and of its resume too."""
    keys = {**EVERY, **JUDGED, **QUICK, "schedule": schedule}
    whole = started(tiny("ddpm", **keys))
    seen = during(0)
    train_run(whole.path)
    run, at = started(tiny("ddpm", outputs=str(tmp_path / "stopped"), **keys)), []
    grid, evaluation = (
        4 * [preview.SAMPLES],
        4 * [24] + 4 * [1],
    )  # of which one draws what one sample costs
    assert seen == [*evaluation, *grid, *evaluation, *evaluation, *grid]
    for n in (2, 10, 6, 10, 10):
        seen = during(n)
        with pytest.raises(Stopped):
            train_run(run.path)
        assert len(seen) == n
        at.append(int(newest(run).name))
    assert at == [16, 24, 32, 48, 48]
    during(0)
    train_run(run.path)
    same(whole, run)
    assert grids(run) == grids(whole) and len(grids(run)) == 2
    assert run.status == "done"
    assert len(journal(run)) == 4, "16, 24, 32, 48"
    assert (run.path / "checkpoints/best").read_text() == (
        whole.path / "checkpoints/best"
    ).read_text()


@pytest.mark.parametrize("model", ["gan", "ddpm"])
def test_nothing_is_drawn_once_a_stop_is_asked_for(tiny, tmp_path, monkeypatch, model):
    plain = Trainer.one_step

    def one_step(trainer: Trainer) -> None:
        plain(trainer)
        if trainer.clock.images == 24:
            os.kill(os.getpid(), signal.SIGINT)

    keys = {**EVERY, **({} if model == "gan" else QUICK)}
    whole = started(tiny(model, **keys))
    train_run(whole.path)
    run = started(tiny(model, outputs=str(tmp_path / "stopped"), **keys))
    monkeypatch.setattr(Trainer, "one_step", one_step)
    with pytest.raises(Stopped) as e:
        train_run(run.path)
    assert e.value.code == 130 and not grids(run)
    train_run(run.path)
    same(whole, run)
    assert grids(run) == grids(whole)


def test_a_kill_after_the_drawing_was_made_up_for_doubles_no_line(tiny, tmp_path, during):
    """The checkpoint of the stop is still the last one then."""
    keys = {**EVERY, **QUICK}
    whole = started(tiny("ddpm", **keys))
    train_run(whole.path)
    run = started(tiny("ddpm", outputs=str(tmp_path / "stopped"), **keys))
    during(2)
    with pytest.raises(Stopped):
        train_run(run.path)
    (run.path / "metrics.jsonl").write_text('{"images": 24, "seconds": 1.0}\n')
    during(0)
    train_run(run.path)
    same(whole, run)


def test_only_a_drawing_that_may_be_stopped_checks_for_a_stop():
    with Signals() as signals:
        with signals.drawing():
            check_stop()  # nobody has asked
        signals.caught = signal.SIGTERM
        check_stop()
        with signals.drawing(False):
            check_stop()
        with pytest.raises(DrawingStopped), signals.drawing():
            check_stop()
        check_stop()


def test_parts_of_an_evaluation_are_given_up_between_each_other(tmp_path):
    """Features too, which ask no sampler."""
    made: list[int] = []

    def make(k: int) -> dict[str, torch.Tensor]:
        made.append(k)
        os.kill(os.getpid(), signal.SIGTERM)
        return {"x": torch.zeros(2)}

    cache = ShardedCache("samples", ranges(8, 2), lambda k: tmp_path / f"{k}.safetensors", make)
    with Signals() as signals, pytest.raises(DrawingStopped), signals.drawing():
        cache.load()
    assert made == [0] and (tmp_path / "0.safetensors").exists()


def test_a_likelihood_is_given_up_between_two_evaluations(tiny, monkeypatch):
    pytest.importorskip("torchdiffeq")
    plain, calls = PathModel.denoise, []

    def denoiser(model: PathModel, *given: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(model, *given)

    monkeypatch.setattr(PathModel, "denoise", denoiser)
    keys = {**EVERY, **QUICK, "codec": "dequantize"}
    run = started(tiny("ddpm", **keys, **{"every.eval": 16, "metric": "bpd", "eval.n": 4}))
    with pytest.raises(Stopped, match="SIGTERM at image 16, saved"):
        train_run(run.path)
    assert len(calls) == 3
