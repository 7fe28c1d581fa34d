"""Code that a config names is imported for its own author, and for nobody who was sent it."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

import genlab
from genlab.assemble.components import build
from genlab.core.errors import Refused
from genlab.run.directory import Run
from genlab.run.trust import made_here, trusted
from genlab.training.run_loop import train_run
from tests.helpers.runs import Config, small, started

CODE = """
from genlab.optimizer.adamw import AdamW

class Own(AdamW):
    pass
"""


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch) -> Path:
    """The state folder of a user, and a module of theirs."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    module = tmp_path / "modules" / "own_optimizer.py"
    module.parent.mkdir()
    module.write_text(CODE)
    monkeypatch.syspath_prepend(str(module.parent))
    yield tmp_path / "state"
    sys.modules.pop("own_optimizer", None)


def config(folder: Path, **keys: object) -> Config:
    found = small("flow_matching", "digits", outputs=str(folder), **keys)
    found["optimizer"]["name"] = "own_optimizer:Own"
    return found


def sent(run: Run, monkeypatch: pytest.MonkeyPatch, to: Path) -> Path:
    """The run as another user has it, who was sent the whole outputs."""
    monkeypatch.setenv("XDG_STATE_HOME", str(to / "state"))
    return Path(shutil.copytree(run.path, to / "outputs" / run.path.parent.name / run.path.name))


def test_a_run_made_here_needs_no_word(tmp_path, state):
    run = started(config(tmp_path / "outputs"))
    train_run(run.path)
    assert made_here(run.path)
    assert (state / "genlab" / "key").stat().st_mode & 0o777 == 0o600
    assert genlab.load(run.path).sample(1).shape == (1, 1, 8, 8)
    with run.lock():
        run.rewrite_config({**run.config, "keep": {"last": 1, "best": None}}, [])
    assert made_here(run.path)


def test_code_that_was_typed_for_a_run_without_any_is_ones_own(tmp_path):
    run = started(small("flow_matching", "digits", outputs=str(tmp_path / "outputs")))
    with run.lock():
        run.rewrite_config(config(tmp_path / "outputs"), [])
    assert made_here(run.path)


def test_a_run_that_was_sent_needs_one(tmp_path, monkeypatch):
    run = started(config(tmp_path / "outputs"))
    train_run(run.path)
    path = sent(run, monkeypatch, tmp_path / "other")
    assert not made_here(path)
    with pytest.raises(Refused, match="own_optimizer:Own"):
        genlab.load(path)
    assert genlab.load(path, trust=True).sample(1).shape == (1, 1, 8, 8)


def test_another_config_is_not_made_here(tmp_path):
    run = started(config(tmp_path / "outputs"))
    text = (run.path / "config.yaml").read_text()
    (run.path / "config.yaml").write_text(text.replace("own_optimizer", "its_optimizer"))
    assert not made_here(run.path)


def test_a_run_without_code_of_its_own_leaves_no_key(tmp_path, state):
    started(small("flow_matching", "digits", outputs=str(tmp_path / "outputs")))
    assert not state.exists()


@pytest.mark.parametrize("trust", [False, True, ["somewhere/else"]])
def test_the_code_of_a_run_that_is_named_is_asked_for_by_its_path(tmp_path, monkeypatch, trust):
    run = started(config(tmp_path / "outputs"))
    train_run(run.path)
    path = sent(run, monkeypatch, tmp_path / "other")
    own = small("flow_matching", "digits", outputs=str(tmp_path / "outputs"))
    own["guidance"] = {
        "name": "autoguidance",
        "scale": 2.0,
        "run": str(path),
        "checkpoint": "latest",
        "weights": "ema",
        "interval": None,
    }
    sys.modules.pop("own_optimizer", None)  # which its training imported
    paths = [] if isinstance(trust, bool) else trust
    with pytest.raises(Refused, match=rf"own_optimizer:Own.*trust=\[{path}\]"):
        build(own, trust_runs=paths)
    assert "own_optimizer" not in sys.modules
    build(own, trust_runs=[str(path)])
    assert "own_optimizer" in sys.modules


def test_true_is_of_the_run_that_is_named_first(tmp_path):
    assert trusted(tmp_path, True, first=True) and not trusted(tmp_path, True)
    assert trusted(tmp_path, [str(tmp_path)]) and not trusted(tmp_path, [str(tmp_path / "x")])
