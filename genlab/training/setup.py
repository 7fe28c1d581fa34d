"""From a built config to what trains it: the stream, the trainer, the tracker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from genlab.assemble.components import Built, make_optimizers
from genlab.core import dist, registry
from genlab.run.track import Tracker
from genlab.training.stream import Stream
from genlab.training.trainer import Trainer

__all__ = ["make_tracker", "make_trainer"]


def make_trainer(
    config: Mapping[str, Any], built: Built, data: Tensor, labels: Tensor | None
) -> Trainer:
    """The trainer of a built config on given data (`built.data.load("train")`, as a rule)."""
    hardware, batch = built.hardware, built.schedule.batch
    stream = Stream(
        data,
        labels if built.spec.classes else None,
        built.codec,
        seed=config["seed"],
        batch=batch,
        rank=dist.rank(),
        micro=hardware.accumulation(batch),
        flip=built.data.flip,
        device=hardware.device,
        channels_last=hardware.channels_last,
    )
    built.model.train()
    return Trainer(
        built.model,
        make_optimizers(config, built.model),
        stream,
        built.schedule,
        seed=config["seed"],
        autocast=hardware.autocast,
        fp16=hardware.precision == "fp16",
    )


def make_tracker(config: Mapping[str, Any], trust: bool = True) -> Tracker | None:
    """The tracker of a config, None for none; DeviceError when its package is not installed."""
    node = config["track"]
    return None if node["name"] is None else registry.build("track", node, trust=trust)
