"""A run that is stopped and goes on is the run that never stopped, bit for bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from genlab.cli import main as cli
from genlab.core.errors import CheckpointError, ConfigError, Locked, Stopped
from genlab.run.checkpoint import Checkpoints
from genlab.run.directory import Run
from genlab.run.tensors import load_model, model_tensors
from genlab.training import resume as cli_resume
from genlab.training.progress import ProgressDisplay
from genlab.training.run_loop import train_run
from genlab.training.setup import Training, set_up
from tests.helpers.runs import Config, fingerprint, journal, small, started
from tests.helpers.stops import Crash, crash, signalled, stop_at

MODELS = ["gan", "flow_matching"]


@pytest.fixture
def at(monkeypatch) -> Callable[..., None]:
    """at(images, act): the step that ends at `images` is the one in which it happens, once."""
    return partial(stop_at, monkeypatch)


def newest(run: Run) -> Path:
    found = Checkpoints(run.path / "checkpoints").newest()
    assert found is not None
    return found[0]


def kept(run: Run, images: int) -> Path:
    return run.path / "checkpoints" / f"{images:012d}"


def same(a: Run, b: Run) -> None:
    """Last checkpoint and journal of two runs."""
    assert newest(a).name == newest(b).name
    assert fingerprint(newest(a)) == fingerprint(newest(b))
    assert journal(a) == journal(b)


# --- the same run --------------------------------------------------------------------------------

BATCH, EPOCH = 50, 1500  # the digits are 30 batches, so an epoch ends with one

PLAN = [
    (650, signalled()),  # in the middle of an epoch, of a line of the journal
    (800, crash),  # back to the last checkpoint, 700
    (950, crash),
    (1500, signalled(signal.SIGINT)),  # at the edge
    (1550, signalled(signal.SIGHUP)),  # a step after
    (1600, crash),
    (1700, signalled()),  # in the last step of all
]


@pytest.mark.parametrize("model", MODELS)
def test_a_run_stopped_anywhere_ends_as_if_it_was_not(tiny, tmp_path, at, model):
    schedule = {"schedule.images": 1700, "schedule.batch": BATCH, "every.log": 200}
    schedule |= {"every.checkpoint": 350, "every.eval": 350}
    whole = started(tiny(model, **{**schedule, "every.checkpoint": 50, "keep.last": 99}))
    train_run(whole.path)
    run = started(tiny(model, outputs=str(tmp_path / "stopped"), **schedule))
    for images, act in PLAN:
        at(images, act)
        with pytest.raises((Stopped, Crash)):
            train_run(run.path)
        last = newest(run)
        if act is not crash:
            assert int(last.name) == images
        found, wanted = fingerprint(last), fingerprint(kept(whole, int(last.name)))
        if act is not crash and int(last.name) == 1700:  # what is drawn at the end was put off
            assert found.pop("state") != wanted.pop("state")
        assert found == wanted
    train_run(run.path)
    same(whole, run)
    assert run.status == whole.status == "done"
    assert (run.path / "metrics.discarded.jsonl").exists()


VARIANTS: dict[str, tuple[str, str, dict[str, object]]] = {
    "accumulation": ("gan", "digits", {"hardware.micro_batch": 2}),
    "accumulated flow": ("flow_matching", "digits", {"hardware.micro_batch": 4}),
    "bf16": ("flow_matching", "digits", {"hardware.precision": "bf16"}),
    "bf16 gan with r1": ("gan", "digits", {"hardware.precision": "bf16", "model.r1": 1.0}),
    "dropout": ("flow_matching", "digits", {"network.net.dropout": 0.5}),
    "flips": ("gan", "digits", {"data.flip": True}),
    "own rates": ("gan", "digits", {"optimizer.players": {"d": {"lr": 1e-3}}}),
    "no average": ("gan", "digits", {"model.ema": 0, "model.classes": "none"}),
    "constant decay": ("gan", "digits", {"model.ema": {"decay": 0.9}}),
    "power averages": ("flow_matching", "digits", {"model.ema": {"std": [0.05, 0.1]}}),
    "contiguous": ("flow_matching", "digits", {"hardware.channels_last": False}),
    "cosine": ("flow_matching", "digits", {"schedule": "cosine", "schedule.warmup": 24}),
    "momentum": ("gan", "digits", {"optimizer": "sgd", "optimizer.lr": 0.01}),
    "points": ("flow_matching", "toy", {"schedule.batch": 8}),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_whatever_is_chosen(tiny, tmp_path, at, variant):
    model, data, keys = VARIANTS[variant]
    base = {"schedule.images": 56, "every.log": 24, "every.checkpoint": 24, **keys}
    whole = started(tiny(model, data, **base))
    train_run(whole.path)
    run = started(tiny(model, data, outputs=str(tmp_path / "stopped"), **base))
    for images, act in [(16, signalled()), (40, crash)]:
        at(images, act)
        with pytest.raises((Stopped, Crash)):
            train_run(run.path)
    train_run(run.path)
    same(whole, run)


def test_a_save_by_the_clock_on_the_wall_changes_nothing(tiny, tmp_path):
    """With one after every step."""
    whole = started(tiny("gan", **{"every.log": 24}))
    often = started(
        tiny("gan", outputs=str(tmp_path / "b"), **{"every.log": 24, "every.seconds": 1e-9})
    )
    train_run(whole.path), train_run(often.path)
    same(whole, often)
    assert len(Checkpoints(often.path / "checkpoints").names()) == 2


def test_a_different_seed_is_a_different_run(tiny):
    """What is compared above can differ."""
    a, b = started(tiny("gan")), started(tiny("gan", seed=1))
    train_run(a.path), train_run(b.path)
    assert fingerprint(newest(a)) != fingerprint(newest(b)) and journal(a) != journal(b)


def test_a_damaged_checkpoint_costs_an_interval_and_nothing_else(tiny, tmp_path, at, capsys):
    keys = {"every.checkpoint": 16, "every.log": 8}
    whole = started(tiny("gan", **keys))
    run = started(tiny("gan", outputs=str(tmp_path / "damaged"), **keys))
    train_run(whole.path)
    at(40)
    with pytest.raises(Stopped):
        train_run(run.path)
    file = kept(run, 40) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x55")
    capsys.readouterr()
    train_run(run.path)
    said = capsys.readouterr().err
    assert said.count("WARNING") == 1 and "000000000040 is damaged" in said
    assert "resuming at image 32" in said
    same(whole, run)


def test_every_checkpoint_damaged_stops_the_run(tiny, capsys):
    run = started(tiny("gan"))
    train_run(run.path)
    for file in run.path.glob("checkpoints/*/state.json"):
        file.write_text("{}")
    assert cli.main(["resume", f"run={run.path}"]) == 4
    assert "fresh=true" in capsys.readouterr().err
    assert run.status.startswith("failed: every checkpoint")


# --- more of it ----------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
def test_a_finished_run_can_be_extended(tiny, tmp_path, model, capsys):
    keys = {"every.log": 16, "every.checkpoint": 16, "every.eval": 16}
    whole = started(tiny(model, outputs=str(tmp_path / "whole"), **keys))
    train_run(whole.path)
    run = started(tiny(model, **keys, **{"schedule.images": 32}))
    train_run(run.path)
    assert run.status == "done"
    assert cli.main(["resume", f"run={run.path}", "schedule.images=64"]) == 0
    same(whole, Run(run.path))
    assert Run(run.path).config["schedule"]["images"] == 64


def test_a_finished_run_is_left_alone(tiny, capsys):
    run = started(tiny("gan"))
    train_run(run.path)
    before = fingerprint(newest(run)), journal(run)
    train_run(run.path)
    assert "this run is done (64 images)" in capsys.readouterr().err
    assert (fingerprint(newest(run)), journal(run)) == before and run.status == "done"


def test_init_starts_from_the_weights_of_another_run(tiny, tmp_path):
    first = started(tiny("gan"))
    train_run(first.path)
    run = started(tiny("gan", seed=5, init=first.id))
    display = ProgressDisplay(run.title, 64)
    training = Training(run, set_up(run.config), display)
    assert training.clock.images == 0
    mine = model_tensors(training.model)
    load_model(training.model, newest(first) / "model.safetensors")
    assert all(torch.equal(mine[k], v) for k, v in model_tensors(training.model).items())
    assert all(not o.state for o in training.trainer.optimizers.values())
    train_run(run.path)
    trained = fingerprint(newest(run))
    train_run(run.path)  # its own checkpoint comes before init
    assert fingerprint(newest(run)) == trained


def test_init_of_what_does_not_fit(tiny):
    empty, first = started(tiny("gan", seed=1)), started(tiny("gan"))
    train_run(first.path)
    with pytest.raises(CheckpointError, match="has no checkpoint yet"):
        train_run(started(tiny("gan", seed=2, init=empty.id)).path)
    wide = tiny("gan", init=first.id, **{"network.discriminator.width": 16})
    with pytest.raises(CheckpointError, match="another architecture"):
        train_run(started(wide).path)


# --- signals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129), ("SIGUSR1", 75)]
)
def test_a_signal_finishes_the_step_saves_and_says_how_to_go_on(tiny, at, name, code):
    run, number = started(tiny("gan")), getattr(signal, name)
    before = signal.getsignal(number)
    at(24, signalled(number))
    with pytest.raises(Stopped) as e:
        train_run(run.path)
    assert e.value.code == code
    words = f"{name} at image 24, saved; go on with genlab resume run={run.path}"
    assert str(e.value) == words and run.status == f"interrupted: {words}"
    assert newest(run).name == f"{24:012d}"
    assert signal.getsignal(number) is before and not run.is_locked()


def test_a_second_ctrl_c_stops_at_once(tiny, at):
    run = started(tiny("gan", **{"every.checkpoint": 8}))
    at(40, signalled(signal.SIGINT, signal.SIGINT))
    with pytest.raises(Stopped) as e:
        train_run(run.path)
    last = int(newest(run).name)
    words = f"the checkpoint at image {last} is kept; go on with genlab resume run={run.path}"
    assert e.value.code == 130 and str(e.value) == f"Ctrl-C, at once: {words}"
    assert run.status == f"interrupted: {e.value}" and last < 40
    train_run(run.path)
    assert run.status == "done"


def test_a_second_kind_of_signal_does_not_lose_the_save(tiny, at):
    run = started(tiny("gan"))
    at(24, signalled(signal.SIGTERM, signal.SIGTERM, signal.SIGHUP))
    with pytest.raises(Stopped) as e:
        train_run(run.path)
    assert e.value.code == 143 and newest(run).name == f"{24:012d}"


def test_the_same_run_twice_at_once(tiny, capsys):
    run = started(tiny("gan"))
    with run.lock():
        run.status = "running"
        with pytest.raises(Locked):
            train_run(run.path)
        assert cli.main(["resume", f"run={run.path}"]) == 9
        assert cli.main(["resume", f"run={run.path}", "every.log=8"]) == 9
        assert run.status == "running"
    err = capsys.readouterr().err
    assert f"process {os.getpid()} works on" in err and "Traceback" not in err
    assert not newest_or_none(run)


def newest_or_none(run: Run) -> list[str]:
    return Checkpoints(run.path / "checkpoints").names()


# --- the command line ----------------------------------------------------------------------------


def words(config: Config, keys: Sequence[str]) -> list[str]:
    """The command line of a tiny config."""
    found = [f"model={config['model']['name']}"]
    for key in (*keys, "outputs", *(f"hardware.{k}" for k in ("threads", "precision"))):
        node = config
        for part in key.split("."):
            node = node[part]
        found.append(f"{key}={node}")
    for role, network in config["network"].items():
        found += [f"network.{role}.{k}={v}" for k, v in network.items() if k != "name"]
    return found


def test_the_same_command_goes_on_with_its_run(tiny, at, capsys):
    config = tiny("gan")
    line = ["train", *words(config, ["schedule.images", "schedule.batch", "every.sample"])]
    at(24, signalled())
    assert cli.main(line) == 143
    (folder,) = Path(config["outputs"]).glob("gan-digits/*")
    assert f"genlab resume run={folder}" in capsys.readouterr().err
    assert cli.main(line) == 0
    assert "resuming at image 24" in capsys.readouterr().err
    assert cli.main(line) == 0
    assert "this run is done" in capsys.readouterr().out
    assert len(list(Path(config["outputs"]).glob("gan-digits/*"))) == 1
    assert cli.main([*line, "fresh=true"]) == 0
    both = [Run(p) for p in sorted(Path(config["outputs"]).glob("gan-digits/*"))]
    assert len(both) == 2
    same(*both)  # whose overrides.txt differ in nothing


REFUSED = {
    "seed=1": "another run",
    "model.classes=none": "another run",
    "network.generator.width=16": "another run",
    "data.size=16": "another run",
    "model=flow_matching": "another run",
    "optimizer=sgd": "another run",
    "codec.name=points": "another run",
    "optimizer.lr=1e-3": "allow=[config]",
    "schedule.batch=16": "allow=[config]",
    "model.ema=0": "allow=[config]",
    "optimizer.lrr=1e-3": "optimizer.lr",
    "hardware.threads=0": "whole number >= 1",
    "schedule.images=-1": "whole number >= 1",
}


def test_keys_that_make_it_another_run_are_refused(tiny, capsys):
    run = started(tiny("gan"))
    before = (run.path / "config.yaml").read_bytes()
    for word, fix in REFUSED.items():
        assert cli.main(["resume", f"run={run.path}", word]) == 2, word
        err = capsys.readouterr().err
        assert fix in err and "Traceback" not in err, word
    assert cli.main(["resume", f"run={run.path}", "allow=[config]", "seed=1"]) == 2
    with pytest.raises(ConfigError) as e:
        cli_resume.main([f"run={run.path}", "seed=1", "optimizer.lr=1", "nonsense=1"])
    assert len(e.value.problems) == 3
    assert (run.path / "config.yaml").read_bytes() == before
    assert not (run.path / "STATUS").exists()


def test_keys_that_may_change_on_resume(tiny, at, capsys):
    run = started(tiny("gan"))
    at(24)
    with pytest.raises(Stopped):
        train_run(run.path)
    asked = ["every.log=16", "keep.last=1", "data.root=/elsewhere", "hardware.deterministic=false"]
    at(48, signalled())
    assert cli.main(["resume", f"run={run.path}", *asked]) == 143
    config = Run(run.path).config
    assert config["every"]["log"] == 16 and config["data"]["root"] == "/elsewhere"
    assert len(newest_or_none(run)) == 1
    assert cli.main(["resume", f"run={run.path}", "hardware.micro_batch=4"]) == 2
    more = [
        "allow=[config]",
        "hardware.micro_batch=4",
        "optimizer.lr=0.5",
        "optimizer.players.d.lr=0.25",
    ]
    assert cli.main(["resume", f"run={run.path}", *more]) == 0
    assert journal(run)[-1]["lr/g"] == 0.5 and journal(run)[-1]["lr/d"] == 0.25


def test_another_machine_is_said(tiny, at, capsys):
    run = started(tiny("gan"))
    at(24)
    with pytest.raises(Stopped):
        train_run(run.path)
    path = run.path / "environment.json"
    path.write_text(path.read_text().replace('"torch": "', '"torch": "0.'))
    capsys.readouterr()
    train_run(run.path)
    assert "not bit for bit the run it was: torch was 0." in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["array", "folder"])
def test_other_data_are_refused_unless_allowed(tmp_path, at, monkeypatch, capsys, kind):
    """The same number of images of the same size, some of which have other pixels."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    images = np.random.default_rng(0).integers(0, 255, (20, 8, 8, 1), np.uint8)
    place = tmp_path / ("images.npy" if kind == "array" else "images")

    def write(pixels: np.ndarray) -> None:
        if kind == "array":
            np.save(place, pixels)
            return
        place.mkdir(exist_ok=True)
        for k, image in enumerate(pixels):
            Image.fromarray(image[..., 0]).save(place / f"{k:02d}.png")

    def go_on(*words: str) -> int:
        return cli.main(["resume", f"run={run.path}", "schedule.images=48", *words])

    write(images)
    keys = {"data.path": str(place), "outputs": str(tmp_path / "outputs")}
    run = started(small("flow_matching", "folder", **keys, **{"schedule.images": 16}))
    assert train_run(run.path) == 0
    write(images)  # the same again, at another time
    assert cli.main(["resume", f"run={run.path}", "schedule.images=32"]) == 0
    write(np.concatenate([images[:1] ^ 255, images[1:]]))
    capsys.readouterr()
    assert go_on() == 3
    said = capsys.readouterr().err
    assert "values was" in said and "count" not in said and "allow=[data]" in said
    assert newest(run).name == f"{32:012d}"
    write(np.concatenate([images[:-1], images[-1:] ^ 255]))
    assert go_on() == 3, "what is held out decides which checkpoint is the best"
    capsys.readouterr()
    assert go_on("allow=[data]") == 0
    assert "going on with other data: values was" in capsys.readouterr().err
    assert cli.main(["resume", f"run={run.path}", "schedule.images=64"]) == 0, "now it is of these"
    record = json.loads((run.path / "environment.json").read_text(encoding="utf-8"))
    (run.path / "environment.json").write_text(json.dumps({**record, "trained_on": "x"}))
    assert cli.main(["resume", f"run={run.path}", "schedule.images=80"]) == 3
    del record["trained_on"]
    (run.path / "environment.json").write_text(json.dumps(record), encoding="utf-8")
    write(images)
    assert cli.main(["resume", f"run={run.path}", "schedule.images=80"]) == 0, "of an older genlab"


