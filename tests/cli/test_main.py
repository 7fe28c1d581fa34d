"""The command line: what it answers, how it fails, and what it must never import."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from genlab import __version__
from genlab.cli import main as cli
from genlab.cli.verb import VERBS, Verb
from genlab.config import catalog, overrides
from genlab.core import registry
from genlab.core.errors import ConfigError, DataError, Diverged, Refused, explain

ROOT = Path(__file__).parents[2]


def run(capsys, *argv):
    """(exit code, stdout, stderr) of a command line, in this process."""
    code = cli.main(list(argv))
    out, err = capsys.readouterr()
    return code, out, err


def genlab(*argv, **kwargs):
    """A `genlab` of its own."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), **kwargs.pop("env", {})}
    command = [sys.executable, "-m", "genlab", *argv]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=120, **kwargs)


# --- light answers -----------------------------------------------------------------------------

LIGHT = [
    *(["--help"], ["--version"], [], ["trian"], ["completion", "bash"]),
    *([verb, "--help"] for verb in VERBS),
    *(["list", group] for group in catalog.groups()),
    *(["list"], ["list", "runs"], ["list", "models", "--json"], ["list", "no_such_group"]),
    *(["__complete", f"genlab train {word}"] for word in ("hardware.precision=", "optimizer.")),
    *(["train", word] for word in ("model=no_such_model", "no_such_key=1", "seed=0,1")),
]


def test_light_answers_import_nothing_heavy(tmp_path):
    """One interpreter answers them all; none of the heavy packages may be there afterwards."""
    program = (
        "import json, sys\n"
        "from genlab.cli import main as cli\n"
        f"for argv in {LIGHT!r}:\n"
        "    code = cli.main(argv)\n"
        "    heavy = {'torch', 'hydra', 'omegaconf', 'yaml', 'numpy', 'rich', 'PIL', 'wandb',\n"
        "        'tensorboard'}\n"
        "    heavy &= set(sys.modules)\n"
        "    assert not heavy, (argv, heavy)\n"
        "    assert code in (0, 2), (argv, code)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "internal error" not in done.stderr


def test_show_and_a_wrong_key_do_not_import_torch_and_attention_not_its_compiler(tmp_path):
    program = (
        "import sys\n"
        "from genlab.cli import main as cli\n"
        "assert cli.main(['show', 'seed=3']) == 0\n"
        "assert cli.main(['train', 'optimizer.no_such_key=3']) == 2\n"
        "assert cli.main(['train', 'optimizer.lr=fast']) == 2\n"
        "assert 'hydra' in sys.modules and 'torch' not in sys.modules\n"
        "import genlab.kernel.dispatch, genlab.config.compose\n"
        "genlab.config.compose.compose(['model=flow_matching'])\n"
        "assert 'torch._dynamo' not in sys.modules, 'a second of its own'\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_help_and_version(capsys):
    assert run(capsys, "--version") == (0, f"genlab {__version__}\n", "")
    code, out, _ = run(capsys, "--help")
    assert code == 0 and all(f"  {verb} " in out for verb in VERBS)
    assert run(capsys)[1] == out, "no words at all are a question, too"
    code, out, _ = run(capsys, "train", "--help")
    assert code == 0
    for group in catalog.groups():
        assert f"{group}=" in out and all(name in out for name in registry.names(group))
    for key in "seed outputs data.root schedule.images optimizer.lr model.classes".split():
        assert f"  {key}=" in out, key
    for verb in VERBS:
        assert run(capsys, verb, "--help")[1].startswith(f"genlab {verb}: ")


# --- words and groups ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["model=gan", "seed=1", "optimizer.lr=1e-4", "hydra/launcher=joblib"],
        ["++seed=1", "~experiment", "experiment=null", "model='gan'", 'model="gan"'],
        ["+extra.note=hello", "model=${oc.env:X}", "allow=[config,world]"],
        ["optimizer.players={d: {lr: 1, clip: 2}}", "keep.best='a,b'"],
    ],
)
def test_what_only_hydra_can_check_is_left_to_it(words):
    assert overrides.check(words, primary="train", more=["allow"]) == []


