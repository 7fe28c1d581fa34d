"""What an experiment promises: checked as a key, shown, and never a part of what is computed."""

from __future__ import annotations

import json
import shutil
from html import unescape

import pytest

from genlab.cli import show
from genlab.cli.list import components
from genlab.config import catalog
from genlab.config import compose as cfg
from genlab.core import registry
from genlab.core.errors import ConfigError
from genlab.report.report import write_report
from tests.helpers.runs import started

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
    plain, _ = cfg.compose([])
    promised, who = cfg.compose(["experiment=mine"], experiment(tmp_path))
    assert plain["promise"] is None and promised["promise"] == PROMISE
    assert cfg.digest(plain) == cfg.digest(promised)
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
        cfg.compose(["experiment=mine"], experiment(tmp_path, **changes))
    assert e.value.problems == (words,)


def test_a_promise_that_is_no_mapping():
    with pytest.raises(ConfigError, match="promise must be null or a mapping of metric, value"):
        cfg.compose(["promise=3"])


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


def page(run, *lines):
    """The section of the report, as text with its tags."""
    (run.path / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    text = write_report(run.path).read_text()
    assert text.count('id="expected"') <= 1
    return text.partition('id="expected"')[2].partition("</section>")[0]


def test_the_report_holds_it_against_what_was_measured(tiny):
    assert page(started(tiny("gan"))) == ""
    run = started(tiny("gan", promise=PROMISE))
    text = page(run, {"images": 8, "loss/d": 1.0})
    for words in ("3.35 ± 0.1 after 102,400 images", "not measured yet", *map(str, (
        PROMISE["protocol"], PROMISE["source"]))):  # fmt: skip
        assert words in unescape(text), words
    text = page(run, {"images": 8, "heldout/loss": 3.27}, {"images": 16, "heldout/loss": None})
    assert "3.27 after 8 images: as expected" in text
    assert "3.5 after 8 images: off by +0.15" in page(run, {"images": 8, "heldout/loss": 3.5})


EVIL = "<script>alert(1)</script>"


@pytest.mark.parametrize(
    "promise",
    [
        dict.fromkeys(PROMISE, EVIL),
        {EVIL: 1},
        {"metric": [EVIL], "value": {"a": EVIL}, "images": 10**400, "tolerance": 10**400},
        [EVIL],
        EVIL,
        {"metric": "heldout/loss", "value": True, "tolerance": "0"},
    ],
)
def test_a_foreign_promise_is_only_text(tiny, promise):
    run = started(tiny("gan"))
    path = run.path / "config.yaml"
    path.write_text(path.read_text().replace("promise: null", f"promise: {json.dumps(promise)}"))
    text = page(run, {"images": 8, "heldout/loss": 1.0})
    assert EVIL not in text
