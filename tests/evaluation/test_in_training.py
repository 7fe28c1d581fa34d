"""Metrics while training: what they decide, and what they may not do."""

import json
import math
import shutil

import pytest

from genlab.cli.main import main
from genlab.config.compose import validate
from genlab.run.directory import Run
from genlab.run.results import results
from genlab.training.run_loop import train_run
from tests.helpers.evaluations import value
from tests.helpers.runs import started


def test_metrics_while_training_decide_the_best(tiny):
    keys = {
        "schedule.images": 64,
        "every.eval": 16,
        "every.log": 16,
        "metric": "fid",
        "features": "raw",
        "eval.n": 24,
        "keep.best": "metric/fid",
    }
    run = started(tiny("gan", **keys))
    assert train_run(run.path) == 0
    rows = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    found = {r["images"]: r["metric/fid"] for r in rows if "metric/fid" in r}
    assert list(found) == [16, 32, 48, 64]
    best = (run.path / "checkpoints/best").read_text().strip()
    assert int(best) == min(found, key=found.get)
    [result] = results(run.path)
    assert result.path.name == "training"
    assert value(result, "fid") == found[64]
    assert not (result.path / ".streams").exists()


def test_the_best_is_never_one_that_is_not_finite(tiny, monkeypatch):
    from genlab.core.errors import DataError
    from genlab.core.metric import MetricResult
    from genlab.metric.fid import FID

    values = iter([math.nan, 3.0, DataError("constant"), 5.0])

    def fid(self, inputs):
        found = next(values)
        if isinstance(found, Exception):
            raise found
        return MetricResult({"fid": found})

    monkeypatch.setattr(FID, "__call__", fid)
    keys = {"every.eval": 16, "metric": "fid", "features": "raw", "eval.n": 8}
    run = started(tiny("gan", **keys, **{"keep.best": "metric/fid"}))
    assert train_run(run.path) == 0
    assert int((run.path / "checkpoints/best").read_text()) == 32


def test_high_is_better_where_a_metric_says_so(tiny, monkeypatch):
    from genlab.core.metric import MetricResult
    from genlab.metric.fid import FID

    values = iter([1.0, 4.0, 2.0, 3.0])
    monkeypatch.setattr(FID, "__call__", lambda self, e: MetricResult({"fid": next(values)}))
    init = FID.__init__

    def high(self, **keys):
        init(self, **keys)
        self.lower_is_better, self.higher_is_better = (), ("fid",)

    monkeypatch.setattr(FID, "__init__", high)
    keys = {"every.eval": 16, "metric": "fid", "features": "raw", "eval.n": 8}
    run = started(tiny("gan", **keys, **{"keep.best": "metric/fid"}))
    assert train_run(run.path) == 0
    assert int((run.path / "checkpoints/best").read_text()) == 32


def test_training_refuses_metrics_before_it_begins(tiny, tmp_path, capsys):
    words = ["train", "model=gan", "data=digits", f"outputs={tmp_path}", "features=raw"]
    assert main([*words, "metric=bpd"]) == 2
    assert "metric=bpd: it needs likelihoods" in capsys.readouterr().err
    assert main([*words, "metric=fid", "keep.best=metric/fid_bias"]) == 2
    assert "gives metric/fid" in capsys.readouterr().err
    assert not list(tmp_path.glob("gan-digits/*"))


def test_a_metric_of_a_foreign_run_leaves_no_folder_and_imports_nothing(tiny, tmp_path):
    from genlab.core.errors import ConfigError, Refused
    from genlab.run.results import write_result

    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "kept").touch()
    with pytest.raises(Refused, match="would leave the folder"):
        write_result(tmp_path / "a/b", {}, {"../../victim": {"values": {"x": 1.0}}}, {})
    assert (victim / "kept").exists()
    config = tiny("gan")
    config["metric"] = {"../../victim": {"name": "nearest", "pairs": 2}}
    assert any("letters, digits" in p for p in validate(config))
    config["metric"] = {"x": {"name": "json.decoder:JSONDecoder"}}
    run = started(config)
    with pytest.raises((Refused, ConfigError)):
        train_run(run.path, trust=False)


def test_a_metric_that_cannot_be_computed_leaves_the_training_alone(tiny, monkeypatch):
    """Also one whose values are not called as it is."""
    from genlab.core.errors import DataError
    from genlab.metric.prdc import PRDC

    def refuse(self, inputs):
        raise DataError("all samples are equal")

    monkeypatch.setattr(PRDC, "__call__", refuse)
    keys = {"every.eval": 32, "metric": "prdc", "features": "raw", "eval.n": 12}
    run = started(tiny("gan", **keys, **{"keep.best": "metric/prdc_recall"}))
    assert train_run(run.path) == 0
    assert not (run.path / "checkpoints/best").exists()


def newest_state(run):
    return json.loads(max(run.path.glob("checkpoints/0*/state.json")).read_text())


def test_the_best_begins_anew_when_it_means_something_else(tiny, capsys):
    """A loss of 0.03 must not be the best FID for ever."""
    keys = {"every.eval": 16, "features": "raw", "schedule.images": 32}
    keys |= {"network.net.levels": 1, "network.net.depth": 1}
    run = started(tiny("glow", **keys))
    assert train_run(run.path) == 0
    loss = newest_state(run)
    assert loss["best_of"] == "heldout/loss of 20 data"
    words = ["metric=fid", "eval.n=12", "keep.best=metric/fid", "schedule.images=64"]
    assert main(["resume", f"run={run.path}", *words]) == 0
    state = newest_state(run)
    assert state["best_of"].startswith('["metric/fid"')
    assert state["best"] > loss["best"]
    assert int((run.path / "checkpoints/best").read_text()) > 32


def test_resume_refuses_a_metric_and_keeps_the_config(gan, capsys):
    before = (gan / "config.yaml").read_text()
    words = ["resume", f"run={gan}", "schedule.images=128"]
    assert main([*words, "metric=bpd"]) == 2
    assert "metric=bpd: it needs likelihoods" in capsys.readouterr().err
    assert (gan / "config.yaml").read_text() == before
    assert Run(gan).status == "done"


def test_a_moment_of_a_training_takes_no_sample_of_another(tiny, monkeypatch):
    """Not even where an old folder cannot be deleted."""
    monkeypatch.setattr(shutil, "rmtree", lambda *args, **keys: None)
    keys = {"every.eval": 32, "metric": "swd", "eval.n": 12}
    run = started(tiny("gan", **keys))
    assert train_run(run.path) == 0
    first, last = sorted((run.path / "eval/training").glob(".streams-*"))
    one, two = ((f / "fake-0000000-12.safetensors").read_bytes() for f in (first, last))
    assert one != two
