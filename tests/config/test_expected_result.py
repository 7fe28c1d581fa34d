"""The expected result of an experiment: checked as a key, shown, never part of the digest."""

from __future__ import annotations

import json
import shutil

import pytest

from genlab.cli import show
from genlab.cli.list import components
from genlab.config import catalog
from genlab.config.compose import compose, digest, provenance
from genlab.core import registry
from genlab.core.errors import ConfigError

PROMISE = {
    "metric": "heldout/loss",
    "value": 3.35,
    "tolerance": 0.1,
    "images": 102_400,
    "protocol": "mean over the test split",
    "source": "arXiv 1807.03039, table 2",
}


def experiment(folder, **changes):
    """A config folder with one experiment that promises something."""
    made = {k: v for k, v in {**PROMISE, **changes}.items() if v is not None}
    (folder / "experiment").mkdir()
    lines = [f"  {k}: {json.dumps(v)}\n" for k, v in made.items()]
    text = "# @package _global_\n# A recipe.\npromise:\n" + "".join(lines)
    (folder / "experiment/mine.yaml").write_text(text)
    return [str(folder)]


def test_a_promise_is_part_of_the_config_and_not_of_what_is_computed(tmp_path):
    plain = compose([])
    words = ["experiment=mine"], experiment(tmp_path)
    promised, who = compose(*words), provenance(*words)
    assert plain["promise"] is None and promised["promise"] == PROMISE
    assert digest(plain) == digest(promised)
    assert who["promise.value"] == "experiment/mine.yaml"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"valeu": 3}, "promise.valeu: a promise has no such key. Did you mean 'value'?"),
        ({"tolerance": None}, "promise: a promise needs the key tolerance"),
        ({"tolerance": -1}, "promise.tolerance must be a finite number >= 0, not -1"),
        ({"value": "low"}, "promise.value must be a finite number, not 'low'"),
        ({"images": 1.5}, "promise.images must be a whole number >= 1, not 1.5"),
        ({"source": 7}, "promise.source must be text, not 7"),
    ],
)
def test_a_promise_is_checked_like_any_key(tmp_path, changes, words):
    with pytest.raises(ConfigError) as e:
        compose(["experiment=mine"], experiment(tmp_path, **changes))
    assert e.value.problems == (words,)


def test_a_promise_that_is_no_mapping():
    with pytest.raises(ConfigError, match="promise must be null or a mapping of metric, value"):
        compose(["promise=3"])


def test_show_and_list_tell_it(tmp_path, monkeypatch):
    text = show.text(["experiment=mine"], experiment(tmp_path))
    row = next(r for r in text.splitlines() if r.split()[:1] == ["promise.tolerance"])
    assert "0.1" in row and "float >= 0" in row and "experiment/mine.yaml" in row
    configs = tmp_path / "configs"
    shutil.copytree(registry.configs_dir(), configs)
    shutil.copy(tmp_path / "experiment/mine.yaml", configs / "experiment")
    for module in (registry, catalog):
        monkeypatch.setattr(module, "configs_dir", lambda: configs)
    docs = {row["name"]: row["doc"] for row in components("experiment")}
    assert docs["mine"] == "A recipe. (heldout/loss 3.35)"
