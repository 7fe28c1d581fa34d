"""What the tests share: one thread, and runs small enough to train in a test."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from genlab import config as cfg
from genlab.registry import ROOMS
from genlab.run.directory import Run

Config = dict[str, Any]

SMALL = {
    "width": 8,
    "mults": [1, 2],
    "blocks": 1,
    "attention": [4],
    "head_width": 8,
    "embedding": 8,
    "depth": 1,
    "z_dim": 4,
}
"""Size keys of networks; a network gets those it has."""

QUICK = {
    "schedule.images": 64,
    "schedule.batch": 8,
    "hardware.threads": 1,
    "hardware.precision": "fp32",
    "hardware.device": "cpu",
    "every.sample": 10**9,
    "every.eval": 10**9,
}

CLOCKS = ("seconds", "images_per_second", "memory")
"""What a journal says about the machine rather than about the model."""


@pytest.fixture(autouse=True)
def alike() -> None:
    """One thread, whose sums are not those of two, and weights that no earlier test changes."""
    torch.set_num_threads(1)
    torch.manual_seed(0)


@lru_cache
def _composed(words: tuple[str, ...]) -> Config:
    return cfg.compose(words)[0]


def small(model: str, data: str, **overrides: Any) -> Config:
    """A checked config of `model` on `data` with the smallest networks.

    overrides: dotted keys of the config, e.g. **{"schedule.images": 128}, or a room's member.
    """
    words = [f"experiment=toy/{model}"] if data == "toy" else [f"model={model}", f"data={data}"]
    members = {"schedule": "constant"} | {k: overrides.pop(k) for k in ROOMS if k in overrides}
    words += [f"{room}={member}" for room, member in members.items()]
    config = copy.deepcopy(_composed(tuple(words)))
    for network in config["network"].values():
        network.update({k: v for k, v in SMALL.items() if k in network})
    if "steps" in config["sampler"]:
        config["sampler"]["steps"] = 2
    for key, value in {**QUICK, **overrides}.items():
        *parents, leaf = key.split(".")
        node = config
        for parent in parents:
            node = node[parent]
        node[leaf] = value
    assert cfg.validate(config) == []
    return config


@pytest.fixture
def tiny(tmp_path: Path) -> Callable[..., Config]:
    """tiny(model, data="digits", **overrides) -> config whose runs go to tmp_path."""

    def make(model: str, data: str = "digits", **overrides: Any) -> Config:
        return small(model, data, **{"outputs": str(tmp_path), **overrides})

    return make


def started(config: Config) -> Run:
    """A run directory of a config, before its first step."""
    return Run.create(config, cfg.digest(config), [], {})


def fingerprint(folder: Path) -> dict[str, str]:
    """SHA-256 of what a checkpoint says: every tensor with its name, and the state."""
    from safetensors import safe_open

    found = {"state": (folder / "state.json").read_text(encoding="utf-8")}
    for name in ("model", "optimizer"):
        with safe_open(folder / f"{name}.safetensors", "pt") as f:
            for key in f.keys():
                t = f.get_tensor(key)
                raw = t.contiguous().view(torch.uint8).numpy().tobytes() if t.dim() else b""
                raw = raw or t.reshape(1).view(torch.uint8).numpy().tobytes()
                text = f"{t.dtype} {tuple(t.shape)} ".encode() + raw
                found[f"{name}/{key}"] = hashlib.sha256(text).hexdigest()
    return found


def journal(run: Run) -> list[dict[str, float]]:
    """The journal of a run without what the machine was doing."""
    text = (run.path / "metrics.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(row) for row in text.splitlines()]
    return [{k: v for k, v in line.items() if k not in CLOCKS} for line in lines]


def trained(
    tmp_path_factory: pytest.TempPathFactory, model: str, data: str = "digits", **keys: Any
) -> Path:
    """The directory of a finished tiny run in a folder of its own."""
    from genlab.worker import work

    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp(model)
    run = started(small(model, outputs=str(root), data=data, **keys))
    work(run.path)
    return run.path


@pytest.fixture(scope="session")
def gan(tmp_path_factory):
    """A finished tiny run; tests add evaluations to it."""
    return trained(tmp_path_factory, "gan")


@pytest.fixture(scope="session")
def glow(tmp_path_factory):
    return trained(tmp_path_factory, "glow", **{"network.net.levels": 1, "network.net.depth": 1})


@pytest.fixture(scope="session")
def vqvae(tmp_path_factory):
    return trained(tmp_path_factory, "vqvae")


@pytest.fixture
def digits():
    from sklearn.datasets import load_digits

    return (load_digits().images * 255 / 16).round().astype(np.uint8)
