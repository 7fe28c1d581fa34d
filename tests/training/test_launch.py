"""From a command line to a run that trains: what is made, how often, and where."""

from __future__ import annotations

from pathlib import Path

import pytest

from genlab.cli import main as cli
from genlab.core import subprocesses
from genlab.core.errors import Locked
from genlab.run.directory import Run
from genlab.training import launch, setup
from tests.helpers.runs import started
from tests.training.test_resume import words


@pytest.fixture
def made(monkeypatch) -> list[str]:
    """What was made of a config so far: "checked" is without storage of weights."""
    calls: list[str] = []
    build, metrics = setup.build, setup.TrainingMetrics

    def built(config, *, meta, **trust):
        calls.append("checked" if meta else "built")
        return build(config, meta=meta, **trust)

    def evaluated(pipeline, *, trust):
        calls.append("evaluator")
        return metrics(pipeline, trust=trust)

    monkeypatch.setattr(setup, "build", built)
    monkeypatch.setattr(setup, "TrainingMetrics", evaluated)
    return calls


def test_all_is_made_once_by_a_process_that_trains(tiny, made):
    line = words(tiny("gan"), ["schedule.images", "schedule.batch", "every.sample", "every.eval"])
    assert cli.main(["train", *line]) == 0
    assert made == ["built", "evaluator"]
    assert cli.main(["train", *line]) == 0
    assert made == ["built", "evaluator"], "a run that is done is left alone"
    outputs = next(w for w in line if w.startswith("outputs="))
    assert cli.main(["resume", outputs, "schedule.images=80"]) == 0
    assert made == 2 * ["built", "evaluator"]


@pytest.mark.parametrize("here", [[], ["here"]])
def test_ranks_make_their_own_and_the_process_that_starts_them_checks(
    tiny, made, monkeypatch, here, tmp_path
):
    monkeypatch.chdir(tmp_path)
    if here:  # where code of one's own is looked for, which ranks are to know
        monkeypatch.syspath_prepend(str(tmp_path))
    started_ranks = []
    monkeypatch.setattr(subprocesses, "run_ranks", lambda *given: started_ranks.append(given) or 0)
    config = tiny("gan", **{"hardware.devices": 2})
    run = started(config)
    assert launch.launch(config, lambda: run, trust=True, allow=["world"]) == 0
    assert made == ["checked", "evaluator"]
    assert started_ranks == [(["__work", str(run.path), "world", "trust", *here], 2)]


def test_nothing_is_made_of_a_run_that_another_process_trains(tiny, made, capsys):
    config = tiny("gan")
    line = words(config, ["schedule.images", "schedule.batch", "every.sample", "every.eval"])
    assert cli.main(["train", *line]) == 0
    (path,) = Path(config["outputs"]).glob("gan-digits/*")
    made.clear()
    with Run(path).lock():
        assert cli.main(["resume", f"run={path}", "schedule.images=80"]) == Locked.code
    assert made == [] and "works on" in capsys.readouterr().err
