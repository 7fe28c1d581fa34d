"""One run directory: its names, its lock, its journal, its config and how it ended."""

from __future__ import annotations

import calendar
import errno
import fcntl
import json
import math
import os
import socket
import time
from datetime import datetime
from pathlib import Path

import pytest
import yaml

from genlab.config import saved
from genlab.config.compose import digest
from genlab.core.errors import ConfigError, DiskError, Locked, Refused
from genlab.core.files import write_text
from genlab.run import directory
from genlab.run.directory import Run, find_run, folders, runs
from genlab.run.journal import Journal, read_journal
from tests.helpers.runs import started

# --- the directory -------------------------------------------------------------------------------


def test_a_run_directory_says_what_was_asked(tiny, tmp_path):
    config = tiny("gan")
    run = Run.create(config, digest(config), ["model=gan", "seed=0"], {"seed": "here"})
    assert run.path.parent == tmp_path / "gan-digits"
    assert directory.NAME.fullmatch(run.path.name) and run.id == digest(config)
    assert (run.path / "overrides.txt").read_text() == "model=gan\nseed=0\n"
    assert json.loads((run.path / "provenance.json").read_text()) == {"seed": "here"}
    assert yaml.safe_load((run.path / "config.yaml").read_text()) == config
    assert Run(run.path).config == config


def test_two_runs_of_one_second_have_two_directories(tiny, tmp_path, monkeypatch):
    class Stopped(datetime):
        @classmethod
        def now(cls, zone):
            return cls(2030, 1, 2, 3, 4, 5)

    monkeypatch.setattr(directory, "datetime", Stopped)
    made = [started(tiny("gan")) for _ in range(3)]
    assert len({r.path for r in made}) == 3 and len({r.id for r in made}) == 1
    assert [r.path for r in runs(tmp_path)] == sorted(r.path for r in made)


def test_the_id_is_what_a_run_computes(tiny, tmp_path):
    config = tiny("gan")
    same = tiny("gan", outputs=str(tmp_path / "b"), **{"every.log": 8, "data.root": "/x"})
    assert digest(config) == digest(same)
    for key, value in {"seed": 1, "optimizer.lr": 1e-3, "schedule.images": 72}.items():
        assert digest(tiny("gan", **{key: value})) != digest(config)


def test_a_directory_killed_while_made_is_not_a_run(tiny, tmp_path):
    run = started(tiny("gan"))
    (run.path / "config.yaml").unlink()
    assert runs(tmp_path) == []


def test_a_run_is_found_by_path_id_part_of_name_and_latest(tiny, tmp_path):
    first, second = started(tiny("gan")), started(tiny("gan", seed=1))
    os.rename(first.path, first.path.with_name("20200101-000000-" + first.id))
    first = Run(first.path.with_name("20200101-000000-" + first.id))
    for ref in (str(first.path), first.id, "20200101", first.title):
        assert find_run(ref, tmp_path).path == first.path
    assert find_run("latest", tmp_path).path == second.path
    with pytest.raises(ConfigError, match="give more of the name"):
        find_run("gan-digits", tmp_path)
    with pytest.raises(ConfigError, match=f"Did you mean '{first.id}'"):
        find_run(first.id[:4] + "__", tmp_path)
    with pytest.raises(ConfigError, match="There is none"):
        find_run("latest", tmp_path / "empty")


