"""A checkpoint whose parts do not fit is an error that names them, before anything is copied."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from genlab.core.console import shown_by
from genlab.core.errors import CheckpointError
from genlab.run.checkpoint import FORMAT
from genlab.run.directory import Run
from genlab.run.state import check_state
from genlab.run.tensors import load_model
from genlab.training.run_loop import train_run
from tests.helpers.runs import small, started, trained

OPTIMIZERS = {"flow_matching": "adamw", "ddpm": "adamax", "vqvae": "sgd"}


def lengthen(run: Run, images: int) -> None:
    with run.lock():
        schedule = {**run.config["schedule"], "images": images}
        run.rewrite_config({**run.config, "schedule": schedule}, [])


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    """A run of 64 images that has 64 more to go."""
    path = trained(tmp_path_factory, "flow_matching")
    lengthen(Run(path), 128)
    return path


@pytest.fixture
def run(done, tmp_path) -> Run:
    return Run(Path(shutil.copytree(done, tmp_path / done.parent.name / done.name)))


def newest(run: Run) -> Path:
    return run.path / "checkpoints" / f"{64:012d}"


def seal(folder: Path, name: str) -> None:
    """Makes the manifest say what a file now is, as whoever writes both can."""
    manifest = json.loads((folder / "manifest.json").read_text())
    data = (folder / name).read_bytes()
    manifest["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def change_tensors(run: Run, change: Callable[[dict[str, Tensor]], Any], name: str) -> None:
    file = newest(run) / f"{name}.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)
    seal(newest(run), file.name)


def change_state(run: Run, change: Callable[[dict[str, Any]], Any]) -> None:
    file = newest(run) / "state.json"
    state = json.loads(file.read_text())
    change(state)
    file.write_text(json.dumps(state))
    seal(newest(run), file.name)


def first(tensors: dict[str, Tensor], moment: str = "exp_avg") -> str:
    return next(key for key in sorted(tensors) if key.endswith("/" + moment))


def drop_all_of_one(tensors: dict[str, Tensor]) -> None:
    of = first(tensors).rpartition("/")[0]
    for key in [k for k in tensors if k.rpartition("/")[0] == of]:
        del tensors[key]


MOMENTS = {
    "another shape": (lambda t: t.update({first(t): torch.zeros(3)}), r"is \(3,\) there"),
    "another dtype": (lambda t: t.update({first(t): t[first(t)].double()}), "is F64 there, F32"),
    "one is missing": (lambda t: t.pop(first(t)), "exp_avg is not in the file"),
    "all of a parameter": (drop_all_of_one, "exp_avg is not in the file"),
    "all": (lambda t: t.clear(), r"is not in the file; .* and \d+ more"),
    "one too many": (
        lambda t: t.update({"net/none/exp_avg": torch.zeros(1)}),
        "net/none/exp_avg is in the file only",
    ),
}


@pytest.mark.parametrize("name", MOMENTS)
def test_moments_that_do_not_fit_are_named(run, name):
    change, message = MOMENTS[name]
    change_tensors(run, change, "optimizer")
    with pytest.raises(CheckpointError, match=message) as e:
        train_run(run.path)
    assert "allow=[moments]" in str(e.value)
    said: list[str] = []
    with shown_by(said.append):
        assert train_run(run.path, allow=["moments"]) == 0
    run = Run(run.path)
    assert run.status == "done"


@pytest.mark.parametrize("name", ["optimizer", "model"])
def test_what_is_no_number_is_named(run, name):
    def change(tensors):
        key = first(tensors) if name == "optimizer" else "ema.copy.condition.label.weight"
        tensors[key].view(-1)[:1].fill_(float("nan"))

    change_tensors(run, change, name)
    with pytest.raises(CheckpointError, match=r"no number \(NaN\): \S+; delete 0+64 to go on"):
        train_run(run.path)


def test_what_starts_at_zero_is_said(run, capsys):
    change_tensors(run, MOMENTS["one is missing"][0], "optimizer")
    train_run(run.path, allow=["moments"])
    assert "moments that start at zero: net/" in capsys.readouterr().err


def test_weights_that_do_not_fit_leave_the_model_as_it_was(run):
    from genlab.assemble.components import build

    model = build(run.config).model
    before = {k: v.clone() for k, v in model.state_dict().items()}
    last = sorted(before)[-1]
    change_tensors(run, lambda t: t.update({last: t[last].double()}), "model")
    with pytest.raises(CheckpointError, match=f"{last} is F64 there, F32 here"):
        load_model(model, newest(run) / "model.safetensors")
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


@pytest.mark.parametrize("model", OPTIMIZERS)
def test_a_whole_checkpoint_fits_every_optimizer(tmp_path, model):
    keys = {"optimizer": OPTIMIZERS[model], "schedule.images": 16}
    run = started(small(model, "digits", outputs=str(tmp_path), **keys))
    train_run(run.path)
    lengthen(Run(run.path), 32)
    assert train_run(run.path) == 0


STATE = [
    "clock", "scales", "unread", "best", "best_of", "world", "without_moments", "spikes",
]  # fmt: skip


@pytest.mark.parametrize("item", STATE)
def test_an_item_of_the_state_that_is_missing_is_named(run, item):
    change_state(run, lambda s: s.pop(item))
    with pytest.raises(CheckpointError, match=rf"state\.json.*{item}.* is missing"):
        train_run(run.path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["clock"].update(images=float("nan")), "clock.images must be"),
        (lambda s: s["clock"].update(step="8"), "clock.step must be"),
        (lambda s: s.update(clock=[8]), "clock.step is missing"),
        (lambda s: s["clock"].update(drawn=10**6), "clock.drawn is more than clock.images"),
        (lambda s: s.update(scales={}), "scales are of no player, the players are net"),
        (lambda s: s["scales"].update(net={"scale": -1.0, "calm": 0}), "scales.net.scale must be"),
        (lambda s: s.update(unread={"loss/net": "1"}), "unread.loss/net must be"),
        (lambda s: s.update(world=0), "world must be"),
        (lambda s: s.update(best="good"), "best must be"),
        (lambda s: s["spikes"].pop("found"), "spikes must have"),
        (lambda s: s["spikes"].update(found=[{"name": 1}]), "spikes.found.name must be"),
        (
            lambda s: s["spikes"]["names"]["loss/net"].update(last="1"),
            "spikes.names.loss/net.last must be",
        ),
    ],
)
def test_an_item_of_the_state_that_means_nothing_is_named(run, change, message):
    change_state(run, change)
    with pytest.raises(CheckpointError, match=message):
        train_run(run.path)


def test_scales_of_fp16_are_taken():
    state = {"clock": {"step": 1, "images": 8, "drawn": 0}, "unread": {"loss/net": [math.inf]},
             "best": None, "best_of": "", "world": 1, "without_moments": [],
             "spikes": {"names": {}, "found": []}, "format": FORMAT}  # fmt: skip
    scales = {"scales": {"net": {"scale": 65536.0, "calm": 3}}}
    assert check_state({**state, **scales}, ["net"], Path("x")) == []
    with pytest.raises(CheckpointError, match=r"scales\.net\.calm must be"):
        check_state({**state, "scales": {"net": {"scale": 65536.0}}}, ["net"], Path("x"))


def test_a_checkpoint_older_than_an_item_says_what_begins_empty(run, capsys):
    change_state(
        run, lambda s: [s.pop("without_moments"), s.pop("spikes"), s["clock"].pop("drawn")]
    )
    manifest = json.loads((newest(run) / "manifest.json").read_text())
    (newest(run) / "manifest.json").write_text(json.dumps({**manifest, "format": 1}))
    change_tensors(run, drop_all_of_one, "optimizer")
    assert train_run(run.path) == 0
    said = capsys.readouterr().err
    assert "without clock.drawn, without_moments, spikes: begun empty" in said
    assert "moments that start at zero: net/" in said
