"""Ctrl-C on a terminal: what is on the screen afterwards."""

from __future__ import annotations

import re
import shlex
import time

import pytest

from genlab.cli.main import main
from tests.helpers.runs import trained
from tests.helpers.terminal import Session, screen

pytestmark = pytest.mark.slow

FEW = ["hardware.threads=1", "hardware.device=cpu", "hardware.precision=fp32"]


def clean(session: Session) -> list[str]:
    """The last lines of a clean screen: cursor shown and at the start, no traceback, no ^C."""
    lines, column, shown = screen(session.text)
    assert shown and column == 0, session.text
    assert "Traceback" not in session.text
    lines = [line for line in lines if line]
    assert not any("^C" in line and "genlab" in line for line in lines), lines
    return lines


@pytest.mark.parametrize("term", ["xterm-256color", "dumb"])
@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_in_sample(tmp_path_factory, tmp_path, term, times):
    run = trained(tmp_path_factory, "flow_matching")
    words = [f"run={run}", "n=2000", "batch=8", "sampler=euler", "sampler.steps=40", "name=t"]
    session = Session("sample", *words, *FEW, cwd=tmp_path, term=term)
    session.until(r"samples.* \d\d+/2000" if term != "dumb" else r"samples: \d+ of 2,000")
    for _ in range(times):
        session.ctrl_c()
        time.sleep(0.02)
    assert session.finish() == 130
    lines = clean(session)
    said = " ".join(lines)
    kept = len(list((run / "samples/t/images").iterdir()))
    assert f"SIGINT at {kept} of 2,000 samples, kept in" in said
    assert f"{kept}/2000" not in said, "the bar is gone"
    again = re.search(r"go on with: genlab (.*)$", said)
    assert again and f"run={run}" in again[1] and "name=t" in again[1]
    assert main(shlex.split(again[1].replace("n=2000", f"n={kept + 3}"))) == 0
    assert len(list((run / "samples/t/images").iterdir())) == kept + 3


@pytest.mark.parametrize("term", ["xterm-256color", "dumb"])
@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_in_training(tmp_path, term, times):
    words = ["schedule.images=1_000_000", "schedule.batch=512", "every.log=512"]
    session = Session("train", *words, *FEW, cwd=tmp_path, term=term)
    session.until(r"img/s")
    session.ctrl_c()
    if times == 2:
        session.until("Ctrl-C again: at once")
        time.sleep(0.1)
        session.ctrl_c()
    assert session.finish() == 130
    lines = clean(session)
    (run,) = tmp_path.glob("outputs/*/*")
    resume = f"genlab resume run={run.name[-6:]}"
    assert lines[-1].endswith(f"go on with {resume}")
    how = "Ctrl-C, at once: nothing is saved;" if times == 2 else "SIGINT at image"
    assert lines[-1].startswith(f"genlab: {how}"), lines[-1]
    if term != "dumb":
        frames = [line for line in lines if line.startswith(("╭", "╰"))]
        assert [line[0] for line in frames] == ["╭", "╰"], "one panel, whole"
    assert sum("stopping after this step" in line for line in lines) == 1


def test_ctrl_c_before_anything_has_begun(tmp_path):
    session = Session("train", *FEW, cwd=tmp_path)
    time.sleep(0.6)  # torch is being imported
    session.ctrl_c()
    assert session.finish() == 130
    assert clean(session)[-1].startswith("genlab: ")
