"""What is read of a folder that anybody may have made, and what is written into it."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from genlab.core.errors import DiskError, Refused
from genlab.core.files import (
    check_links,
    make_folder,
    read_bytes,
    read_json,
    read_text,
    remove_leftovers,
    replacing,
    write_text,
)


@pytest.fixture
def away(tmp_path) -> Path:
    """A folder of the victim, with a file that must stay as it is."""
    folder = tmp_path / "away"
    folder.mkdir()
    (folder / "file").write_text("mine")
    return folder


@pytest.fixture
def run(tmp_path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


def test_a_pipe_is_not_waited_for(run):
    os.mkfifo(run / "config.yaml")
    with pytest.raises(OSError, match="no regular file"):
        read_bytes(run / "config.yaml")


@pytest.mark.parametrize("name", ["file", "folder/file"])
def test_nothing_is_read_through_a_link(run, away, name):
    (run / "file").symlink_to(away / "file")
    (run / "folder").symlink_to(away)
    with pytest.raises(OSError):
        read_text(run / name, run)


def test_what_is_read_is_bounded(run):
    (run / "large").write_bytes(b"x" * 101)
    with pytest.raises(ValueError, match="101 bytes"):
        read_bytes(run / "large", limit=100)
    (run / "deep").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="too deep"):
        read_json(run / "deep")


def test_a_link_under_the_name_that_is_written_is_replaced_not_followed(run, away):
    (run / "STATUS").symlink_to(away / "file")
    (run / f".STATUS.{socket.gethostname()}.{os.getpid()}.tmp").symlink_to(away / "file")
    write_text(run / "STATUS", "done")
    assert (away / "file").read_text() == "mine"
    assert not (run / "STATUS").is_symlink() and (run / "STATUS").read_text() == "done"


def test_no_folder_is_made_or_written_through_a_link(run, away):
    (run / "samples").symlink_to(away)
    with pytest.raises(DiskError, match="samples/grids"):
        make_folder(run / "samples" / "grids", run)
    with pytest.raises(DiskError, match=r"samples/grid\.txt"):
        write_text(run / "samples" / "grid.txt", "theirs", run)
    assert sorted(p.name for p in away.iterdir()) == ["file"]


def test_what_killed_processes_have_begun_is_removed(run, away):
    pid = os.fork()
    if pid == 0:
        with replacing(run / "samples.png", sync=False) as f:
            f.write(b"half")
            f.flush()
            os._exit(0)  # as kill -9
    os.waitpid(pid, 0)
    (left,) = run.iterdir()
    kept = {
        run / left.name.replace(f".{pid}.", f".{os.getppid()}."): 0,  # of one that lives
        run / ".samples.png.node7.1.tmp": 0,  # of another machine, that may be writing
        run / "notes.tmp": 10 * 86_400,
        run / ".hidden": 10 * 86_400,
    }
    old = run / ".samples.png.node7.2.tmp"
    for path, age in (*kept.items(), (old, 2 * 86_400)):
        path.write_bytes(b"half")
        os.utime(path, (time.time() - age,) * 2)
    (away / left.name).write_bytes(b"theirs")
    (run / "linked").symlink_to(away)
    remove_leftovers(run)
    assert set(run.iterdir()) == {*kept, run / "linked"}
    assert (away / left.name).exists()


def test_a_folder_under_the_name_that_is_written_is_named(run):
    (run / "report.html" / "inner").mkdir(parents=True)
    with pytest.raises(DiskError, match=r"report\.html: a folder stands in the way"):
        write_text(run / "report.html", "page")
    assert [p.name for p in run.iterdir()] == ["report.html"]


def test_a_file_that_is_not_finished_leaves_nothing(run):
    with pytest.raises(RuntimeError), replacing(run / "file") as f:
        f.write(b"half")
        raise RuntimeError
    assert list(run.iterdir()) == []


# --- a whole run ---------------------------------------------------------------------------------


def test_links_that_lead_away_are_refused_by_name(run, away):
    check_links(run)
    (run / "wandb").mkdir()
    (run / "wandb" / "latest").symlink_to(run / "wandb")  # W&B's own
    check_links(run)
    (run / "wandb" / "run-1" / "logs").mkdir(parents=True)
    for folder in ("run-1", "run-1/logs"):
        (run / "wandb" / folder / "debug.log").symlink_to(away / "file")  # to its cache
    with pytest.raises(Refused):
        check_links(run)
    check_links(run, apart=run / "wandb")
    (run / "samples").symlink_to(away)
    (run / "wandb" / "gone").symlink_to(away / "nothing")
    with pytest.raises(Refused, match=r"links inside \(samples, wandb/gone\)"):
        check_links(run, apart=run / "wandb")


def test_folders_that_their_owner_linked_may_be_followed(run, away):
    (run / "checkpoints").symlink_to(away)
    with pytest.raises(Refused):
        check_links(run)
    check_links(run, allow=True)
    assert read_text(run / "checkpoints" / "file", run) == "mine"
    (run / "config.yaml").symlink_to(away / "file")
    with pytest.raises(Refused, match=r"\(config.yaml\)"):
        check_links(run, allow=True)
