"""From a config to its components: built in order, and handed to each other by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from genlab.assemble.bound_sampler import PathSampler
from genlab.assemble.compatibility import check_classes, check_compatibility
from genlab.assemble.pretrained import PretrainedRun
from genlab.assemble.sizes import nearest_side, size_problem
from genlab.config.compose import config_of
from genlab.core import registry
from genlab.core.contract import (
    Codec,
    Dataset,
    Denoises,
    Guidance,
    Model,
    Network,
    Optimizer,
    Process,
    Sampler,
    Schedule,
    Spec,
)
from genlab.core.errors import ConfigError, MixedSizes
from genlab.core.random import hash64
from genlab.hardware.hardware import Hardware
from genlab.run.parents import read_parents

__all__ = ["Components", "build", "with_other_sampler"]

INIT = 4  # keeps the seed of the starting weights apart from those of the stream
OF_SAMPLING = ("guidance.", "sampler.")  # keys of a run that is drawn with


@dataclass
class Components:
    """Everything a config names, constructed."""

    config: Mapping[str, Any]  # the resolved one they were made from
    hardware: Hardware
    data: Dataset
    codec: Codec
    spec: Spec  # of model space, with the classes the model uses
    model: Model
    sampler: PathSampler
    schedule: Schedule
    optimizers: Mapping[str, Optimizer] = field(default_factory=dict)  # by player
    pretrained: Mapping[str, PretrainedRun] = field(default_factory=dict)  # by the key naming it

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of what is drawn: that of the data unless guidance draws at another size."""
        guidance, (channels, *sides) = self.sampler.guidance, self.spec.shape
        factor = guidance.factor if guidance else 1
        return (channels, *(factor * side for side in sides))


def build(
    config: Mapping[str, Any],
    *,
    trust: bool = True,
    trust_runs: Sequence[str] = (),
    meta: bool = False,
    run: Path | None = None,
) -> Components:
    """Constructs every component of a resolved config.

    trust: whether its out-of-tree names may be imported; trust_runs: paths of runs that it names
    and whose configs may do so too, see run/trust.py. meta: weights without storage, to find every
    problem of a training at no cost. run: the directory whose config it is; the runs that it names
    are then those it began with. Raises ConfigError with all problems at once; DataError,
    DeviceError and CheckpointError as they come.
    """
    parts = _Parts(config, trust, trust_runs, meta, run)
    make, problems = parts.make, parts.problems
    hardware: Hardware = make("hardware", config["hardware"])
    try:
        data: Dataset = make("data", config["data"], root=config["data"].get("root"))
    except MixedSizes as e:
        raise e.named(nearest_side(config, Spec(e.shape, e.classes), trust)) from None
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
    guidance = make("guidance", config["guidance"])
    torch.default_generator.manual_seed(hash64(config["seed"], INIT))
    with torch.device("meta" if meta else "cpu"):
        networks = {
            role: make("network", node, f"network.{role}", spec=spec)
            for role, node in config["network"].items()
        }
        if None in networks.values():
            stored = replace(data.spec, classes=classes)
            why = [p for p in problems if p.startswith("network.")]
            if sentence := size_problem(config, stored, trust, why[0]):
                problems = [p for p in problems if p not in why] + [sentence]
            raise ConfigError(*problems)
        given = {"spec": spec, "process": process, "codec": codec, **networks}
        model: Model | None = None
        if process is not None or config["process"]["name"] is None:  # else it is a problem by now
            model = make("model", config["model"], **given)
    optimizers: dict[str, Optimizer] = {}
    if model is not None:
        try:
            optimizers = _optimizers(config, model, trust)
        except ConfigError as e:
            problems.extend(e.problems)
    if None in (model, sampler):
        raise ConfigError(*problems)
    bound = parts.bind(model, networks, data, spec, sampler, through, guidance)
    if not meta:
        hardware.place(model)
        if hardware.compile:
            _compile(model, networks)
    return Components(
        config, hardware, data, codec, spec, model, bound, schedule, optimizers, parts.pretrained
    )


