"""Tiny models on digits and their trainers, a few steps at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from genlab.assemble.components import Components, build
from genlab.core import dist
from genlab.run.tensors import model_tensors
from genlab.training.setup import make_trainer
from genlab.training.trainer import Trainer
from tests.helpers.configs import composed
from tests.helpers.ranks import two_forked

SMALL = {"width": 8, "embedding": 16, "head_width": 8, "depth": 1, "z_dim": 8, "dropout": 0.0}
"""Keys of networks by which any of them becomes tiny."""

BATCH = 8


def tiny_config(model: str, *overrides: str) -> dict[str, Any]:
    """The model on digits with small networks, fp32, one thread."""
    words = [f"model={model}", f"schedule.batch={BATCH}", "schedule.images=1000", "hardware=cpu"]
    words += ["hardware.precision=fp32", "hardware.threads=1", "optimizer.lr=1e-3", *overrides]
    config = composed(" ".join(words))
    given = {word.partition("=")[0] for word in overrides}
    for role, network in config["network"].items():
        keys = [k for k in SMALL if k in network and f"network.{role}.{k}" not in given]
        network.update({k: SMALL[k] for k in keys})
    return config


def make(config: dict[str, Any]) -> tuple[Components, Trainer]:
    """(built, trainer) as a training makes them."""
    built = build(config)
    return built, make_trainer(built, built.data.load("train"))


def run(config: dict[str, Any], steps: int) -> tuple[Components, Trainer]:
    """(built, trainer) after some steps."""
    built, trainer = make(config)
    for _ in range(steps):
        trainer.one_step()
    return built, trainer


def largest_difference(a: nn.Module, b: nn.Module) -> float:
    """Between two models of one kind, over every tensor that is saved."""
    x, y = model_tensors(a), model_tensors(b)
    assert x.keys() == y.keys()
    return max(float((x[k].double() - y[k].double()).abs().max()) for k in x if x[k].numel())


def two_ranks(config: dict[str, Any], steps: int, folder: Path) -> list[Path]:
    """Trains on two forked gloo ranks; the files with their weights."""
    files = [folder / f"rank{rank}" for rank in range(2)]

    def train(rank: int) -> None:
        dist.start(torch.device("cpu"))
        built, _ = run(config, steps)
        save_file(model_tensors(built.model), files[rank])

    two_forked(train, folder)
    return files


def curve(model: str, steps: int = 20) -> dict[str, list[float]]:
    """Losses of the first steps, a list a player."""
    _, trainer = run(tiny_config(model), steps)
    return {n: v for n, v in trainer.peek().items() if n.startswith("loss/")}
