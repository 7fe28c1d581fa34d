"""The command line: what it answers, how it fails, and what it must never import."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import OmegaConf

from genlab import __version__, catalog, cli, completion, failure, listing, overrides, registry
from genlab import config as composition
from genlab.errors import ConfigError, DataError, Diverged, Refused

ROOT = Path(__file__).parents[1]


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
    ["--help"],
    ["--version"],
    [],
    *([verb, "--help"] for verb in cli.VERBS),
    ["list"],
    *(["list", group] for group in catalog.groups()),
    ["list", "runs"],
    ["list", "models", "--json"],
    ["completion", "bash"],
    ["__complete", "genlab train hardware.precision="],
    ["__complete", "genlab train optimizer."],
    ["train", "model=no_such_model"],
    ["train", "no_such_key=1"],
    ["train", "seed=0,1"],
    ["trian"],
    ["list", "no_such_room"],
]


def test_light_answers_import_nothing_heavy(tmp_path):
    """One interpreter answers them all; none of the heavy packages may be there afterwards."""
    program = (
        "import json, sys\n"
        "from genlab import cli\n"
        f"for argv in {LIGHT!r}:\n"
        "    code = cli.main(argv)\n"
        "    heavy = {'torch', 'hydra', 'omegaconf', 'yaml', 'numpy', 'rich', 'PIL', 'wandb'}\n"
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


def test_show_and_a_wrong_key_do_not_import_torch(tmp_path):
    program = (
        "import sys\n"
        "from genlab import cli\n"
        "assert cli.main(['show', 'seed=3']) == 0\n"
        "assert cli.main(['train', 'optimizer.no_such_key=3']) == 2\n"
        "assert cli.main(['train', 'optimizer.lr=fast']) == 2\n"
        "assert 'hydra' in sys.modules and 'torch' not in sys.modules\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_help_and_version(capsys):
    assert run(capsys, "--version") == (0, f"genlab {__version__}\n", "")
    code, out, _ = run(capsys, "--help")
    assert code == 0 and all(f"  {verb} " in out for verb in cli.VERBS)
    assert run(capsys)[1] == out, "no words at all are a question, too"
    code, out, _ = run(capsys, "train", "--help")
    assert code == 0
    for group in catalog.groups():
        assert f"{group}=" in out and all(name in out for name in registry.names(group))
    for key in (
        "seed",
        "outputs",
        "data.root",
        "schedule.images",
        "optimizer.lr",
        "model.classes",
    ):
        assert f"  {key}=" in out, key
    for verb in cli.VERBS:
        assert run(capsys, verb, "--help")[1].startswith(f"genlab {verb}: ")


# --- mistakes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["trian"], ["no verb 'trian'", "'train'"]),
        (["model=gan"], ["genlab train model=gan"]),
        (["train", "model=gna"], ["no model 'gna'", "'gan'"]),
        (["train", "model=flow_maching"], ["'flow_matching'"]),
        (["train", "+experiment=no/such"], ["no experiment 'no/such'"]),
        (["train", "optimizer='admw'"], ["no optimizer 'admw'", "'adamw'"]),
        (["train", "-m", "model=gan,gna seed=0,1".split()[0]], ["no model 'gna'"]),
        (["train", "-m", "model=choice(gan,gna)"], ["no model 'gna'"]),
        (["train", "model=gan,flow_matching"], ["add -m"]),
        (["train", "seed=range(1,4)"], ["add -m"]),
        (["train", "modle=gan"], ["no key 'modle'", "'model'"]),
        (["train", "shedule.images=5"], ["'schedule.images'"]),
        (["train", "lr=1e-4"], ["no key 'lr'", "'optimizer.lr'"]),
        (["train", "gan"], ["'model=gan'"]),
        (["train", "--dryrun"], ["'--dryrun'", "'--dry-run'"]),
        (["train", "--json"], ["train has no flag '--json'", "list"]),
        (["train", "--cfg", "hydra"], ["--cfg takes the word job"]),
        (["train", "--config-dir", "/no/such/folder"], ["/no/such/folder", "no such folder"]),
        (["sample", "labels=0,1"], ["'labels=[0,1]'"]),
        (["report", "rum=latest"], ["'run'"]),
        (["list", "modles"], ["'model'"]),
        (["list", "models", "outputs=x"], ["genlab list runs"]),
        (["completion", "fish"], ["bash", "zsh"]),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_2(capsys, argv, words):
    code, out, err = run(capsys, *argv)
    assert code == 2 and out == ""
    assert err.startswith("genlab: ") and err.count("\n") == 1
    assert all(word in err for word in words), err


def test_every_mistake_is_named_at_once(capsys):
    code, _, err = run(capsys, "train", "model=gna", "data=digitz", "sead=1")
    assert code == 2
    assert [line[:8] for line in err.splitlines()] == ["genlab: "] * 3


@pytest.mark.parametrize(
    "words",
    [
        ["model=gan", "seed=1", "optimizer.lr=1e-4", "hydra/launcher=joblib"],
        ["++seed=1", "~experiment", "experiment=null", "model='gan'", 'model="gan"'],
        ["+extra.note=hello", "model=${oc.env:X}", "allow=[config,world]"],
        ["optimizer.players={d: {lr: 1, clip: 2}}", "keep.best='a,b'"],
    ],
)
def test_what_only_hydra_can_judge_is_left_to_it(words):
    assert overrides.check(words, primary="train", more=["allow"]) == []


def test_a_folder_of_ones_own_adds_members(tmp_path, capsys):
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
    [
        "1",
        "1,2",
        "a,b,c",
        "[1,2]",
        "'a,b'",
        '"a,b",c',
        "{a: 1, b: 2}",
        "[1,2],[3]",
        r"a\,b",
        "f",
        "",
    ],
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
        (
            OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0"),
            8,
            "2.00 GiB)",
        ),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 8, "out of memory"),
        (OSError(errno.ENOSPC, "full", "/x/y"), 7, "the disk is full at /x/y"),
        (OSError(errno.EDQUOT, "quota", "/x/y"), 7, "/x/y"),
        (OSError(errno.EROFS, "ro", "/x/y"), 7, "/x/y is on a read-only"),
        (PermissionError(errno.EACCES, "denied", "/x/y"), 7, "no permission for /x/y"),
        (ModuleNotFoundError("m", name="hydra.core"), 5, "'hydra'"),
        (ModuleNotFoundError("m", name="genlab.nowhere"), 1, "internal error"),
        (
            ZeroDivisionError("by zero\nand more"),
            1,
            "internal error: ZeroDivisionError: by zero (",
        ),
    ],
)
def test_errors_become_sentences_and_codes(capsys, monkeypatch, error, code, words):
    def fail(call):
        raise error

    monkeypatch.setitem(cli.VERBS, "doctor", cli.Verb("fails", fail))
    got, _, err = run(capsys, "doctor")
    assert got == code and words in err and "Traceback" not in err
    got, _, err = run(capsys, "-v", "doctor")
    assert got == code and words in err and "Traceback" in err


def test_advice_for_sample_names_its_own_key():
    assert "lower batch," in failure.explain(MemoryError(), "sample")[1][0]


@pytest.mark.parametrize("argv", [["list"], ["train", "--help"]])
def test_a_closed_pipe_is_quiet(argv):
    read, write = os.pipe()
    os.close(read)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "genlab", *argv]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, env=env, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


# --- list --------------------------------------------------------------------------------------


def test_list_rooms_and_members(capsys):
    rooms = json.loads(run(capsys, "list", "--json")[1])
    assert rooms == {group: registry.names(group) for group in catalog.groups()}
    for what in ("optimizer", "optimizers"):
        rows = json.loads(run(capsys, "list", what, "--json")[1])
        assert [r["name"] for r in rows] == registry.names("optimizer")
    adamw = next(r for r in rows if r["name"] == "adamw")
    assert adamw["doc"] == registry.signature("optimizer", "adamw").doc
    assert (ROOT / adamw["file"]).is_file()
    out = run(capsys, "list", "optimizers")[1]
    assert any(line.split() == ["adamw", *adamw["doc"].split()] for line in out.splitlines())


@pytest.mark.parametrize("group", catalog.groups())
def test_every_member_has_a_line_that_says_what_it_is(group):
    for row in listing.members(group):
        assert row["doc"], f"{row['file']}: no docstring and no comment on its first line"


def make_run(outputs, name="20250102-030405-abc123", *, status="done\n", metrics="", config=True):
    path = outputs / "gan-digits" / name
    path.mkdir(parents=True)
    if config:
        (path / "config.yaml").write_text("seed: 0\nschedule:\n  name: c\n  images: 2000\n")
    if status is not None:
        (path / "STATUS").write_text(status)
    (path / "metrics.jsonl").write_text(metrics)
    (path / ".lock").touch()
    return path


def line(**values):
    return json.dumps(values) + "\n"


def test_list_runs(tmp_path, capsys):
    losses = {"loss/d": 1.5, "loss/g": 0.25}
    make_run(
        tmp_path,
        metrics=line(step=1, images=64, **losses)
        + line(step=2, images=128, lr=1)
        + '{"step": 3, "im',
    )
    busy = make_run(tmp_path, "20250102-030406-abc124", status="running\n")
    make_run(tmp_path, "20250102-030407-abc125", status="running\n")
    make_run(tmp_path, "20250102-030408-abc126", status="failed: no space\n")
    nan = make_run(
        tmp_path, "20250102-030409-abc127", metrics=line(images=8, **{"loss/net": float("nan")})
    )
    (nan / "checkpoints").mkdir()
    (nan / "checkpoints" / "latest").write_text("000000000512\n")
    with open(busy / ".lock", "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        code, out, _ = run(capsys, "list", "runs", f"outputs={tmp_path}", "--json")
        rows = {r["id"]: r for r in json.loads(out)}
        table = run(capsys, "list", "runs", f"outputs={tmp_path}")[1]
    assert code == 0
    assert list(rows) == ["abc127", "abc126", "abc125", "abc124", "abc123"], "newest first"
    states = {i: r["state"].partition(":")[0] for i, r in rows.items()}
    assert states == {
        "abc123": "done",
        "abc124": "running",
        "abc125": "interrupted",
        "abc126": "failed",
        "abc127": "done",
    }
    done = rows["abc123"]
    assert (done["images"], done["total"], done["loss"]) == (128, 2000, {"d": 1.5, "g": 0.25})
    assert done["name"] == "gan-digits" and done["path"].endswith("abc123")
    assert done["bytes"] == sum(p.stat().st_size for p in Path(done["path"]).iterdir())
    assert rows["abc127"]["images"] == 512 and rows["abc127"]["loss"] == {"net": None}
    assert "failed: no space" in table and "128 / 2k" in table and "d 1.5 g 0.25" in table
    assert len(table.splitlines()) == 6


def test_list_runs_survives_what_it_finds(tmp_path, capsys):
    broken = make_run(tmp_path, status=None, metrics="[1]\nnot json\n{}\n")
    (broken / "config.yaml").write_bytes(b"\xff\xfe\x00: [")
    (broken / "STATUS").write_bytes(b"\xff\xff")
    (broken / "checkpoints").mkdir()
    (broken / "checkpoints" / "latest").write_text("garbage")
    make_run(tmp_path, "20250102-030406-abc124", config=False)
    make_run(tmp_path, "99999999-999999-abc125")
    (tmp_path / "a file").touch()
    (tmp_path / "foreign" / "thing").mkdir(parents=True)
    code, out, err = run(capsys, "list", "runs", f"outputs={tmp_path}", "--json")
    assert (code, err) == (0, "")
    rows = {r["id"]: r for r in json.loads(out)}
    assert set(rows) == {"abc123", "abc125"}
    assert rows["abc123"]["total"] is None and rows["abc123"]["images"] == 0
    assert rows["abc125"]["seconds"] is None
    assert run(capsys, "list", "runs", f"outputs={tmp_path}")[0] == 0
    assert "no runs" in run(capsys, "list", "runs", f"outputs={tmp_path / 'nowhere'}")[1]


# --- the config folders as text, held against Hydra and OmegaConf --------------------------------


@pytest.mark.parametrize(
    "path",
    sorted(registry.configs_dir().rglob("*.yaml")),
    ids=lambda p: f"{p.parent.name}/{p.stem}",
)
def test_scan_reads_the_keys_that_yaml_has(path):
    node = OmegaConf.to_container(OmegaConf.load(path), resolve=False) or {}
    for hidden in ("defaults", "hydra"):
        node.pop(hidden, None)
    group = "" if path.parent == registry.configs_dir() else path.parent.name
    found = catalog.scan(path, group)
    package = path.read_text().partition("@package ")[2].split("\n")[0].strip() or group
    prefix = f"{package}." if package and package != "_global_" else ""
    assert {k.name for k in found if not k.name.startswith("hydra")} == set(flatten(node, prefix))


def flatten(node, prefix=""):
    for key, value in node.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")


def leaves(node):
    every = list(flatten(node))
    return [k for k in every if not any(o.startswith(f"{k}.") for o in every)]


def test_scan_of_hard_lines(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text(
        '# @package network\n# what it is\nnet:   # the net\n  url: "a#b" # kept\n'
        "  text: |\n    inner: no key\n  # above\n  n: 3\n  flow: {a: 1, b: [1, 2]}\n"
        "last: 'it: is # text'\n"
    )
    assert catalog.scan(path, "network") == [
        ("network.net", "", "the net"),
        ("network.net.url", '"a#b"', "kept"),
        ("network.net.text", "|", ""),
        ("network.net.n", "3", "above"),
        ("network.net.flow", "{a: 1, b: [1, 2]}", ""),
        ("network.net.flow.a", "1", ""),
        ("network.net.flow.b", "[1, 2]", ""),
        ("network.last", "'it: is # text'", ""),
    ]
    assert catalog.summary(path) == "what it is"


PICKS = [
    {},
    *({"model": m} for m in registry.names("model")),
    *({"experiment": e} for e in registry.names("experiment")),
    {"model": "gan", "schedule": "cosine", "hardware": "cpu"},
]


@pytest.mark.parametrize("picks", PICKS, ids=str)
def test_chosen_members_are_those_hydra_composes(picks):
    words = [f"{group}={member}" for group, member in picks.items()]
    with initialize_config_dir(str(registry.configs_dir()), version_base="1.3"):
        node = hydra_compose("train", words, return_hydra_config=True)
    choices = {g: m for g, m in node.hydra.runtime.choices.items() if m and "hydra" not in g}
    chosen = catalog.chosen("train", picks)
    assert {group: choice.member for group, choice in chosen.items()} == choices
    for group, choice in chosen.items():
        assert (choice.who == "command line") == (group in picks)
        if choice.who != "command line":
            text = (registry.configs_dir() / choice.who).read_text()
            assert f"{group}: {choice.member}\n" in text
    composed, _ = composition.compose(words)
    assert set(leaves(composed)) <= set(catalog.keys("train", picks))


# --- show --------------------------------------------------------------------------------------


def test_show_has_every_key_with_value_and_chooser(capsys):
    words = ["model=gan", "optimizer.lr=3e-4"]
    code, out, _ = run(capsys, "show", *words)
    assert code == 0
    rows = {row.split()[0]: row for row in out.splitlines() if row.startswith("  ")}
    composed, _ = composition.compose(words)
    for key in leaves(composed):
        if key.count(".") == 1 and key.endswith(".name"):
            continue  # stands in the title of its room
        assert key in rows, key
    assert rows["optimizer.lr"].split()[1] == "0.0003" and "command line" in rows["optimizer.lr"]
    assert "float >= 0" in rows["optimizer.lr"]
    assert "model=gan  (command line)" in out
    assert "network=dcgan  (model/gan.yaml)" in out
    assert "schedule=constant  (train.yaml)" in out


def test_show_folds_comments_into_the_terminal(capsys, monkeypatch):
    monkeypatch.setattr(cli, "_width", lambda: 120)
    narrow = run(capsys, "show")[1]
    monkeypatch.setattr(cli, "_width", lambda: 10_000)
    wide = run(capsys, "show")[1]
    assert len(narrow.splitlines()) > len(wide.splitlines())
    assert max(map(len, narrow.splitlines())) < max(map(len, wide.splitlines()))
    assert sorted(narrow.split()) == sorted(wide.split())


# --- completion --------------------------------------------------------------------------------


def test_candidates(tmp_path):
    def complete(text):
        return completion.candidates(f"genlab {text}")

    assert complete("") == list(cli.VERBS)
    assert complete("re") == ["resume", "report"]
    assert complete("train model=") == [f"model={m}" for m in registry.names("model")]
    assert complete("train -m model=gan,fl") == ["model=gan,flow_matching"]
    adams = [n for n in registry.names("optimizer") if n.startswith("ad")]
    assert complete("train +optimizer=ad") == [f"+optimizer={n}" for n in adams]
    assert complete("train optimizer=sgd optimizer.mom") == ["optimizer.momentum="]
    assert complete("train optimizer.mom") == []
    assert complete("train hardware.precision=b") == ["hardware.precision=bf16"]
    assert complete("train hardware.comp") == ["hardware.compile="]
    assert complete("train hardware.compile=") == [
        "hardware.compile=true",
        "hardware.compile=false",
    ]
    assert {"seed=", "sampler=", "sampler."} <= set(complete("train s"))
    assert "--dry-run" in complete("train --") and complete("sample --d") == []
    assert complete("train --cfg ") == ["job"] and complete("train --config-dir ") == []
    assert complete("list opt") == ["optimizer"] and complete("completion z") == ["zsh"]
    assert "weights=" in complete("sample w") and complete("sample model") == []
    make_run(tmp_path)
    assert complete(f"sample outputs={tmp_path} run=") == ["run=latest", "run=abc123"]
    assert complete(f"report outputs={tmp_path} run=a") == ["run=abc123"]


def test_completion_in_a_real_bash(tmp_path):
    (tmp_path / "genlab").write_text(f'#!/bin/sh\nexec {sys.executable} -m genlab "$@"\n')
    (tmp_path / "genlab").chmod(0o755)
    program = r"""
eval "$(genlab completion bash)"
complete -p genlab | grep -q _genlab || exit 9
ask() {
    COMP_LINE=$1 COMP_POINT=${#1} COMP_WORDS=(genlab) COMPREPLY=()
    _genlab
    (IFS='|'; echo "${COMPREPLY[*]}")
}
ask "genlab tra"
ask "genlab train model=ga"
ask "genlab train -m model=gan,fl"
ask "genlab train optimizer.l"
ask "genlab train zzz"
"""
    env = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "COMP_WORDBREAKS": " \t\n\"'><=;|&(:",
    }
    done = subprocess.run(
        ["bash", "--norc", "-c", program], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "train \ngan \ngan,flow_matching \noptimizer.lr=\n\n"


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
    from genlab import doctor

    def _cuda():
        raise RuntimeError("driver is broken\nvery")
        yield

    monkeypatch.setattr(doctor, "_cuda", _cuda)
    found = list(doctor.lines("data", "outputs"))
    assert "- cuda: RuntimeError: driver is broken" in found and "outputs=" in found[-1]


def test_the_module_runs_as_a_program():
    done = genlab("train", "model=no_such_model")
    assert done.returncode == 2 and done.stderr.startswith("genlab: no model 'no_such_model'")
