"""The table of paths by predictions: cells that are kept, and what commands said."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))

import table_paths

CELL = ("one weighting", "vp", "eps")


def given(home: Path, **keys) -> Namespace:
    return Namespace(
        **{"home": home, "images": 100, "samples": 20, "features": "small", "threads": 1} | keys
    )


def test_a_kept_cell_says_in_what_it_is_not_the_one_that_is_asked(tmp_path, monkeypatch, capsys):
    args = given(tmp_path)
    cell = {"seconds": 1.0, "numbers": {"4-small": {}}, **table_paths.asked(CELL, args)}
    assert table_paths.differences(cell, table_paths.asked(CELL, args)) == []
    changed = table_paths.asked(CELL, given(tmp_path, images=7, samples=30, features="raw"))
    features, words, samples = table_paths.differences(cell, changed)
    assert features == "features ['small'], asked ['raw']"
    assert "schedule.images=100" in words and "schedule.images=7" in words
    assert samples == "samples 20, asked 30"
    old = {k: v for k, v in cell.items() if k != "samples"}
    assert len(table_paths.differences(old, changed)) == 2

    file = table_paths.kept(tmp_path, CELL)
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({**cell, "numbers": {}}))
    monkeypatch.setattr(table_paths, "cells", lambda: [CELL])
    monkeypatch.setattr(table_paths, "run_cell", lambda *_: pytest.fail("it is done"))
    monkeypatch.setattr(
        sys, "argv", ["", f"--home={tmp_path}", "--images=100", "--samples=30", "--features=small"]
    )
    table_paths.main()
    said = capsys.readouterr().out
    assert "one weighting, vp, eps: kept as it is, with samples 20, asked 30" in said


def test_what_a_command_said_is_in_the_log(tmp_path):
    with pytest.raises(SystemExit, match=r"failed with 2: see .*log\.txt"):
        table_paths.genlab(tmp_path / "cell", "train", "model=nothing")
    log = (tmp_path / "cell/log.txt").read_text()
    assert log.startswith("genlab train model=nothing\n") and "nothing" in log.split("\n", 1)[1]
