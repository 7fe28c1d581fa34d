"""What guidance asks of a model, and of the other run it compares the model with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from genlab.core import registry
from genlab.core.console import log
from genlab.core.contract import Dataset, Denoiser, Denoises, Model, Process, Spec
from genlab.core.errors import CheckpointError, ConfigError
from genlab.core.gaussian_path import change_path
from genlab.run.checkpoint import Checkpoint, Checkpoints
from genlab.run.directory import find_run

__all__ = ["Reference"]

INDIFFERENT = ("root", "flip", "download", "corrupt")
"""Keys of data that two runs may differ in and still have learned the same set."""


class Reference:
    """The denoiser of a checkpoint of another run.

    Its config is read at once, its weights when it first denoises: a training that is
    guided by it can be checked, and reaches its first sample grid, without them.

    count: called with every evaluation of its network.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        data: Dataset,
        spec: Spec,
        builder: Callable[[Mapping[str, Any], bool], Model],
        trust: bool,
        run: str,
        checkpoint: str | int,
        weights: str,
    ) -> None:
        """config, data, spec: of the model that is guided; builder: (config, trust) -> its model;
        trust: as in `registry.find`.

        Raises ConfigError where the reference cannot serve it, CheckpointError where it has no
        such checkpoint.
        """
        self.key, self.weights = f"guidance.run={run}", weights
        self.builder, self.trust = builder, trust
        self.spec, self.run = spec, find_run(run, config["outputs"])
        # of the reference itself only the data, the codec, the path and the networks are of use
        self.config = self.run.config | {"guidance": {"name": None}}
        self.config |= {group: config[group] for group in ("hardware", "sampler", "schedule")}
        self.config["data"] = self.config["data"] | {"root": config["data"].get("root")}
        asked = self.config["model"]["classes"]
        self.classes = {"auto": data.spec.classes, "none": None}.get(asked, asked)
        if problems := self._apart(config, data, spec):
            raise ConfigError(*(f"{self.key}: {p}" for p in problems))
        found = Checkpoints(self.run.path / "checkpoints").find(checkpoint)
        if found is None:
            raise CheckpointError(f"{self.key}: {self.run.path} has no checkpoint yet")
        self.checkpoint = found
        self.model: Denoises | None = None
        self.count: Callable[[int], None] = lambda rows: None

    def _apart(self, config: Mapping[str, Any], data: Dataset, spec: Spec) -> list[str]:
        """What keeps the two from being compared, as sentences."""
        name = self.config["model"]["name"]
        if self.config["process"]["name"] is None:
            return [f"model {name!r} has no path to guide along; name a run of one that has"]
        problems = []
        for group in ("data", "codec"):
            own, other = config[group], self.config[group]
            differ = [
                key
                for key in sorted((own.keys() | other.keys()) - set(INDIFFERENT))
                if own.get(key) != other.get(key)
            ]
            if differ == ["size"]:
                there, here = (_size(data.spec) for data in (self._data(), data))
                problems.append(
                    f"it was trained on images of {there} pixels, this model of {here}"
                )
            elif differ:
                differ = ["name"] if "name" in differ else differ
                there, here = (
                    ", ".join(f"{group}.{k}={node[k]}" for k in differ if node.get(k) is not None)
                    for node in (other, own)
                )
                apart = f"{there or 'the default'}, this model with {here or 'the default'}"
                problems.append(f"it was trained with {apart}")
        if not problems and self.classes not in (None, spec.classes):
            problems.append(
                f"it was trained with {self.classes} classes, this model with "
                f"{'none' if spec.classes is None else spec.classes}"
            )
        return problems

    def _data(self) -> Dataset:
        node = self.config["data"]
        data: Dataset = registry.build("data", node, root=node["root"])
        return data

    def is_of(self, checkpoint: Checkpoint) -> bool:
        """Whether this is a checkpoint."""
        return self.checkpoint.folder.resolve() == checkpoint.folder.resolve()

    def record(self) -> dict[str, Any]:
        """What tells this reference from every other one."""
        return {
            "run": self.run.title,
            "checkpoint": self.checkpoint.images,
            "weights": self.weights,
            "digest": self.checkpoint.digest,
        }

    def __call__(self, process: Process) -> Denoiser:
        """Its denoiser on `process`, whatever the path it was trained on."""
        if self.model is None and self.spec.classes and not self.classes:
            log(f"{self.key} was trained without labels, so it is given none")
        model = self.model = self.model or self._read()

        def denoise(x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
            self.count(len(x))
            return model.denoise(x, t, y if self.classes else None)

        return change_path(denoise, model.process, process)

    def _read(self) -> Denoises:
        with torch.inference_mode(False), torch.random.fork_rng(devices=[]):
            model = self.builder(self.config, self.trust)
        self.checkpoint.load(model)
        assert isinstance(model, Denoises)
        model.eval()
        model.weights = self.weights
        return model


def _size(spec: Spec) -> str:
    return "x".join(map(str, spec.shape[1:]))
