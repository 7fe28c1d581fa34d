"""From components to what trains them: the stream, the trainer, the tracker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from genlab.assemble.components import Components, make_optimizers
from genlab.core import dist, registry
from genlab.core.contract import Split
from genlab.core.errors import ConfigError
from genlab.run.track import Tracker
from genlab.training.stream import Stream
from genlab.training.trainer import Trainer

__all__ = ["make_tracker", "make_trainer"]


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


def make_tracker(config: Mapping[str, Any], trust: bool = True) -> Tracker | None:
    """The tracker of a config, None for none; DeviceError when its package is not installed."""
    node = config["track"]
    return None if node["name"] is None else registry.build("track", node, trust=trust)