def test_another_number_of_ranks_must_be_allowed(tiny, at, monkeypatch):
    run = started(tiny("gan"))
    at(24)
    with pytest.raises(Stopped):
        train_run(run.path)
    path = newest(run) / "state.json"
    text = path.read_text().replace('"world": 1', '"world": 2')
    from tests.run.test_checkpoint import believable

    believable(path.parent, "state.json", text.encode())
    with pytest.raises(CheckpointError, match=r"trained on 2 ranks, this is 1.*allow=\[world\]"):
        train_run(run.path)
    assert train_run(run.path, allow=("world",)) == 0


@pytest.mark.slow
def test_a_run_killed_by_the_kernel_ends_as_if_it_was_not(tmp_path):
    """scripts/kill_runs.py in small: real processes, real SIGKILL, in and between saves."""
    script = Path(__file__).parents[2] / "scripts" / "kill_runs.py"
    command = [sys.executable, str(script), "--model", "gan", "--folder", str(tmp_path)]
    command += ["--kills", "3", "--inside", "2", "--seconds", "0", "--every", "0.5"]
    command += ["--images", "25600", "hardware.threads=1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 of 3 planned" in done.stdout and "identical                 yes" in done.stdout


def test_the_last_step_is_logged_and_saved_wherever_it_ends(tiny, tmp_path):
    """13 batches of 8 end at 104, where no multiple of the intervals is."""
    keys = {"schedule.images": 100, "schedule.batch": 8, "every.log": 48, "every.checkpoint": 48}
    run = started(tiny("flow_matching", outputs=str(tmp_path), **keys))
    train_run(run.path)
    assert newest(run) == kept(run, 104)
    assert journal(run)[-1]["images"] == 104
