"""What `auto` stands for where it is a function of other keys alone: written out in a config.

So the config of a run says what was computed, and a run that is made longer goes on with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from genlab.core import registry, schema

__all__ = ["held_out", "resolve_auto"]

FEWEST, MOST = 64, 1024  # held-out data that a loss is averaged over
PART = 32  # of the images of a run, below that


def resolve_auto(config: Mapping[str, Any]) -> None:
    """Replaces `auto` of model.density and eval.held_out in a checked config of a training."""
    model = config["model"]
    if model.get("density") == "auto":
        if "Density" in registry.signature("model", model["name"]).keys["density"]:
            model["density"] = schema.chosen_density("auto", model["weight"])
    config["eval"]["held_out"] = held_out(config)


def held_out(config: Mapping[str, Any]) -> int:
    """How many held-out data a loss is the mean of: fewer in a short run, by its length alone."""
    asked = config["eval"]["held_out"]
    if asked != "auto":
        return int(asked)
    return min(MOST, max(FEWEST, int(config["schedule"]["images"]) // PART))
