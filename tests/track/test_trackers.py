"""Trackers: what they were handed is what the journal says, and none of them can hurt a run."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import struct
import subprocess
import sys
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import pytest

from genlab.cli import main as cli
from genlab.config.compose import compose, config_of, digest
from genlab.config.saved import read
from genlab.core.console import shown_by
from genlab.core.errors import ConfigError, Diverged, Stopped
from genlab.run.directory import Run
from genlab.run.journal import read_journal
from genlab.training import resume
from genlab.training.logger import Logger
from genlab.training.run_loop import train_run
from tests.helpers.runs import SMALL, journal, started
from tests.helpers.stops import Crash, crash, stop_at

ROOT = Path(__file__).parents[2]


@pytest.fixture
def nobody(tmp_path, monkeypatch):
    """A person without a key of W&B, or settings of it."""
    for name in [n for n in os.environ if n.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "no_netrc"))


EVERY = {"every.log": 8, "every.sample": 32, "every.checkpoint": 24}


def node(name: str) -> dict[str, Any]:
    """A track node as its yaml has it."""
    return dict(config_of("track", name))


# --- Weights & Biases ----------------------------------------------------------------------------


def records(path: Path) -> list[Any]:
    """The records of a .wandb file: a LevelDB log of protocol buffers behind 7 bytes of header.

    https://github.com/google/leveldb/blob/main/doc/log_format.md: blocks of 32 KiB, each record
    crc [4], length [2], type [1] (1 whole, 2 first, 3 middle, 4 last part).
    """
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, parts, found = path.read_bytes(), 7, b"", []
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            found.append(Record.FromString(parts))
            parts = b""
    return found


def history(found: list[Any]) -> list[dict[str, Any]]:
    """The logged rows of a .wandb file without W&B's own values."""
    rows = [
        {(i.key or ".".join(i.nested_key)): json.loads(i.value_json) for i in r.history.item}
        for r in found
        if r.WhichOneof("record_type") == "history"
    ]
    return [{k: v for k, v in row.items() if not k.startswith("_")} for row in rows]


def exits(found: list[Any]) -> list[int]:
    return [r.exit.exit_code for r in found if r.WhichOneof("record_type") == "exit"]


def test_wandb_offline_has_the_journal_and_a_resumed_run_goes_on(
    tiny, nobody, monkeypatch, capsys
):
    pytest.importorskip("wandb")
    named = {"track.project": "p", "track.tags": ["a"]}
    run = started(tiny("gan", track="wandb", **EVERY, **named))
    stop_at(monkeypatch, 40)
    with pytest.raises(Stopped) as stopped:
        train_run(run.path)
    identity = (run.path / "wandb-id").read_text().strip()
    said = capsys.readouterr().err
    assert "W&B is offline" in said and f"wandb sync {run.path}/wandb/offline-run-*" in said
    assert said.count("W&B") == 1 and "wandb:" not in said
    first = next(run.path.glob("wandb/offline-run-*/*.wandb"))
    found = records(first)
    assert [r for r in history(found) if "step" in r] == read_journal(run.path / "metrics.jsonl")
    assert exits(found) == [stopped.value.code] == [143]
    facts = next(r.run for r in found if r.WhichOneof("record_type") == "run")
    assert (facts.run_id, facts.project, list(facts.tags)) == (identity, "p", ["a"])
    assert facts.display_name == run.title
    config = {u.key: json.loads(u.value_json) for u in facts.config.update}
    assert config["model"] == run.config["model"] and config["seed"] == run.config["seed"]
    axes = {m.name or m.glob_name: m.step_metric for m in (r.metric for r in found)}
    assert axes["*"] == "images"
    drawn = next(row for row in history(found) if "samples.path" in row)
    assert drawn["images"] == 32
    kept = first.parent / "files" / drawn["samples.path"]
    assert kept.read_bytes() == (run.path / "samples/train/000000000032.png").read_bytes()

    stop_at(monkeypatch, 64, crash)
    with pytest.raises(Crash):
        train_run(run.path)
    assert train_run(run.path) == 0
    files = sorted(run.path.glob("wandb/offline-run-*/*.wandb"), key=lambda p: p.stat().st_mtime)
    assert {p.name for p in files} == {f"run-{identity}.wandb"} and len(files) == 3
    assert [exits(records(p)) for p in files] == [[143], [1], [0]]
    last = [row for row in history(records(files[2])) if "step" in row]
    assert last == [x for x in read_journal(run.path / "metrics.jsonl") if x["images"] > 48]


