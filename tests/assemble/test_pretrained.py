"""A component that names a run: frozen, unsaved, recorded, pinned, found where it has moved."""

from __future__ import annotations

import copy
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch

import genlab
from genlab.assemble.components import build
from genlab.assemble.pretrained import pin
from genlab.cli.main import main
from genlab.config.compose import compose, digest, validate
from genlab.core.errors import CheckpointError, ConfigError, Refused
from genlab.evaluation.target import ModelOutputs
from genlab.run.checkpoint import Checkpoints
from genlab.run.directory import Run
from genlab.run.parents import read_parents
from genlab.training.run_loop import train_run
from tests.helpers.runs import fingerprint, small, started, trained

TOY = '''
from genlab.core.contract import Model, RunRef


class Student(Model):
    """Learns what another run estimates at t = 1/2."""

    def __init__(self, net, *, teacher: RunRef, at: float) -> None:
        super().__init__()
        self.net, self.teacher, self.at = net, teacher, at

    def loss(self, batch):
        t = batch.x.new_full((len(batch.x),), self.at)
        x = batch.x + batch.noise.normal(*batch.x.shape[1:])
        taught = self.teacher.model.denoise(x, t, batch.y)
        return (self.net(x, t, batch.y) - taught).square().mean()
'''
PARTNER = """
from genlab.core.contract import Guidance, RunRef


class Partner(Guidance):
    def __init__(self, *, other: RunRef) -> None:
        self.other = other

    def __call__(self, denoise, y, process):
        weak = self.other.denoiser(process)
        return lambda x, t: 2 * denoise(x, t, y) - weak(x, t, y)
"""
KEY = "model.teacher"


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A package outside genlab with a model that names a run."""
    folder = tmp_path_factory.mktemp("toy")
    (folder / "toy_student.py").write_text(TOY)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield folder
    sys.modules.pop("toy_student", None)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    keys = {"every.checkpoint": 16, "keep.last": 9}
    return trained(tmp_path_factory, "flow_matching", **keys)


def student(teacher: object, outputs: Path, **keys: object) -> dict:
    """A config that names a run as its teacher, a path or {run, checkpoint, weights}."""
    groups = {"sampler": "one_step", "guidance": "none"}
    config = small("flow_matching", "digits", outputs=str(outputs), **groups, **keys)
    config["model"] = {"name": "toy_student:Student", "classes": "auto", "teacher": teacher}
    config["model"]["at"] = 0.5
    assert validate(config) == []
    return config


def test_it_is_frozen_unsaved_and_recorded(toy, teacher, tmp_path):
    ref = {"run": str(teacher), "checkpoint": 32, "weights": "raw"}
    run = started(student(ref, tmp_path))
    before = fingerprint(teacher / "checkpoints" / "000000000032")
    train_run(run.path)
    other = Checkpoints(teacher / "checkpoints").find(32)
    assert read_parents(run.path)[KEY]._asdict() == {
        "run": f"{teacher.parent.name}/{teacher.name}",
        "path": str(teacher),
        "which": 32,
        "checkpoint": 32,
        "weights": "raw",
        "digest": other.digest,
    }
    assert fingerprint(teacher / "checkpoints" / "000000000032") == before
    components = build(run.config, run=run.path)
    model, own = components.model, components.pretrained[KEY].model
    assert {name.partition(".")[0] for name in model.state_dict()} == {"net"}
    assert not {*map(id, own.parameters())} & {*map(id, model.players()["net"])}
    assert not any(p.requires_grad for p in own.parameters()) and not own.training
    assert own.weights == "raw" and own.drawn_from(own.net) is own.net
    loaded = genlab.load(teacher, checkpoint=32).model
    for name, tensor in own.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name])


def test_it_stays_at_the_checkpoint_it_began_with(toy, teacher, tmp_path):
    parent = tmp_path / teacher.parent.name / teacher.name
    shutil.copytree(teacher, parent)
    late = parent / "checkpoints" / "000000000064"
    shutil.move(late, tmp_path / "later")
    shutil.rmtree(parent / "checkpoints" / "pins", ignore_errors=True)
    config = student(str(parent), tmp_path, **{"schedule.images": 32})
    before, run = digest(config), started(config)
    train_run(run.path)
    assert read_parents(run.path)[KEY].checkpoint == 48
    shutil.move(tmp_path / "later", late)  # the teacher goes on
    assert digest(config) == before
    assert build(run.config, run=run.path).pretrained[KEY].checkpoint.images == 48
    assert build(run.config).pretrained[KEY].checkpoint.images == 64
    for name in Checkpoints(parent / "checkpoints").names():
        Checkpoints(parent / "checkpoints")._delete(name)
    assert Checkpoints(parent / "checkpoints").names() == ["000000000048"]
    # another checkpoint is another teacher: the first is let go
    changed = copy.deepcopy(run.config)
    changed["model"]["teacher"] = str(teacher)
    pin(build(changed, run=run.path).pretrained, run.path)
    assert not list((parent / "checkpoints" / "pins").iterdir())
    assert read_parents(run.path)[KEY].path == str(teacher)


def test_one_that_has_moved_is_found_by_its_name(toy, teacher, tmp_path):
    places = [tmp_path / place / teacher.parent.name / teacher.name for place in "abc"]
    shutil.copytree(teacher, places[0])
    run = started(student(str(places[0]), tmp_path / "b"))
    train_run(run.path)
    places[1].parent.mkdir(exist_ok=True)
    places[0].rename(places[1])  # where its student is
    found = build(run.config, run=run.path)
    assert found.pretrained[KEY].run.path == places[1]
    typed = student(str(places[1]), tmp_path / "b")
    assert digest(typed) == digest(run.config), "its place does not count"
    pin(found.pretrained, run.path)
    assert read_parents(run.path)[KEY].path == str(places[1])
    (places[1] / "checkpoints" / "000000000064" / "manifest.json").write_text("{}")
    with pytest.raises(CheckpointError):
        build(run.config, run=run.path)
    places[2].parent.mkdir(parents=True)
    places[1].rename(places[2])  # nobody knows where
    with pytest.raises(ConfigError, match=rf"{KEY}: the run .*{teacher.name} is not there"):
        build(run.config, run=run.path)


def test_other_weights_in_its_place_are_refused(toy, teacher, tmp_path):
    parent = tmp_path / teacher.parent.name / teacher.name
    shutil.copytree(teacher, parent)
    run = started(student(str(parent), tmp_path, **{"schedule.images": 16}))
    train_run(run.path)
    checkpoints = parent / "checkpoints"
    shutil.rmtree(checkpoints / "000000000064")
    (checkpoints / "000000000048").rename(checkpoints / "000000000064")
    with pytest.raises(CheckpointError, match="is not the checkpoint that this run began with"):
        build(run.config, run=run.path)


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"data.size": 16}, "trained on images of 16x16 pixels, this model of 8x8"),
        (
            {"codec": "dequantize"},
            "trained with codec.name=dequantize, this model with codec.name=pixels",
        ),
        ({"model.classes": 12}, "trained with 12 classes, this model with 10"),
    ],
)
def test_a_wrong_one_is_refused_with_one_sentence(toy, tmp_path_factory, keys, reason):
    other = trained(tmp_path_factory, "flow_matching", **{**keys, "schedule.images": 8})
    with pytest.raises(ConfigError, match=rf"^{KEY}=flow_matching-digits/.*{reason}") as caught:
        build(student(str(other), other.parent.parent), meta=True)
    assert len(caught.value.problems) == 1


def test_what_a_config_may_say_is_checked_before_anything_is_imported(toy, tmp_path):
    config = student("a3f9c1", tmp_path)
    for wrong in ({"run": 3}, {"run": "a", "weights": 0.1}, {"checkpoint": "latest"}, 7):
        config["model"]["teacher"] = wrong
        (problem,) = validate(config)
        assert problem.startswith(f"{KEY} must be a run, by path or id, or {{run: ...")


def test_a_run_that_is_named_executes_nothing_from_outside_genlab(toy, teacher, tmp_path, capsys):
    """One's own words are trusted, not the config of a run that they name."""
    foreign = tmp_path / teacher.parent.name / teacher.name
    shutil.copytree(teacher, foreign)
    config = copy.deepcopy(Run(foreign).config)
    config["optimizer"] = {"name": "toy_foreign:Optimizer", "players": {}}
    text = "raise SystemExit('executed')"
    (toy / "toy_foreign.py").write_text(f"class Optimizer:\n    def __init__(self): ...\n{text}\n")
    Run(foreign).rewrite_config(config, [])
    (foreign / "config.hmac").unlink()  # it was made elsewhere
    own = small("flow_matching", "digits", guidance="autoguidance", outputs=str(tmp_path / "o"))
    own["guidance"]["run"] = str(foreign)
    for keys in ({}, {"meta": True}):
        with pytest.raises(
            Refused, match=rf"guidance.run=.*toy_foreign:Optimizer.*trust=\[{foreign}\]"
        ):
            build(own, trust=True, **keys)
    words = ["train", "model=flow_matching", "data=digits", "guidance=autoguidance"]
    words += [f"guidance.run={foreign}", f"outputs={tmp_path / 'o'}", "network=unet_small"]
    assert main(words) == Refused.code
    assert "read that code" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
    with pytest.raises(SystemExit, match="executed"):
        build(own, trust_runs=[str(foreign)])
    with pytest.raises(Refused):
        genlab.load(teacher, overrides=["guidance=autoguidance", f"guidance.run={foreign}"])


