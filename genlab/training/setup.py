"""What a training is made of: everything its config names, made once and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genlab.assemble.components import Components, build, make_optimizers
from genlab.core import dist, registry
from genlab.core.contract import Split
from genlab.core.errors import ConfigError
from genlab.core.memory import memory_advice
from genlab.evaluation.in_training import TrainingMetrics
from genlab.run.checkpoint import Checkpoints
from genlab.run.track import Tracker
from genlab.sampling.pipeline import Pipeline
from genlab.training.init import Initial, find_initial
from genlab.training.stream import Stream
from genlab.training.trainer import Trainer

__all__ = ["Setup", "make_trainer", "set_up"]


@dataclass
class Setup:
    """The parts of a training that a config names, before there is a run directory."""

    components: Components
    pipeline: Pipeline  # of the model as it is trained
    evaluator: TrainingMetrics
    tracker: Tracker | None
    initial: Initial | None  # of a run that has not begun


def set_up(
    config: Mapping[str, Any],
    *,
    trust: bool = True,
    trust_runs: bool = False,
    meta: bool = False,
    run: Path | None = None,
) -> Setup:
    """Makes what a resolved config names, and finds every problem that it has.

    trust, trust_runs, run: as `build` takes them; meta: weights without storage, for a process
    that checks what others will train. Raises a GenlabError.
    """
    with memory_advice(config):
        components = build(config, trust=trust, trust_runs=trust_runs, meta=meta, run=run)
    components.hardware.check_training(components.model)
    node = config["track"]
    tracker = None if node["name"] is None else registry.build("track", node, trust=trust)
    pipeline = Pipeline(components)
    evaluator = TrainingMetrics(pipeline, trust=trust)
    initial = None
    if run is None or not Checkpoints(run / "checkpoints").names():
        outputs = run.parent.parent if run else Path(config["outputs"])
        initial = find_initial(config, components, outputs, trust_runs)
    return Setup(components, pipeline, evaluator, tracker, initial)


def make_trainer(config: Mapping[str, Any], components: Components, data: Split) -> Trainer:
    """The trainer of components on given data (`components.data.load("train")`, as a rule).

    Raises ConfigError for data that would be mirrored without the noise they are paired with.
    """
    hardware, batch = components.hardware, components.schedule.batch
    if data.z is not None and components.data.flip:
        raise ConfigError(
            "data.flip=true mirrors images, but not the noise that these are paired with; use "
            "data.flip=false"
        )
    stream = Stream(
        data if components.spec.classes else data._replace(y=None),
        components.codec,
        seed=config["seed"],
        batch=batch,
        rank=dist.rank(),
        micro=hardware.accumulation(batch),
        flip=components.data.flip,
        device=hardware.device,
        channels_last=hardware.channels_last,
    )
    components.model.train()
    return Trainer(
        components.model,
        make_optimizers(config, components.model),
        stream,
        components.schedule,
        seed=config["seed"],
        autocast=hardware.autocast,
        fp16=hardware.precision == "fp16",
    )
