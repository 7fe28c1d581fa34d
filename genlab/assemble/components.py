"""The only file that wires components together."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from genlab.assemble.bound_sampler import PathSampler
from genlab.assemble.compatibility import check_base, check_classes, check_compatibility
from genlab.assemble.pretrained import Reference
from genlab.config import compose as cfg
from genlab.core import registry, schema
from genlab.core.contract import (
    Codec,
    Dataset,
    Denoises,
    Generates,
    HasLikelihood,
    Model,
    Network,
    Noise,
    Optimizer,
    Process,
    Reconstructs,
    Schedule,
    Spec,
)
from genlab.core.errors import ConfigError
from genlab.core.random import SampleNoise, hash64
from genlab.hardware.hardware import Hardware
from genlab.run.averages import Rebuilt

__all__ = ["Built", "build", "make_optimizers"]

INIT = 4  # keeps the seed of the starting weights apart from those of the stream


@dataclass
class Built:
    """Everything a config names, constructed."""

    hardware: Hardware
    data: Dataset
    codec: Codec
    spec: Spec  # of model space, with the classes the model uses
    model: Model
    solver: PathSampler
    schedule: Schedule
    rebuild: Callable[[float], Rebuilt] | None = None  # of a run: makes the average of a std
    reference: Reference | None = None  # a run that guidance compares the model with
    folder: Path | None = None  # of the checkpoint of a run

    @property
    def canvas(self) -> tuple[int, ...]:
        """Shape of what is drawn: that of the data unless guidance draws at another size."""
        factor = self.solver.guidance.factor if self.solver.guidance else 1
        channels, *sides = self.spec.shape
        return (channels, *(factor * side for side in sides))

    def start(self, noise: Noise) -> Tensor:
        """[n, *Z] where sampling starts."""
        assert isinstance(self.model, Generates)
        resized = self.canvas != self.spec.shape  # the prior of a path is standard normal
        z = noise.normal(*self.canvas) if resized else self.model.prior(noise)
        return z * self.solver.temperature

    @torch.inference_mode()
    def draw(
        self,
        y: Sequence[int] | None,
        seed: int,
        indices: Sequence[int],
        weights: str | float = "ema",
    ) -> Tensor:
        """Samples as stored data, on the CPU: uint8 [n, C, H, W] or float points [n, 2].

        y: a label for each; indices: which of the endless samples of `seed` to draw.
        """
        noise = SampleNoise(seed, indices, self.hardware.device)
        labels = None if y is None else torch.tensor(y, device=self.hardware.device)
        assert isinstance(self.model, Generates)
        with self.viewed(weights), self.hardware.autocast():
            x = self.model.transport(self.start(noise), labels, noise, self.solver)
        return self.codec.decode(x.float()).cpu()

    @torch.inference_mode()
    def reconstruct(self, u: Tensor, weights: str | float = "ema") -> tuple[Tensor, Tensor]:
        """u uint8 [n, C, H, W] -> (codes [n, ...], uint8 [n, C, H, W] decoded), on the CPU."""
        assert isinstance(self.model, Reconstructs)
        with self.viewed(weights), self.hardware.autocast():
            codes = self.model.encode(self.codec.encode(u.to(self.hardware.device), None))
            x = self.model.decode(codes)
        return codes.cpu(), self.codec.decode(x.float()).cpu()

    @torch.inference_mode()
    def bits(
        self,
        u: Tensor,
        y: Tensor | None,
        seed: int,
        indices: Sequence[int],
        weights: str | float = "ema",
    ) -> Tensor:
        """u [n, *S] stored data -> [n] float64 bits per dimension of them, on the CPU.

        -(log p(x) + log |dx/du|) / (D ln 2), with noise of the codec from (seed, index). Where
        the model is of the bytes themselves there is no log |dx/du|.
        """
        assert isinstance(self.model, HasLikelihood)
        noise = SampleNoise(seed, indices, self.hardware.device)
        labels = None if y is None else y.to(self.hardware.device)
        x = self.codec.encode(u.to(self.hardware.device), noise)
        with self.viewed(weights), self.hardware.autocast():
            nats = self.model.log_prob(x, labels, noise).double()
        if not self.model.discrete_likelihood:
            inside = self.codec.logdet(x)
            assert inside is not None
            nats += inside.double()
        return (nats / (-math.log(2) * x[0].numel())).cpu()

    def viewed(self, weights: str | float) -> _Viewed:
        """The model in evaluation mode with these weights, and as it was afterwards.

        weights: "ema", "raw", or the relative std of an average that is made of kept ones.
        """
        self.rebuilt(weights)
        return _Viewed(self.model, weights)

    def rebuilt(self, weights: str | float) -> Rebuilt | None:
        """What the average of a relative std is made of; None for "ema" and "raw".

        Raises ConfigError for other weights, for those that guidance compares the model with and
        where there is no such average, CheckpointError where those that were kept do not make it.
        """
        try:
            weights = schema.coerce(weights, schema.WEIGHTS)
        except ValueError as e:
            raise ConfigError(f"weights must be {e}, not {weights!r}") from None
        other = self.reference
        if other and self.folder and other.is_of(self.folder) and other.weights == weights:
            raise ConfigError(
                f"{other.key} is this run at this checkpoint with these weights, and guides it "
                "nowhere: name another run, or guidance.checkpoint=<images it had seen>"
            )
        if isinstance(weights, str):
            return None
        if self.rebuild is None:
            raise ConfigError(f"weights={weights:g} is of a trained run, not of a fresh model")
        return self.rebuild(weights)


class _Viewed:
    def __init__(self, model: Model, weights: str | float) -> None:
        self.model, self.weights = model, weights

    def __enter__(self) -> None:
        self.before = (self.model.training, self.model.weights)
        self.model.eval()
        self.model.weights = self.weights

    def __exit__(self, *exc: object) -> None:
        self.model.train(self.before[0])
        self.model.weights = self.before[1]


def build(config: Mapping[str, Any], *, trust: bool = True, meta: bool = False) -> Built:
    """Constructs every component of a resolved config.

    meta: weights without storage, to find every problem of a training at no cost. Raises
    ConfigError with all problems at once; DataError and DeviceError as they come.
    """
    problems: list[str] = []

    def make(group: str, node: Mapping[str, Any], key: str | None = None, **given: Any) -> Any:
        if node.get("name") is None:
            return None
        try:
            made = registry.build(group, node, key, trust, **given)
        except ConfigError as e:
            problems.extend(e.problems)
            return None
        problems.extend(wrong := check_base(group, node["name"], made))
        return None if wrong else made

    hardware: Hardware = make("hardware", config["hardware"])
    data: Dataset = make("data", config["data"], root=config["data"].get("root"))
    schedule: Schedule = make("schedule", config["schedule"])
    codec = make("codec", config["codec"], spec=data.spec) if data else None
    if problems or codec is None:
        raise ConfigError(*problems)
    if schedule.batch > data.count:
        problems.append(
            f"schedule.batch={schedule.batch} is more than the {data.count} training data; "
            f"use schedule.batch={data.count} or less"
        )
    try:
        hardware.accumulation(schedule.batch)
    except ValueError as e:
        problems.append(str(e))
    classes, wrong = check_classes(config["model"]["classes"], data)
    problems += wrong
    spec = replace(codec.spec, classes=classes)
    process = make("process", config["process"], spec=spec)
    sampler = make("sampler", config["sampler"], spec=spec)
    through = _through(config["sampler"], make, spec)
    references: list[Reference] = []

    def reference(*asked: Any) -> Reference:
        references.append(Reference(config, data, spec, _model, trust, *asked))
        return references[0]

    guidance = make("guidance", config["guidance"], reference=reference)
    torch.default_generator.manual_seed(hash64(config["seed"], INIT))
    with torch.device("meta" if meta else "cpu"):
        networks = {
            role: make("network", node, f"network.{role}", spec=spec)
            for role, node in config["network"].items()
        }
        if None in networks.values():
            raise ConfigError(*problems)
        given = {"spec": spec, "process": process, "codec": codec, **networks}
        astray = process is None and config["process"]["name"] is not None  # its problem is told
        model: Model | None = None if astray else make("model", config["model"], **given)
    if model is not None:
        try:
            # player names and values, before anything is made
            make_optimizers(config, model, trust)
        except ConfigError as e:
            problems.extend(e.problems)
    if None in (model, sampler):
        raise ConfigError(*problems)
    path = model.process if isinstance(model, Denoises) else None
    solver = PathSampler(sampler, guidance, path, through)
    problems += check_compatibility(config, model, networks, solver, spec)
    if problems:
        raise ConfigError(*problems)
    for other in references:
        other.count = solver.count
    if meta:
        hardware.check_training(model)
    else:
        hardware.place(model)
        if hardware.compile:
            _compile(model, networks)
    return Built(
        hardware,
        data,
        codec,
        spec,
        model,
        solver,
        schedule,
        reference=next(iter(references), None),
    )


def _through(
    sampler: Mapping[str, Any], make: Callable[..., Process | None], spec: Spec
) -> Process | None:
    """The path a sampler follows instead of the one of training."""
    name = sampler.get("through")
    if name is None:
        return None
    paths = [n for n in registry.names("process") if n != "none"]
    if name not in paths:
        raise ConfigError(f"sampler.through: {registry.unknown('process', name, paths)}")
    node = OmegaConf.to_container(cfg.member("process", name))
    return make("process", node, "sampler.through", spec=spec)


def _model(config: Mapping[str, Any], trust: bool) -> Model:
    """The model of a config, as a reference wants it."""
    return build(config, trust=trust).model


def _compile(model: Model, networks: Mapping[str, Network]) -> None:
    """Compiles the regions a network names, or all of it; never a network differentiated twice."""
    if model.double_backward:
        return
    for network in networks.values():
        for region in network.compiled_regions():
            region.compile()


def make_optimizers(
    config: Mapping[str, Any], model: Model, trust: bool = True
) -> dict[str, Optimizer]:
    """One optimizer a player; `optimizer.players.<player>` overrides keys for one alone."""
    node = dict(config["optimizer"])
    own = node.pop("players", None) or {}
    players = model.players()
    problems = [
        f"optimizer.players.{p}: the players of {config['model']['name']!r} are "
        f"{', '.join(players)}"
        for p in own
        if p not in players
    ]
    out = {}
    for name, params in players.items():
        try:
            merged = {**node, **own.get(name, {})}
            key = f"optimizer.players.{name}" if name in own else "optimizer"
            out[name] = registry.build("optimizer", merged, key, trust, params=params)
            problems += check_base("optimizer", merged["name"], out[name])
        except ConfigError as e:
            problems += [p for p in e.problems if p not in problems]
    if problems:
        raise ConfigError(*problems)
    return out