def test_a_run_of_an_earlier_version_is_found_by_its_command(teacher, tmp_path, capsys):
    """Its name has the hash of the path of the run that it named."""
    words = ["model=flow_matching", "data=digits", "network=unet_small", "schedule.images=8"]
    words += ["network.net.width=8", "network.net.mults=[1]", "network.net.attention=[]"]
    words += ["guidance=autoguidance", f"guidance.run={teacher}", f"outputs={tmp_path}"]
    words += ["schedule.batch=8", "schedule.warmup=0", "hardware=cpu", "every.sample=1e9"]
    config = compose(words)
    old = Run.create(config, digest(config, places=True), [], {})
    assert old.id != digest(config)
    old.status = "done"
    assert main(["train", *words]) == 0
    assert "this run is done" in capsys.readouterr().out


def test_every_run_that_draws_is_in_the_record_and_tells_streams_apart(
    tmp_path, tmp_path_factory, monkeypatch, teacher
):
    """A number must not stand for samples that another checkpoint of a named run has drawn."""
    (tmp_path / "toy_partner.py").write_text(PARTNER)
    monkeypatch.syspath_prepend(str(tmp_path))
    run = trained(tmp_path_factory, "flow_matching", seed=3)
    other = tmp_path / teacher.parent.name / teacher.name
    shutil.copytree(teacher, other)
    text = (run / "config.yaml").read_text()
    node = f"guidance:\n  name: toy_partner:Partner\n  other: {other}\n"
    (run / "config.yaml").write_text(re.sub(r"guidance:\n(  .*\n)+", node, text))

    def loaded() -> ModelOutputs:
        return ModelOutputs(genlab.load(run, trust=True), 8, 0)

    before = loaded()
    record = before.pipeline.record()["runs"]["guidance.other"]
    assert record["checkpoint"] == 64 and record == before.description["runs"]["guidance.other"]
    assert before.description["evaluations"] == 6  # three of Heun's two steps, for each of the two
    shutil.rmtree(other / "checkpoints" / f"{64:012d}")
    after = loaded()
    assert after.pipeline.record()["runs"]["guidance.other"]["checkpoint"] == 48
    assert after.digest() != before.digest()
    with pytest.raises(ConfigError, match="guides it nowhere: name another run, or another"):
        text = (run / "config.yaml").read_text()
        (run / "config.yaml").write_text(text.replace(str(other), str(run)))
        genlab.load(run, trust=True).sample(1)