def with_other_sampler(
    components: Components,
    config: Mapping[str, Any],
    *,
    trust: bool = True,
    trust_runs: Sequence[str] = (),
    run: Path | None = None,
) -> Components:
    """The same model, data and hardware with the sampler and guidance of another config.

    config: resolved, the same otherwise; the rest and the errors as of `build`.
    """
    parts = _Parts(config, trust, trust_runs, False, run)
    model, spec = components.model, components.spec
    sampler = parts.make("sampler", config["sampler"], spec=spec)
    through = _through(config["sampler"], parts.make, spec)
    guidance = parts.make("guidance", config["guidance"])
    if sampler is None or parts.problems:
        raise ConfigError(*parts.problems)
    networks = {role: m for role, m in model.named_children() if isinstance(m, Network)}
    bound = parts.bind(model, networks, components.data, spec, sampler, through, guidance)
    others = {k: v for k, v in components.pretrained.items() if not k.startswith(OF_SAMPLING)}
    pretrained = {**others, **parts.pretrained}
    return replace(components, config=config, sampler=bound, pretrained=pretrained)


class _Parts:
    """What is being made of a config: problems, and runs that it names, as they are met."""

    def __init__(
        self,
        config: Mapping[str, Any],
        trust: bool,
        trust_runs: Sequence[str],
        meta: bool,
        run: Path | None,
    ) -> None:
        self.config, self.trust, self.trust_runs, self.meta = config, trust, trust_runs, meta
        self.problems: list[str] = []
        self.pretrained: dict[str, PretrainedRun] = {}
        self.parents = read_parents(run) if run else {}
        self.outputs = run.parent.parent if run else Path(config["outputs"])

    def make(
        self, group: str, node: Mapping[str, Any], key: str | None = None, **given: Any
    ) -> Any:
        """A component of a node; None where it has none, or is a problem."""
        if node.get("name") is None:
            return None
        runs = {}
        try:
            for name, ref in registry.named_runs(group, node).items():
                where = f"{key or group}.{name}"
                runs[name] = self.pretrained[where] = PretrainedRun(
                    where,
                    ref,
                    self.config,
                    self.outputs,
                    build,
                    self.parents.get(where),
                    self.meta,
                    self.trust_runs,
                )
            return registry.build(group, node, key, self.trust, runs, **given)
        except ConfigError as e:
            self.problems.extend(e.problems)
            return None

    def bind(
        self,
        model: Model,
        networks: Mapping[str, Network],
        data: Dataset,
        spec: Spec,
        sampler: Sampler,
        through: Process | None,
        guidance: Guidance | None,
    ) -> PathSampler:
        """A sampler bound to a model; ConfigError with what does not fit, and all before."""
        path = model.process if isinstance(model, Denoises) else None
        bound = PathSampler(sampler, guidance, path, through)
        self.problems += check_compatibility(self.config, model, networks, bound, spec)
        for key, other in self.pretrained.items():
            self.problems += other.differences(self.config, data, spec)
            if key.startswith(OF_SAMPLING):
                other.count = bound.count
        if self.problems:
            raise ConfigError(*self.problems)
        return bound


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
    node = OmegaConf.to_container(config_of("process", name))
    return make("process", node, "sampler.through", spec=spec)


def _compile(model: Model, networks: Mapping[str, Network]) -> None:
    """Compiles the regions a network names, or all of it; never a network differentiated twice."""
    if model.double_backward:
        return
    for network in networks.values():
        for region in network.compiled_regions():
            region.compile()


def _optimizers(config: Mapping[str, Any], model: Model, trust: bool) -> dict[str, Optimizer]:
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
        except ConfigError as e:
            problems += [p for p in e.problems if p not in problems]
    if problems:
        raise ConfigError(*problems)
    return out
