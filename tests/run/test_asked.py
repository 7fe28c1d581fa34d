"""What words, configs and names of files show to be wrong is said before torch is imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.configs import composed

ROOT = Path(__file__).parents[2]

PROGRAM = """
import contextlib, io, json, sys
from genlab.cli.main import main
from genlab.features import missing
missing.PACKAGE = "no_such_package"
found = []
for words in json.loads(sys.argv[1]):
    err = io.StringIO()
    with contextlib.redirect_stderr(err):
        code = main(words.split())
    found.append([code, err.getvalue(), "torch" in sys.modules])
print(json.dumps(found))
"""


@pytest.mark.slow
def test_torch_is_not_imported_to_say_what_is_wrong(tmp_path: Path) -> None:
    config = composed("model=gan data=digits")
    run = tmp_path / "gan-digits" / "20260102-030405-abc123"
    saved = run.parent / "20260102-030406-abc124"
    for folder in (run, saved):
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "config.yaml").write_text(json.dumps(config))
    (saved / "checkpoints" / "000000000064").mkdir()
    (saved / "checkpoints" / "000000000064" / "manifest.json").write_text("{}")
    asked = {
        "sample run=nope": (2, "no run 'nope'"),
        "eval run=nope": (2, "no run 'nope'"),
        "resume run=nope": (2, "no run 'nope'"),
        "report run=nope": (2, "no run 'nope'"),
        "sample run=abc123": (4, "has no checkpoint yet"),
        "eval run=abc123": (4, "has no checkpoint yet"),
        "sample run=abc124 weights=0.07": (2, "needs a run that keeps power-function averages"),
        "eval run=abc124 weights=0.07 metric=fid": (2, "needs a run that keeps"),
        "sample run=abc124 n=0": (2, "n must be"),
        "eval run=abc124 metric=fid features=inception": (5, "weights of its network"),
        "train data=digits metric=fid features=inception": (5, "weights of its network"),
    }
    words = [f"{line} outputs={tmp_path}" for line in asked]
    environment = {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(words)],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for (code, err, torch), (line, (wanted, words_of)) in zip(
        json.loads(done.stdout), asked.items(), strict=True
    ):
        assert code == wanted and words_of in err, (line, err)
        assert not torch, line