@pytest.mark.parametrize("name", ["model.pt", "model.pkl", "model.safetensors", "x.ckpt"])
def test_a_file_is_no_run(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x80\x04")
    with pytest.raises(Refused, match="never unpickles"):
        find_run(str(tmp_path / name), tmp_path)


@pytest.mark.parametrize("ref", ["", "x" * 5000, "../..", "*", "a\nb"])
def test_an_odd_reference_is_an_error_of_ours(tiny, tmp_path, ref):
    started(tiny("gan")), started(tiny("gan", seed=1))
    with pytest.raises(ConfigError):
        find_run(ref, tmp_path)


# --- who works on it, how it ended ---------------------------------------------------------------


def test_one_process_at_a_time(tiny):
    run = started(tiny("gan"))
    assert not run.is_locked()
    with run.lock():
        assert run.is_locked()
        with pytest.raises(Locked, match=f"process {os.getpid()} works on .*kill") as e:
            with Run(run.path).lock():
                raise AssertionError("two held it")
        assert e.value.code == 9
    assert not run.is_locked()
    with run.lock():
        pass


def test_the_lock_names_the_other_machine(tiny):
    run = started(tiny("gan"))
    with run.lock():
        (run.path / ".lock").write_text("123 node7")
        with pytest.raises(
            Locked, match=r"process 123 on node7 works .* stop it there with kill 123"
        ):
            with Run(run.path).lock(patience=0):
                raise AssertionError("two held it")


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named(tiny, monkeypatch, code):
    run = started(tiny("gan"))

    def flock(*given):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(DiskError, match=r"has no locks .*outputs=") as e, run.lock():
        raise AssertionError("it was not locked")
    assert str(run.path) in str(e.value) and e.value.code == 7


def test_a_lock_that_is_a_pipe_is_refused(tiny):
    run = started(tiny("gan"))
    os.mkfifo(run.path / ".lock")
    with pytest.raises(Refused, match=r"\.lock is no regular file"), run.lock():
        raise AssertionError("it was locked")


def test_latest_is_the_run_that_was_written_to_last(tiny, tmp_path):
    first, second = started(tiny("gan")), started(tiny("gan", seed=1))
    for run, when in ((first, 3_000_000_000), (second, 2_900_000_000)):
        for path in run.path.iterdir():
            os.utime(path, (when, when))
    assert find_run("latest", tmp_path).path == first.path
    second.status = "running"
    os.utime(second.path / "STATUS", (3_100_000_000, 3_100_000_000))
    assert find_run("latest", tmp_path).path == second.path


def test_the_name_of_a_run_is_its_start_in_utc(tiny, monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        stamp = started(tiny("gan")).path.name[:15]
    finally:
        monkeypatch.undo()
        time.tzset()
    begun = calendar.timegm(time.strptime(stamp, "%Y%m%d-%H%M%S"))
    assert abs(time.time() - begun) < 600


def test_the_lock_of_a_dead_process_is_free(tiny):
    run = started(tiny("gan"))
    pid = os.fork()
    if pid == 0:
        with run.lock():
            os._exit(0)  # as kill -9: nothing is released by hand
    os.waitpid(pid, 0)
    assert (run.path / ".lock").read_text() == f"{pid} {socket.gethostname()}"
    assert not run.is_locked()


def test_a_dead_run_is_interrupted(tiny):
    run = started(tiny("gan"))
    assert run.status == "interrupted: before it started"
    run.status = "running"
    assert run.status == "interrupted: killed"
    with run.lock():
        assert run.status == "running"
    run.status = "failed: first line\nsecond"
    assert run.status == "failed: first line"
    (run.path / "STATUS").write_bytes(b"\xff\xfe")
    assert run.status.startswith("interrupted")


def test_a_small_file_is_replaced_in_one_step(tmp_path, monkeypatch):
    path = tmp_path / "STATUS"
    write_text(path, "old")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(DiskError, match="the disk is full; free some space"):
        write_text(path, "new")
    assert path.read_text() == "old"


# --- the journal ---------------------------------------------------------------------------------


def test_the_journal_is_cut_where_the_checkpoint_is(tmp_path):
    journal = Journal(tmp_path)
    for k in range(1, 6):
        journal.write({"step": k, "images": 8 * k, "seconds": k / 2, "loss/d": k})
    with open(journal.path, "ab") as f:
        f.write(b'{"step": 6, "ima')  # what a power cut leaves
    assert journal.cut(24) == 1.5
    assert [x["images"] for x in read_journal(journal.path)] == [8, 16, 24]
    assert journal.path.read_text().endswith("}\n")
    discarded = read_journal(tmp_path / "metrics.discarded.jsonl")
    assert [x["images"] for x in discarded] == [32, 40]
    journal.write({"step": 4, "images": 32})
    assert [x["step"] for x in read_journal(journal.path)] == [1, 2, 3, 4]
    assert journal.cut(-1) == 0.0 and journal.path.read_text() == ""
    assert len(read_journal(tmp_path / "metrics.discarded.jsonl")) == 6


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_journal_that_is_no_file_is_named(tmp_path, make):
    make(tmp_path / "metrics.jsonl")
    with pytest.raises(DiskError, match=r"metrics\.jsonl: it is no .*file; remove it|stands in"):
        Journal(tmp_path).cut(0)
    (tmp_path / "metrics.jsonl").rmdir() if make is os.mkdir else (
        tmp_path / "metrics.jsonl"
    ).unlink()
    (tmp_path / "metrics.jsonl").write_text('{"images": 8}\n')
    make(tmp_path / "metrics.discarded.jsonl")
    with pytest.raises(DiskError, match="remove it"):
        Journal(tmp_path).cut(0)
    assert read_journal(tmp_path / "metrics.jsonl") == [{"images": 8}]


def test_a_journal_that_is_not_there_is_empty(tmp_path):
    assert Journal(tmp_path).cut(8) == 0.0
    assert read_journal(tmp_path / "metrics.jsonl") == []


def test_what_is_not_a_number_is_null(tmp_path):
    journal = Journal(tmp_path)
    journal.write({"images": 8, "a": math.nan, "b": math.inf, "c": 1e308})
    assert json.loads(journal.path.read_text(), parse_constant=pytest.fail) == {
        "images": 8,
        "a": None,
        "b": None,
        "c": 1e308,
    }


def test_a_mangled_journal_still_reads(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"images": 8}\n[1]\nnull\n\xff\xfe\n{"images": "x"}\n{"images": 16}\n')
    journal = Journal(tmp_path)
    assert journal.cut(8) == 0.0
    assert read_journal(path) == [{"images": 8}]


# --- its config is data --------------------------------------------------------------------------


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "config.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


BOMB = "a: &a [x,x]\n" + "".join(f"{k}: &{k} [*{chr(ord(k) - 1)}]\n" for k in "bcdefgh")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing\n",
        "[1, 2]\n",
        "just words",
        b"\x00\x01\x02\xff",
        b"\x89PNG\r\n",
        "a: [1\nb: }",
        "a: " + "[" * 2000,
        "x" * 2_000_000,
        BOMB,
        "a: &x 1\nb: *x\n",
        "a: !!python/object/apply:os.system ['true']\n",
        "a: !!python/name:os.system\n",
    ],
    ids=range(13),
)
def test_what_genlab_did_not_write_is_not_a_config(tmp_path, text):
    with pytest.raises(ConfigError, match=r"config\.yaml") as e:
        saved.read(written(tmp_path, text))
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    "text",
    [
        "a:\n  _target_: os.system\n",
        "a:\n- b:\n  - _target_: os.system\n",
        "_target_: builtins.eval\n",
        "a: {'_target_': x}\n",
        "a: [[{_target_: x}]]\n",
        "a: {_target_.b: x}\n",
    ],
)
def test_a_target_in_a_config_is_refused(tmp_path, text):
    with pytest.raises(Refused, match="never by _target_") as e:
        saved.read(written(tmp_path, text))
    assert e.value.code == 11


NOTES = {"a": "see *this* & that", "b": "x, *y and [&z]", "c": "- *d", "d": "${oc.env:HOME}"}


def test_notes_of_a_person_are_no_yaml_tricks(tmp_path, tiny):
    config = {**tiny("gan"), "extra": NOTES}
    run = started(config)
    assert Run(run.path).config["extra"] == NOTES
    run.rewrite_config({**config, "seed": 3}, ["seed=3"])
    assert run.config["seed"] == 3 and run.config["extra"] == NOTES


def test_a_run_of_ones_own_class_lies_in_a_plain_folder_and_an_older_one_is_found(tmp_path):
    config = {"outputs": str(tmp_path), "model": {"name": "a.b:Mine"}, "data": {"name": "c:D"}}
    assert [f.name for f in folders(config)] == ["Mine-D", "a.b:Mine-c:D"]
    plain = {**config, "model": {"name": "gan"}, "data": {"name": "x"}}
    assert [f.name for f in folders(plain)] == ["gan-x"]