class Terminal(io.StringIO):
    """A person who must not be asked."""

    def isatty(self) -> bool:
        return True

    def readline(self, *_: Any) -> str:
        pytest.fail("a question was asked")

    read = readline


def test_wandb_never_asks(tiny, nobody, monkeypatch, tmp_path):
    pytest.importorskip("wandb")
    from genlab.track.wandb import WandB

    for stream in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, stream, Terminal())
    monkeypatch.setenv("TERM", "xterm")
    options = {k: v for k, v in node("wandb").items() if k != "name"}
    track, person = WandB(**options), sys.stdin
    said = track.start(tmp_path, "gan-digits/x", tiny("gan"), 0)
    track.finish(0)
    assert said.startswith("W&B is offline (No API key") and sys.stdin is person
    assert "" == sys.stdout.getvalue() == sys.stderr.getvalue()


@pytest.mark.slow
def test_a_sweep_finishes_every_run_once(nobody, tmp_path):
    pytest.importorskip("wandb")
    words = [f"network.net.{k}={SMALL[k]}" for k in ("width", "embedding", "head_width")]
    words += ["schedule.images=16", "schedule.batch=8", "hardware=cpu", "hardware.threads=1"]
    words += ["hardware.precision=fp32", "sampler.steps=1", "every.eval=1000", "every.sample=1000"]
    command = [sys.executable, "-m", "genlab", "train", "-m", *words, "track=wandb", "seed=0,1"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=tmp_path, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    files = list(tmp_path.glob("outputs/*/*/wandb/offline-run-*/*.wandb"))
    assert len(files) == len({p.name for p in files}) == 2
    assert [exits(records(p)) for p in files] == [[0], [0]]


# --- TensorBoard ---------------------------------------------------------------------------------


def test_tensorboard_has_the_journal_also_after_a_kill(tiny, monkeypatch):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = started(tiny("gan", **EVERY, track="tensorboard"))
    stop_at(monkeypatch, 40, crash)  # lines to image 32, the last checkpoint at 24
    with pytest.raises(Crash):
        train_run(run.path)
    assert [x["images"] for x in journal(run)] == [8, 16, 24, 32]
    assert train_run(run.path) == 0
    seen = EventAccumulator(str(run.path / "tensorboard"), size_guidance={"images": 0})
    seen.Reload()
    lines = read_journal(run.path / "metrics.jsonl")
    for name in ("loss/d", "loss/g", "step", "seconds"):
        wanted = [(x["images"], pytest.approx(x[name], rel=1e-6)) for x in lines]
        assert [(e.step, e.value) for e in seen.Scalars(name)] == wanted
    assert [e.step for e in seen.Images("samples")] == [32, 64]
    texts = seen.Tensors("config/text_summary")
    assert b"name: gan" in texts[0].tensor_proto.string_val[0]


# --- a tracker that fails, or is not there -------------------------------------------------------


class Fake:
    """A tracker that notes what it is asked, and fails where it is told."""

    def __init__(self, fails: str = "", error: type[BaseException] = OSError) -> None:
        self.calls: list[Any] = []
        self.fails, self.error = fails, error

    def _note(self, call: str, *rest: Any) -> None:
        self.calls.append((call, *rest))
        if call == self.fails:
            raise self.error("no route\nto host")

    def start(self, folder, title, config, images):
        self._note("start", images)
        return ""

    def line(self, values):
        self._note("line", values["images"])

    def picture(self, name, path, images):
        self._note("picture", images)

    def finish(self, code):
        self._note("finish", code)


@pytest.fixture
def faked(tiny):
    return started(tiny("gan", track="wandb"))


@pytest.mark.parametrize(
    ("error", "code"),
    [(None, 0), (Diverged("loss"), 6), (Stopped(15, "x"), 143), (KeyboardInterrupt(), 130)],
)
def test_one_finish_with_the_exit_code_of_the_run(faked, error, code):
    track = Fake()
    logger = Logger(track, faked)
    try:
        with logger.open(16):
            logger.line({"images": 24})
            logger.picture("samples", faked.path, 24)
            if error:
                raise error
    except BaseException as e:
        assert e is error
    assert track.calls == [("start", 16), ("line", 24), ("picture", 24), ("finish", code)]


def test_a_run_that_is_done_is_not_begun_again(faked):
    track = Fake()
    with Logger(track, faked).open(64):
        pass
    assert track.calls == []


@pytest.mark.parametrize("call", ["start", "line", "picture", "finish"])
def test_a_tracker_that_fails_is_one_line_and_the_run_goes_on(faked, call):
    said: list[str] = []
    track = Fake(call)
    logger = Logger(track, faked)
    with shown_by(said.append), logger.open(0):
        for images in (8, 16):
            logger.line({"images": images})
            logger.picture("samples", faked.path, images)
    assert said == ["track=wandb failed (OSError: no route); the run goes on without"]
    assert [c[0] for c in track.calls].count(call) <= 2
    assert track.calls[-1][0] == "finish"


def test_a_person_who_will_not_wait_for_the_tracker_keeps_the_exit_code(faked):
    said: list[str] = []
    with shown_by(said.append), Logger(Fake("finish", KeyboardInterrupt), faked).open(0):
        pass
    assert said == ["track=wandb: not finished, interrupted"]


@pytest.mark.parametrize("name", ["wandb", "tensorboard"])
def test_an_absent_package_is_said_before_a_run_is_made(name, tmp_path, monkeypatch, capsys):
    (tmp_path / "wandb").mkdir()  # what an earlier run of W&B leaves is no package
    real = importlib.util.find_spec

    def find_spec(module: str, *rest: Any) -> Any:
        here = [str(tmp_path)]
        return PathFinder.find_spec(module, here) if module == name else real(module, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    code = cli.main(["train", f"track={name}", f"outputs={tmp_path / 'o'}", "hardware=cpu"])
    said = capsys.readouterr().err
    assert code == 5 and not (tmp_path / "o").exists()
    assert said == f"genlab: track={name} needs an extra: pip install 'genlab[track]'\n"


# --- what a tracker is to a config ---------------------------------------------------------------


def test_a_tracker_does_not_make_another_run(tiny):
    plain, tracked = tiny("gan"), tiny("gan", track="wandb")
    assert digest(plain) == digest(tracked)
    changed = resume._changed(plain, ["track.project=p", "track=wandb"], [])
    assert changed == {**plain, "track": {**node("wandb"), "project": "p"}}
    assert resume._changed(tracked, ["track=none"], []) == plain
    with pytest.raises(ConfigError, match=r"no track 'wandbb'\. Did you mean 'wandb'"):
        resume._changed(plain, ["track=wandbb"], [])
    with pytest.raises(ConfigError, match=r"track\.mode must be auto or offline"):
        compose(["track=wandb", "track.mode=online"])


def test_a_run_typed_again_is_tracked_as_typed(tiny):
    run = started(tiny("gan", track="wandb"))
    after = resume.retyped(run, tiny("gan", track="tensorboard"))
    resume.reopen(run, after, ["track=tensorboard"])
    assert Run(run.path).config["track"] == node("tensorboard")


def test_a_run_from_before_there_were_trackers_has_none(tiny):
    run = started(tiny("gan"))
    path = run.path / "config.yaml"
    text = path.read_text()
    assert "track:\n  name: null\n" in text
    path.write_text(text.replace("track:\n  name: null\n", ""))
    assert read(path) == tiny("gan")
