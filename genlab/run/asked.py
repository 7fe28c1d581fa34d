"""What the words of `sample` and `eval`, a config and the names of files alone show to be wrong.

Said before torch is imported, which takes many times as long; whoever does the work asks again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from genlab.config.compose import compose, split_options
from genlab.config.keys import KEYS
from genlab.core.errors import CheckpointError, ConfigError, DeviceError
from genlab.core.schema import WEIGHTS, coerce
from genlab.features.missing import missing_weights
from genlab.run.directory import Run, find_run, resume_command

__all__ = ["check_asked", "check_features", "no_averages", "no_checkpoint"]


def check_asked(words: Sequence[str], primary: str) -> None:
    """Raises what `genlab sample` or `eval`, as primary says, would raise later."""
    _, rest = split_options(words)
    known = {*KEYS[primary], "metric", "features"} if primary == "eval" else {*KEYS[primary]}
    own = [w for w in rest if w.lstrip("+~").partition("=")[0].partition(".")[0] in known]
    asked = compose(own, primary=primary)
    if asked.get("metric"):
        check_features(asked["features"])
    of_images = any(
        w.startswith("data=") for w in rest
    )  # or that word is wrong, which comes first
    if asked.get("fake") is not None or of_images:
        return
    run = find_run(str(asked["run"]), asked["outputs"])
    kept = any((run.path / "checkpoints").glob("[0-9]*/manifest.json"))
    if asked["run"] == "latest":  # another one may be taken, which does
        return
    if not kept:
        raise CheckpointError(no_checkpoint(run))
    model = run.config["model"]
    weights = coerce(asked["weights"], WEIGHTS)
    if not isinstance(weights, str) and not _keeps_averages(model.get("ema")):
        raise ConfigError(no_averages(weights))


def check_features(node: Mapping[str, Any]) -> None:
    """DeviceError where the chosen feature network lacks its weights."""
    if why := missing_weights(node):
        raise DeviceError(why)


def _keeps_averages(ema: Any) -> bool:
    """Whether a run keeps power-function averages, by its model.ema."""
    return isinstance(ema, Mapping) and bool(ema.get("std"))


def no_checkpoint(run: Run) -> str:
    """The sentence about a run that has none."""
    return f"{run.path} has no checkpoint yet; train it with {resume_command(run)}"


def no_averages(std: float) -> str:
    """The sentence about weights that a run does not keep."""
    return (
        f"weights={std:g} needs a run that keeps power-function averages, and this one "
        "does not: train with 'model.ema={std: [0.05,0.1]}', or use weights=ema or raw"
    )