def test_a_folder_of_ones_own_adds_components(tmp_path, capsys):
    (tmp_path / "optimizer").mkdir()
    mine = tmp_path / "optimizer" / "mine.yaml"
    mine.write_text((registry.configs_dir() / "optimizer" / "adam.yaml").read_text())
    folder = ["--config-dir", str(tmp_path)]
    assert run(capsys, "show", *folder, "optimizer=mine")[0] == 0
    assert "'mine'" in run(capsys, "show", *folder, "optimizer=mein")[2]
    assert run(capsys, "show", "optimizer=mine")[0] == 2
    mine.rename(mine.with_name("adam.yaml"))
    assert "would not be read" in run(capsys, "show", *folder, "optimizer=adam")[2]


@pytest.mark.parametrize(
    "value",
    ["1", "1,2", "a,b,c", "[1,2]", "'a,b'", '"a,b",c', "{a: 1, b: 2}", "[1,2],[3]", r"a\,b", ""],
)
def test_sweeps_are_split_as_hydra_splits_them(value):
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_override(f"key={value}")
    count = len(list(parsed.sweep_iterator())) if parsed.is_sweep_override() else 1
    assert len(overrides.split(value)) == count


# --- errors ------------------------------------------------------------------------------------


class OutOfMemoryError(RuntimeError):
    """Named like torch's."""


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (DataError("no data: put it there"), 3, "genlab: no data: put it there\n"),
        (Diverged("loss"), 6, "genlab: loss\n"),
        (Refused("pickle"), 11, "genlab: pickle\n"),
        (ConfigError("one", "two"), 2, "genlab: one\ngenlab: two\n"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (MemoryError(), 8, "lower schedule.batch"),
        (OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. G"), 8, "2.00 GiB)"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 8, "out of memory"),
        (OSError(errno.ENOSPC, "full", "/x/y"), 7, "cannot use /x/y: the disk is full"),
        (OSError(errno.EDQUOT, "quota", "/x/y"), 7, "/x/y"),
        (OSError(errno.EROFS, "ro", "/x/y"), 7, "/x/y: the file system is read-only"),
        (PermissionError(errno.EACCES, "denied", "/x/y"), 7, "/x/y: no permission"),
        (ModuleNotFoundError("m", name="hydra.core"), 5, "'hydra'"),
        (ModuleNotFoundError("m", name="genlab.nowhere"), 1, "internal error"),
        (ZeroDivisionError("by zero\nand"), 1, "internal error: ZeroDivisionError: by zero ("),
    ],
)
def test_errors_become_sentences_and_codes(capsys, monkeypatch, error, code, words):
    def fail(call):
        raise error

    monkeypatch.setitem(VERBS, "doctor", Verb("fails", fail))
    got, _, err = run(capsys, "doctor")
    assert got == code and words in err and "Traceback" not in err
    got, _, err = run(capsys, "-v", "doctor")
    assert got == code and words in err and "Traceback" in err


def test_advice_for_sample_names_its_own_key():
    assert "lower batch," in explain(MemoryError(), "sample")[1][0]


@pytest.mark.parametrize("argv", [["list"], ["train", "--help"]])
def test_a_closed_pipe_is_quiet(argv):
    read, write = os.pipe()
    os.close(read)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "genlab", *argv]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, env=env, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


# --- doctor ------------------------------------------------------------------------------------


def test_doctor_says_what_is_there(tmp_path, capsys):
    code, out, err = run(capsys, "doctor", f"data.root={tmp_path}", f"outputs={tmp_path / 'o'}")
    assert (code, err) == (0, "")
    rows = out.splitlines()
    assert all(row[:2] in ("+ ", "- ") for row in rows)
    assert not any("Error" in row for row in rows), "no probe of doctor broke"
    for mark in ("CPU", "torch ", "hardware=auto would use", "joblib", "outputs=", "data=digits"):
        assert any(mark in row for row in rows), mark
    import torch

    assert any(f"torch {torch.__version__}" in row for row in rows)
    assert list(tmp_path.iterdir()) == [], "looking changes nothing"


def test_a_broken_probe_is_a_line(monkeypatch):
    from genlab.cli import doctor

    def _cuda():
        raise RuntimeError("driver is broken\nvery")
        yield

    monkeypatch.setattr(doctor, "_cuda", _cuda)
    found = list(doctor.lines("data", "outputs"))
    assert "- cuda: RuntimeError: driver is broken" in found and "outputs=" in found[-1]


def test_the_module_runs_as_a_program():
    done = genlab("train", "model=no_such_model")
    assert done.returncode == 2 and done.stderr.startswith("genlab: no model 'no_such_model'")
