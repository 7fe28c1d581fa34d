"""Runs small enough to train in a test, and what they left."""

from __future__ import annotations

import copy
import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch

from genlab.config.compose import compose, digest, validate
from genlab.core.registry import GROUPS
from genlab.run.directory import Run

Config = dict[str, Any]

SMALL = {"width": 8, "mults": [1, 2], "blocks": 1, "attention": [4], "head_width": 8,
         "embedding": 8, "depth": 1, "z_dim": 4}  # fmt: skip
"""Size keys of networks; a network gets those it has."""

QUICK = {"schedule.images": 64, "schedule.batch": 8, "hardware.threads": 1,
         "hardware.precision": "fp32", "hardware.device": "cpu", "every.sample": 10**9,
         "every.eval": 10**9}  # fmt: skip

CLOCKS = ("seconds", "images_per_second", "memory")
"""What a journal says about the machine rather than about the model."""


@lru_cache
def _composed(words: tuple[str, ...]) -> Config:
    return compose(words)


def small(model: str, data: str, **overrides: Any) -> Config:
    """A checked config of `model` on `data` with the smallest networks.

    overrides: dotted keys of the config, e.g. **{"schedule.images": 128}, or what a group has.
    """
    words = [f"experiment=toy/{model}"] if data == "toy" else [f"model={model}", f"data={data}"]
    chosen = {"schedule": "constant"} | {k: overrides.pop(k) for k in GROUPS if k in overrides}
    words += [f"{group}={name}" for group, name in chosen.items()]
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
    assert validate(config) == []
    return config


def started(config: Config) -> Run:
    """A run directory of a config, before its first step."""
    return Run.create(config, digest(config), [], {})


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
    from genlab.training.run_loop import train_run

    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp(model)
    run = started(small(model, outputs=str(root), data=data, **keys))
    train_run(run.path)
    return run.path
