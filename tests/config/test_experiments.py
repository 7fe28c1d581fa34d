"""Every recipe takes steps: its own config on stored data of its shape, with small networks."""

from __future__ import annotations

import math

import pytest
import torch

from genlab.assemble.components import build
from genlab.config import catalog, overrides
from genlab.config.compose import compose, validate
from genlab.core import registry
from genlab.core.contract import Dataset, Spec
from genlab.network.dit import DiT
from genlab.training.dry_run import fake
from genlab.training.setup import make_trainer
from tests.helpers.runs import SMALL

SHAPES = {
    "digits": ((1, 8, 8), 10),
    "mnist": ((1, 28, 28), 10),
    "fashion_mnist": ((1, 28, 28), 10),
    "cifar10": ((3, 32, 32), 10),
    "celeba": ((3, 64, 64), None),
    "toy": ((2,), 8),
    "folder": ((3, 64, 64), 1000),
}
FEW = {**SMALL, "mults": [1, 2], "codes": 16, "residual": 4, "batch": 4}


def stored(node):
    """A data set of the shape a recipe asks for, without a file."""
    shape, classes = SHAPES[node["name"]]
    if node.get("size"):
        side = min(node["size"], 32)  # as many steps of a network, in less time
        shape = (shape[0], side, side)
    spec = Spec(shape, None if node.get("attribute", "") is None else classes)
    data = Dataset()
    data.spec, data.count, data.flip = spec, 10**6, node.get("flip", False)
    return data


def of_images(experiment):
    """Whether a recipe is of a model of a path and of images."""
    chosen = catalog.chosen("train", overrides.picks([f"experiment={experiment}"]))
    model, data = chosen["model"][0], chosen["data"][0]
    return data != "toy" and "process" in registry.signature("model", model).required


def two_steps(monkeypatch, experiment, *words):
    """Takes two steps of a recipe made small, on data of its shape; the model."""
    if experiment == "cifar10/tong2023":
        pytest.importorskip("torchdiffeq")
    recipe = [f"experiment={experiment}", "hardware=cpu", "hardware.threads=1"]
    config = compose([*recipe, *words])
    assert validate(config) == []
    for node in (*config["network"].values(), config["schedule"]):
        node.update({k: v for k, v in FEW.items() if k in node})
    real = registry.build

    def without_files(group, node, *rest, **given):
        return stored(node) if group == "data" else real(group, node, *rest, **given)

    monkeypatch.setattr(registry, "build", without_files)
    built = build(config)
    trainer = make_trainer(built, fake(built.data, 16))
    players = built.model.players()
    before = {name: [p.detach().clone() for p in ps] for name, ps in players.items()}
    for _ in range(2):
        trainer.one_step()
    assert all(math.isfinite(v) for v in trainer.read().values())
    for name, params in players.items():
        moved = [not torch.equal(p, b) for p, b in zip(params, before[name], strict=True)]
        assert any(moved), f"nothing of player {name} moved"
    return built.model


@pytest.mark.parametrize("experiment", registry.names("experiment"))
def test_two_steps(experiment, monkeypatch):
    two_steps(monkeypatch, experiment)


@pytest.mark.parametrize("experiment", [e for e in registry.names("experiment") if of_images(e)])
def test_two_steps_on_a_transformer(experiment, monkeypatch):
    assert isinstance(two_steps(monkeypatch, experiment, "network=dit_small").net, DiT)
