"""Command lines that are printed do what they say, typed in the folder where they were printed."""

from __future__ import annotations

import html
import re
import shlex
from pathlib import Path

import pytest

from genlab.cli.main import main
from genlab.core import registry
from genlab.run.directory import Run
from tests.helpers.runs import small, started

QUICK = ["schedule.images=16", "schedule.batch=8", "every.sample=16", "hardware.threads=1"]


def type_in(line: str) -> None:
    """The line of a shell, or of Python after its import."""
    if line.startswith("genlab "):
        assert main(shlex.split(line)[1:]) == 0, line
    else:
        exec(f"import genlab\n{line}", {})


@pytest.fixture
def few(monkeypatch):
    """An evaluation of few samples by one metric."""
    every = registry.names
    known = lambda group, *folders: ["swd"] if group == "metric" else every(group, *folders)  # noqa: E731
    monkeypatch.setattr(registry, "names", known)
    monkeypatch.setattr("genlab.evaluation.verb.number_of_samples", lambda *given, **how: 24)


def test_what_a_run_elsewhere_with_a_model_of_ones_own_prints(tmp_path, monkeypatch, few, capsys):
    monkeypatch.chdir(tmp_path)
    yaml = Path("own groups/model/mine.yaml")
    yaml.parent.mkdir(parents=True)
    yaml.write_text("# @package _global_\n# Mine.\ndefaults: [gan]\n")
    words = ["--config-dir", "own groups", "model=mine", "data=digits", "outputs=my runs", *QUICK]
    assert main(["train", *words]) == 0
    (folder,) = Path("my runs").glob("gan-digits/*/")
    ends = re.findall("draw from it with (genlab sample .*)", capsys.readouterr().err)
    assert main(["train", *words]) == 0
    ends += re.findall("(genlab train .*) trains another", capsys.readouterr().out)
    page = (folder / "report.html").read_text()
    section = page[page.index('id="commands"') :].partition("</section>")[0]
    lines = [html.unescape(line) for line in re.findall("<code>(.*?)</code>", section)]
    verbs = [line.split()[1] if line.startswith("genlab ") else "python" for line in lines]
    assert (verbs, len(ends)) == (["sample", "eval", "python", "resume", "train"], 2)
    for line in (*ends, *lines):
        type_in(line)
    assert len(list(Path("my runs").glob("gan-digits/*/"))) == 3, "two were trained from the start"
    assert not list(Path("outputs").glob("*/*/config.yaml"))
    assert main(["sample", "run=nobody", "outputs=my runs"]) == 2
    (line,) = re.findall("`(genlab .*?)`", capsys.readouterr().err)
    type_in(line)
    assert Run(folder).id in capsys.readouterr().out


def test_a_run_is_named_by_its_id_where_that_finds_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = started(small("gan", "digits", outputs="outputs"))
    assert first.reference == first.id
    again = started(small("gan", "digits", outputs="outputs")).path
    second = Run(again.rename(again.with_name(f"20990101-000000-{first.id}")))
    assert (first.reference, second.reference) == (str(first.path), second.id)
    away = started(small("gan", "digits", outputs="elsewhere"))
    assert away.reference == str(away.path)
