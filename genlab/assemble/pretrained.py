"""Runs that components name: found, checked, loaded frozen, pinned.

A constructor's key annotated `RunRef` names a run in a config; what the constructor receives is a
`PretrainedRun`, whatever is built and whoever built it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from genlab.core.console import log
from genlab.core.contract import Codec, Dataset, Denoiser, Denoises, Model, Process, RunRef, Spec
from genlab.core.errors import CheckpointError, ConfigError, DiskError, Refused
from genlab.core.gaussian_path import change_path
from genlab.run.checkpoint import Checkpoints
from genlab.run.parents import Parent, find_parent, read_parents, write_parents
from genlab.run.trust import trusted

__all__ = ["PretrainedRun", "pin"]


class RunComponents(Protocol):
    """What a named run needs of the components that its config names."""

    data: Dataset
    codec: Codec
    spec: Spec
    model: Model


class PretrainedRun(RunRef):
    """A run at one of its checkpoints, with one kind of its weights.

    Its components are made at once, so that every problem is found before a training; the weights
    are read when the model is first used. It is no module: what holds it neither trains nor saves
    anything of it.

    key: that names it, dotted. run, checkpoint, weights: which one it is. parent: what the run
    that names it keeps of it. described: its model, whose weights may not have been read; loaded:
    whether they have been. count: called with the rows
    of every evaluation by `denoiser`.
    """

    def __init__(
        self,
        key: str,
        ref: Mapping[str, Any],
        config: Mapping[str, Any],
        outputs: Path,
        build: Callable[..., RunComponents],
        parent: Parent | None,
        meta: bool,
        trust_runs: Sequence[str] = (),
    ) -> None:
        """ref: {run, checkpoint, weights}; config: that names it, whose hardware it uses; outputs:
        where runs are; build: makes components of its config; parent: what the run that names it
        has kept of it, None for a new one; meta, trust_runs: as `build` takes them.

        Raises ConfigError where there is no such run, CheckpointError where it has no such
        checkpoint, Refused where its config asks for code that is not trusted.
        """
        self.key, self.weights = key, ref["weights"]
        self.run = find_parent(key, ref["run"], outputs)
        self.config = self.run.config | {"guidance": {"name": None}}
        self.config |= {group: config[group] for group in ("hardware", "schedule")}
        self.config["data"] = self.config["data"] | {"root": config["data"].get("root")}
        which = ref["checkpoint"]
        if parent and (Path(parent.path).name, parent.which) != (self.run.path.name, which):
            parent = None  # the config names another one by now
        self.checkpoints = Checkpoints(self.run.path / "checkpoints")
        found = self.checkpoints.find(parent.checkpoint if parent else which)
        if found is None:
            raise CheckpointError(f"{self}: {self.run.path} has no checkpoint yet")
        if parent and found.digest != parent.digest:
            raise CheckpointError(
                f"{self}: {found.folder} is not the checkpoint that this run began with, whose "
                f"manifest has the digest {parent.digest}; put that back"
            )
        self.checkpoint = found
        path = str(self.run.path.resolve())
        self.parent = Parent(self.run.title, path, which, found.images, self.weights, found.digest)
        self._build, self._meta, self.loaded = build, meta, False
        self._trust_runs = trust_runs
        components = self._components(meta)
        self.spec, self.codec = components.spec, components.codec
        self._data, self.described = components.data.spec, components.model
        self._said_unlabelled = False
        self.count: Callable[[int], None] = lambda rows: None

    def _components(self, meta: bool) -> RunComponents:
        rng, device = torch.random.fork_rng(devices=[]), torch.device("cpu")
        try:  # inside another build or a drawing, of which nothing is to be noticed
            with torch.inference_mode(False), rng, device:
                return self._build(
                    self.config,
                    run=self.run.path,
                    meta=meta,
                    trust=trusted(self.run.path, self._trust_runs),
                    trust_runs=self._trust_runs,
                )
        except ConfigError as e:
            raise ConfigError(*(f"{self}: {problem}" for problem in e.problems)) from None
        except Refused as e:
            sentence = str(e).replace("trust=true", f"trust=[{self.run.path}]")
            raise Refused(f"{self}: {sentence}") from None

    def __str__(self) -> str:
        return f"{self.key}={self.run.title}"

    @property
    def title(self) -> str:
        """<model>-<data>/<directory>."""
        return self.run.title

    def has(self, capability: type) -> bool:
        """Whether its model is a `Denoises`, a `Reconstructs`, ..."""
        return isinstance(self.described, capability)

    @property
    def model(self) -> Model:
        """Its model on the device: frozen, in evaluation mode, with the weights asked for."""
        if not self.loaded:
            if (
                self._meta
            ):  # even a training that is only checked may have data that are made by it
                self.described = self._components(meta=False).model
            self.checkpoint.load(self.described)
            self.described.requires_grad_(False).eval()
            self.described.weights = self.weights
            self.loaded = True
        return self.described

    def denoiser(self, process: Process) -> Denoiser:
        """Its estimate of x0 on `process`, whatever path it was trained on.

        Labels are left out where it was trained without, which is said once.
        """
        model = self.model
        assert isinstance(model, Denoises)

        def denoise(x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
            self.count(len(x))
            return model.denoise(x, t, None if y is None else self._labels(y))

        return change_path(denoise, model.process, process)

    def _labels(self, y: Tensor) -> Tensor | None:
        if self.spec.classes:
            return y
        if not self._said_unlabelled:
            log(f"{self} was trained without labels, so it is given none")
            self._said_unlabelled = True
        return None

    def differences(self, config: Mapping[str, Any], data: Dataset, spec: Spec) -> list[str]:
        """What keeps it from serving a config with these data and spec, as sentences.

        A codec may name a run with another codec, and data may be made of a run of others.
        """
        group = self.key.partition(".")[0]
        if group == "data":
            return []
        problems = []
        for part in ("data",) if group == "codec" else ("data", "codec"):
            own, other = config[part], self.config[part]
            differ = [
                key
                for key in sorted((own.keys() | other.keys()) - set(data.indifferent))
                if own.get(key) != other.get(key)
            ]
            if len(differ) == 1 and self._data.shape != data.spec.shape:
                there, here = _size(self._data), _size(data.spec)
                problems.append(
                    f"it was trained on images of {there} pixels, this model of {here}"
                )
            elif differ:
                differ = ["name"] if "name" in differ else differ
                there, here = (
                    ", ".join(f"{part}.{k}={node[k]}" for k in differ if node.get(k) is not None)
                    for node in (other, own)
                )
                apart = f"{there or 'the default'}, this model with {here or 'the default'}"
                problems.append(f"it was trained with {apart}")
        if not problems and self.spec.classes not in (None, spec.classes):
            problems.append(
                f"it was trained with {self.spec.classes} classes, this model with "
                f"{'none' if spec.classes is None else spec.classes}"
            )
        return [f"{self}: {p}" for p in problems]

    def record(self) -> dict[str, Any]:
        """What tells it from every other one."""
        fields = self.parent._asdict()
        return {key: fields[key] for key in ("run", "checkpoint", "weights", "digest")}


def pin(pretrained: Mapping[str, PretrainedRun], run: Path) -> None:
    """Writes down the checkpoints that a run directory depends on, and keeps them from deletion.

    A parent that cannot be written to is named, since its checkpoint may then be deleted.
    """
    before, now = read_parents(run), {key: other.parent for key, other in pretrained.items()}
    if now == before:
        return
    for other in pretrained.values():
        try:
            other.checkpoints.pin(other.checkpoint, run.name)
        except DiskError as e:
            log(f"WARNING: {other} may be deleted when its run goes on: {e}")
    kept = {(Path(p.path), p.checkpoint) for p in now.values()}
    for parent in before.values():
        if (Path(parent.path), parent.checkpoint) not in kept:
            Checkpoints(Path(parent.path) / "checkpoints").unpin(parent.checkpoint, run.name)
    write_parents(run, now)


def _size(spec: Spec) -> str:
    return "x".join(map(str, spec.shape[1:]))
